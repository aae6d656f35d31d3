"""A filesystem for the outputs that differs from the temporary folder's."""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

SHARED = Path("/dev/shm")
SIZE = "1g"
MOUNT = f'mount -t tmpfs -o size={SIZE} soak "$0"'


def on_other_filesystem(command: Sequence[str]) -> int:
    """Run a command with `--place` set to a folder on another filesystem, and return its exit code.

    A tmpfs is mounted in a mount namespace of the command. Where that is not permitted, /dev/shm is used if
    it is another filesystem than the temporary folder's, and the temporary folder otherwise.
    """
    unshare = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        if _works([*unshare, "sh", "-c", MOUNT, folder]):
            shell = [*unshare, "sh", "-c", f'{MOUNT} && exec "$@"', folder]
            return subprocess.run([*shell, *command, "--place", folder], check=False).returncode
        if SHARED.is_dir() and SHARED.stat().st_dev != Path(folder).stat().st_dev:
            with tempfile.TemporaryDirectory(prefix="soak-", dir=SHARED) as shared:
                return subprocess.run([*command, "--place", shared], check=False).returncode
        return subprocess.run([*command, "--place", folder], check=False).returncode


def _works(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def describe_place(place: Path) -> str:
    """One line that names the filesystems of the outputs and of the temporary folder."""
    outputs, temporary = place.stat(), Path(tempfile.gettempdir()).stat()
    apart = "another filesystem than" if outputs.st_dev != temporary.st_dev else "the same filesystem as"
    return f"outputs in {place} ({_kind(place)}), {apart} the temporary folder {tempfile.gettempdir()}"


def _kind(place: Path) -> str:
    """The type of the filesystem of `place`."""
    found = "unknown"
    longest = -1
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mounted, kind, *_ = line.split()
        if place.resolve().is_relative_to(mounted) and len(mounted) >= longest:
            found, longest = kind, len(mounted)
    return found
