"""Signals before a command has begun its work end it with one line, whatever it imports or waits for.

The commands are short scripts in processes of their own; each signal is sent at a chosen place.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.signals import LAUNCHER, SIGNALS

SECONDS = 60
# A module that gets a signal while it is imported, and does not let exceptions out.
SWALLOWING = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.{name})
    time.sleep(0.5)
except BaseException:
    pass
print("imported")
"""
LINES = {
    signal.SIGINT: "interrupted\n",
    signal.SIGTERM: "stopped by SIGTERM\n",
    signal.SIGHUP: "stopped by SIGHUP\n",
}
DISPATCH = """
import sys
from diffportrait3d.__main__ import main
from diffportrait3d.commands import COMMANDS, Command
COMMANDS["stub"] = Command("stub", "a command of this test")
sys.argv = ["diffportrait3d", "stub"]
main()
"""


def start(code: str, **environment: str) -> "subprocess.Popen[str]":
    """Start a script."""
    pipe = subprocess.PIPE
    given = os.environ | {"PYTHONUNBUFFERED": "1"} | environment
    return subprocess.Popen([sys.executable, "-c", code], env=given, stdout=pipe, stderr=pipe, text=True)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """The exit code, stdout and stderr of a process, once it and those that it started have ended."""
    try:
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.mark.parametrize("number", SIGNALS)
def test_every_command_ends_in_one_line_while_it_is_imported(tmp_path: Path, number: signal.Signals):
    (tmp_path / "stub.py").write_text(SWALLOWING.format(name=number.name))
    assert ended(start(DISPATCH, PYTHONPATH=str(tmp_path))) == (128 + number, "", LINES[number])


@pytest.mark.parametrize("number", SIGNALS)
def test_fit_ends_in_one_line_while_lightning_is_imported(tmp_path: Path, number: signal.Signals):
    package = tmp_path / "pytorch_lightning"
    package.mkdir()
    (package / "__init__.py").write_text(SWALLOWING.format(name=number.name))
    code = "import runpy, sys; sys.argv = ['fit', '--config', 'configs/stage1.yaml']\n"
    code += "runpy.run_module('lightning_modules.fit', run_name='__main__', alter_sys=True)"
    assert ended(start(code, PYTHONPATH=str(tmp_path))) == (128 + number, "", LINES[number])


def test_sigint_raises_keyboard_interrupt_once_a_command_has_begun(tmp_path: Path):
    (tmp_path / "stub.py").write_text(
        "import os, signal, time\n"
        "from core.errors import one_line\n"
        "with one_line():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('cleaned up')\n"
    )
    found = ended(start(DISPATCH, PYTHONPATH=str(tmp_path)))
    assert found == (130, "cleaned up\n", LINES[signal.SIGINT])


def test_signal_ends_a_process_that_waits_in_c():
    """A thread that locks a mutex twice waits for ever; no signal interrupts it, and no handler in Python
    runs."""
    process = start("""
import ctypes
from core.signals import EndAtOnce
mutex = ctypes.create_string_buffer(128)
with EndAtOnce():
    lock = ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    print("locked")
    lock(mutex)
""")
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "", LINES[signal.SIGTERM])


def test_handlers_are_restored_and_ignored_signals_stay_ignored():
    assert ended(
        start("""
import os, signal
from core.signals import EndAtOnce, lift
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with EndAtOnce(), EndAtOnce():
    os.kill(os.getpid(), signal.SIGHUP)
    lift()
    print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, signal.set_wakeup_fd(-1))
""")
    ) == (0, "True\nTrue -1\n", "")


RANK = """
import os, signal, time
from core.signals import EndAtOnce, end_with_parent
parent = os.getppid()
with EndAtOnce():
    {code}
    time.sleep(60)
"""
LAUNCH = """
import os, subprocess, sys, time
from core.signals import EndAtOnce, launching
with EndAtOnce(), launching():
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=os.environ | {"LOCAL_RANK": "1"})
    time.sleep(60)
"""


def launch(code: str) -> "subprocess.Popen[str]":
    """Start a process that launches a rank, which runs `code` before it waits."""
    rank = RANK.format(code=code.strip().replace("\n", "\n    "))
    return start(f"import sys; sys.argv = ['', {rank!r}]{LAUNCH}")


def test_signal_to_a_launched_rank_ends_both_with_one_line():
    process = launch("end_with_parent()\nos.kill(os.getpid(), signal.SIGTERM)")
    assert ended(process) == (143, "", LINES[signal.SIGTERM])


@pytest.mark.parametrize(
    "code",
    [
        "end_with_parent()\nprint('ready')",
        "print('ready')\nwhile os.getppid() == parent:\n    time.sleep(0.01)\nend_with_parent()",
    ],
    ids=["watching", "loading"],
)
def test_launched_rank_ends_when_its_launcher_is_killed(code: str):
    process = launch(code)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    assert ended(process) == (-signal.SIGKILL, "", "")


def test_launcher_is_known_to_its_ranks_only(monkeypatch):
    monkeypatch.delenv(LAUNCHER, raising=False)
    assert ended(
        start(
            """
import os
from core.signals import LAUNCHER, launcher, launching
print(launcher())
with launching():
    print(launcher(), os.environ[LAUNCHER] == str(os.getpid()))
    os.environ[LAUNCHER] = "1"
    print(launcher())
    with launching():
        print(launcher())
    os.environ["LOCAL_RANK"] = "0"  # as in other processes that the first rank starts
    print(launcher())
print(LAUNCHER in os.environ)
""",
            LOCAL_RANK="1",
        )
    ) == (0, "None\nNone True\n1\n1\nNone\nFalse\n", "")
