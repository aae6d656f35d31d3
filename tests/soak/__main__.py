"""`python -m tests.soak`: kill commands at random instants, and compare what they end with.

Every case runs a command in a process of its own, kills it with SIGKILL at a random instant, and runs the
same command again until it ends. Its logged losses, weights and files have to equal those of a run that was
not disturbed, and no file may be half-written after the kill. Differences are printed, and the exit code is
1.
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
    """Run the cases, and return the number of those that went wrong.

    Args:
        kills: number of cases, each with one kill; they take turns over the kinds of commands
        seed: of the instants
        kinds: names of kinds to run; all by default
        only: run the case of this number only
        keep: folder for the files of cases that went wrong
        place: folder for the outputs of the commands; by default on a filesystem that is mounted for this
            run, or in /dev/shm, so that the temporary folder lies on another one
    """
    from tests.soak.jobs import JOBS  # torch, diffusers, Lightning: seconds, and not in workers
    from tests.soak.run import soak, table

    chosen = [job for job in JOBS if kinds is None or job.name in kinds]
    if not chosen:
        raise InputError(f"--kinds: choose of {', '.join(job.name for job in JOBS)}")
    if place is None:
        raise InputError("--place: no other filesystem can be mounted or found here; name a folder")
    print(describe_place(Path(place)), flush=True)
    results = []
    for result in soak(chosen, Path(place), kills, seed, only, None if keep is None else Path(keep)):
        results.append(result)
        tqdm.write(str(result))
    wrong = sum(not result.good for result in results)
    print(f"\n{table(results)}\n\n{len(results)} kills, seed {seed}: {wrong} to be mended")
    return wrong


def run(arguments: Sequence[str] | None = None) -> None:
    """The command."""
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
