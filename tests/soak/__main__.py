"""`python -m tests.soak`: kill commands at random times, resume them, and compare the results.

Every case runs a command in a child process, kills it with SIGKILL at a random time, and runs the same
command again until it ends. Its logged losses, weights and files have to equal those of an undisturbed run,
and no file may be half-written after the kill. Differences are printed, and the exit code is 1.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from tqdm import tqdm

from core.errors import InputError, one_line
from tests.soak.place import describe_place, on_other_filesystem


def main(
    kills: int = 30,
    seed: int = 0,
    kinds: list[str] | None = None,
    only: int | None = None,
    keep: str | None = None,
    place: str | None = None,
) -> int:
    """Run the cases, and return the number of failures.

    Args:
        kills: number of cases with one kill each, alternating over the kinds of commands
        seed: seed of the times of the kills
        kinds: names of the kinds to run; all by default
        only: run only the case of this number
        keep: folder in which the files of failed cases are kept
        place: folder for the commands' outputs; by default on a filesystem mounted for this run, or in
            /dev/shm, so that it differs from that of the temporary folder
    """
    from tests.soak.jobs import JOBS  # slow imports, not needed for --help
    from tests.soak.run import soak, table

    chosen = [job for job in JOBS if kinds is None or job.name in kinds]
    if not chosen:
        raise InputError(f"--kinds: choose from {', '.join(job.name for job in JOBS)}")
    if place is None:
        raise InputError("--place: no other filesystem can be mounted or found here; name a folder")
    print(describe_place(Path(place)), flush=True)
    results = []
    for result in soak(chosen, Path(place), kills, seed, only, None if keep is None else Path(keep)):
        results.append(result)
        tqdm.write(str(result))
    wrong = sum(not result.good for result in results)
    print(f"\n{table(results)}\n\n{len(results)} kills, seed {seed}: {wrong} failed")
    return wrong


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command with these arguments."""
    parser = ArgumentParser(prog="python -m tests.soak", description=__doc__.split("\n", 1)[0])
    parser.add_function_arguments(main)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    with one_line():
        chosen = parser.parse_args(arguments).as_dict()
        if chosen["place"] is None:
            sys.exit(on_other_filesystem([sys.executable, "-m", "tests.soak", *arguments]))
        sys.exit(bool(main(**chosen)))


if __name__ == "__main__":
    run()
