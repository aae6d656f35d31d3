"""Runs of many kills, and their outcomes."""

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tqdm import tqdm

from core.errors import one_line
from tests.soak.contents import Contents, UnreadableError, differences, read_folder, unreadable_files
from tests.soak.inputs import make_inputs
from tests.soak.jobs import Job
from tests.soak.process import Ended, Victim, end_group, run_command

TRIES = 4  # to kill a command before it ends
VICTIMS: tuple[Victim, ...] = ("process", "group")


@dataclass(frozen=True)
class Result:
    """One kill, and its outcome."""

    kind: str
    case: int
    at: float  # fraction of the undisturbed run's duration
    victim: Victim
    kept: bool  # whether there was something to resume from
    half_written: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    left: int = 0  # processes of the killed command that did not exit

    @property
    def good(self) -> bool:
        """Whether the case passed."""
        return not (self.half_written or self.differs or self.left)

    def __str__(self) -> str:
        head = f"{self.kind}, case {self.case}: killed ({self.victim}) at {self.at:.0%}, "
        head += "resumed" if self.kept else "restarted"
        faults = [f"half-written: {name}" for name in self.half_written] + list(self.differs)
        faults += [f"{self.left} processes left"] if self.left else []
        return "\n  ".join([f"{head}: {'same' if self.good else 'FAILED'}", *faults])


class Undisturbed(NamedTuple):
    """The contents and duration (seconds) of an undisturbed run."""

    contents: Contents
    seconds: float


@dataclass
class Bench:
    """The inputs of all commands, and the undisturbed runs so far."""

    inputs: Path
    place: Path
    known: dict[str, Undisturbed] = field(default_factory=dict)

    def undisturbed(self, job: Job) -> Undisturbed:
        """The undisturbed run of a job. Raises RuntimeError if it fails."""
        if job.name not in self.known:
            folder = self.fresh("undisturbed")
            ended = self.command(job, folder)
            if ended.code != 0:
                raise RuntimeError(f"{job.name} ends with {ended.code}:\n{log_of(folder).read_text()}")
            self.known[job.name] = Undisturbed(read_folder(folder), ended.seconds)
        return self.known[job.name]

    def fresh(self, name: str) -> Path:
        """An empty working folder."""
        folder = self.place / name
        shutil.rmtree(folder, ignore_errors=True)
        log_of(folder).unlink(missing_ok=True)
        folder.mkdir()
        return folder

    def command(
        self,
        job: Job,
        folder: Path,
        more: Sequence[str] = (),
        kill_after: float | None = None,
        victim: Victim = "group",
    ) -> Ended:
        """Run a job's command in a working folder."""
        arguments = [*job.arguments(self.inputs), *more]
        return run_command(in_one_line(job, arguments), folder, log_of(folder), kill_after, victim)


def log_of(folder: Path) -> Path:
    """The log of the commands in a working folder."""
    return folder.with_suffix(".log")


def in_one_line(job: Job, arguments: Sequence[str]) -> Callable[[], None]:
    """The command with one-line errors."""

    def command() -> None:
        with one_line():
            job.main(arguments)

    return command


def soak(
    jobs: Sequence[Job],
    place: Path,
    kills: int = 30,
    seed: int = 0,
    only: int | None = None,
    keep: Path | None = None,
) -> Iterator[Result]:
    """Kill `kills` commands, alternating over the jobs; `only` runs the case of this number.

    `place` is the folder of their outputs; inputs are in the temporary folder. The files of failed cases are
    kept in `keep`.
    """
    numbers = range(kills) if only is None else (only,)
    with TemporaryDirectory(prefix="soak-inputs-") as inputs:
        made = run_command(lambda: make_inputs(Path(inputs)), Path(inputs), log_of(place / "inputs"))
        if made.code != 0:
            raise RuntimeError(f"the inputs cannot be made:\n{log_of(place / 'inputs').read_text()}")
        bench = Bench(Path(inputs), place)
        for number in tqdm(numbers, desc="soaking", unit="kill"):
            job = jobs[number % len(jobs)]
            result = kill_once(bench, job, number, random.Random(f"{seed} {number}"))
            if not result.good and keep is not None:
                keep_files(place / "case", keep / f"{job.name}-{number}".replace(" ", "-"))
            yield result


def kill_once(bench: Bench, job: Job, number: int, draw: random.Random) -> Result:
    """Kill a command once at a random time, run it again, and compare."""
    expected = bench.undisturbed(job)
    victim, at, seconds = draw.choice(VICTIMS), draw.uniform(0.05, 1.0), expected.seconds
    for _ in range(TRIES):
        folder = bench.fresh("case")
        killed = bench.command(job, folder, kill_after=at * seconds, victim=victim)
        if killed.code < 0:
            break
        at *= 0.75
        seconds = min(seconds, killed.seconds)  # the machine may be less busy than when it was measured
    else:
        raise RuntimeError(f"{job.name} ended before every kill; the last at {at:.0%} of its duration")
    half_written = tuple(unreadable_files(folder))
    more = job.resuming(folder)
    kept = any(folder.glob(job.work))
    again = bench.command(job, folder, more)
    last = last_line(log_of(folder))
    whole_before = again.code == 2 and f"{job.result} exists already" in last
    left = end_group(killed.group) + end_group(again.group)
    differs = [] if again.code == 0 or whole_before else [f"resuming ends with {again.code}: {last}"]
    try:
        differs += differences(read_folder(folder), expected.contents)
    except UnreadableError as error:
        differs.append(str(error))
    return Result(job.name, number, at, victim, kept, half_written, tuple(differs), left)


def last_line(log: Path) -> str:
    """The last line of a command's output."""
    return log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]


def keep_files(folder: Path, place: Path) -> None:
    """Copy a working folder and its log."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place)
    shutil.copy(log_of(folder), log_of(place))


COLUMNS: dict[str, Callable[[Result], bool]] = {
    "killed": lambda result: result.at > 0,
    "resumed": lambda result: result.kept,
    "restarted": lambda result: not result.kept,
    "same": lambda result: result.good,
    "differs": lambda result: bool(result.differs),
    "half-written files": lambda result: bool(result.half_written),
    "processes left": lambda result: bool(result.left),
}


def table(results: Sequence[Result]) -> str:
    """Outcomes and times of the kills by kind, as a Markdown table."""
    counts = Counter(
        (result.kind, name) for result in results for name, holds in COLUMNS.items() if holds(result)
    )
    kinds = dict.fromkeys(result.kind for result in results)
    lines = [f"| kind | killed at | {' | '.join(COLUMNS)} |", "|---|---|" + "---:|" * len(COLUMNS)]
    for kind in kinds:
        instants = ", ".join(f"{result.at:.0%}" for result in results if result.kind == kind)
        lines.append(f"| {kind} | {instants} | {' | '.join(str(counts[kind, name]) for name in COLUMNS)} |")
    totals = " | ".join(str(sum(counts[kind, name] for kind in kinds)) for name in COLUMNS)
    return "\n".join([*lines, f"| all | | {totals} |"])
