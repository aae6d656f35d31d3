"""The plan of a build: its options resolved and checked before anything is captured."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.destination import Destination
from core.engine import Engine, EngineOptions, LocalEngine
from core.errors import InputError
from shards.schema import SCHEMA_VERSION
from shards.source import Source, Unit

MAX_SHARD_MB = 256.0
MAX_SKIPPED_SHARE = 0.1
REMEDY = "run the same command again to resume, with fewer --processes"


@dataclass(frozen=True)
class BuildOptions(EngineOptions):
    """The options of every build.

    Args:
        out: the folder to write, which must not exist; or a URL that the finished folder is moved to (s3://,
            gs://, file://)
        staging: for a URL, the folder to work in, which workers of a cluster have to see as well
        processes: worker processes, 0 to capture in this one; by default one per core, or one per GPU if
            frames are rendered on GPUs
        max_shard_mb: largest size of a shard in MiB
        max_skipped_share: fail if more than this share of the frames is skipped; 0.1 by default, and 1 for a
            user's own photos

    Raises InputError for invalid options.
    """

    out: str
    processes: int | None = None
    max_shard_mb: float = MAX_SHARD_MB
    max_skipped_share: float | None = None
    staging: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        destination, out = self.destination, self.destination.folder
        destination.check_vacant()
        if destination.url is None and (out.exists() or out.is_symlink()):
            raise InputError(f"{out} exists already: choose another --out, or remove it to build again")
        if self.processes is not None and self.processes < 0:
            raise InputError(f"--processes {self.processes}: give 0 or more")
        if self.processes is not None and self.on_ray:
            raise InputError("--processes is for this machine: on a cluster, give --workers")
        if not self.max_shard_mb > 0:
            raise InputError(f"--max_shard_mb {self.max_shard_mb:g}: give more than 0")
        if self.max_skipped_share is not None and not 0 <= self.max_skipped_share <= 1:
            raise InputError(f"--max_skipped_share {self.max_skipped_share:g}: give a share from 0 to 1")
        folder = next(parent for parent in out.absolute().parents if parent.exists())
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise InputError(f"--out {out}: {folder} is not a writable folder")

    @property
    def destination(self) -> Destination:
        """The folder to write, and the URL that it is moved to."""
        return Destination.of(self.out, self.staging)


@dataclass(frozen=True)
class BuildPlan:
    """A build with all options resolved.

    `frames` is the number of frames expected from each of the `units`, which `engine` captures."""

    source: Source
    units: Sequence[Unit]
    frames: tuple[int, ...]
    destination: Destination
    engine: Engine
    max_shard_bytes: int
    max_skipped_share: float

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings that the shards depend on. An interrupted build is resumed only by the same recipe."""
        return {
            "source": self.source.name,
            "settings": self.source.settings,
            "schema_version": SCHEMA_VERSION,
        }


def plan_build(source: Source, options: BuildOptions) -> BuildPlan:
    """Resolve options that depend on the source. Raises InputError if there is nothing to capture."""
    units = source.units()
    if not units:
        raise InputError(f"{source.name} has nothing to capture: check its settings")
    processes = source.processes if options.processes is None else options.processes
    processes = (os.cpu_count() or 1) if processes is None else processes
    share = options.max_skipped_share
    if share is None:
        share = MAX_SKIPPED_SHARE if source.inputs is None else 1.0
    return BuildPlan(
        source=source,
        units=units,
        frames=tuple(source.frames(unit) for unit in units),
        destination=options.destination,
        engine=options.cluster() or LocalEngine(processes, REMEDY, threads=1),
        max_shard_bytes=int(options.max_shard_mb * (1 << 20)),
        max_skipped_share=share,
    )
