"""`python -m tests.fuzz`: mutate every kind of untrusted file, and count the outcomes.

Every case is a valid sample with one mutated file, read by the project's own loader in a process with limits
on memory and time. It has to end in a one-line error or load; anything else is printed, and the exit code is
1.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from tqdm import tqdm

from core.errors import InputError, one_line
from tests.fuzz.kinds import KINDS
from tests.fuzz.run import fuzz, table

SHOWN_LINES = 25  # of a traceback


def main(
    cases: int = 2000,
    seed: int = 0,
    kinds: list[str] | None = None,
    only: int | None = None,
    keep: str | None = None,
) -> int:
    """Run the cases, and return the number of failures.

    Args:
        cases: number of cases, split evenly over the kinds
        seed: seed of the mutations
        kinds: names of the kinds to run; all by default
        only: run only the case of this number, of each kind
        keep: folder in which the files of failed cases are kept
    """
    chosen = [kind for kind in KINDS if kinds is None or kind.name in kinds]
    if not chosen:
        raise InputError(f"--kinds: choose from {', '.join(kind.name for kind in KINDS)}")
    results = []
    for result in fuzz(chosen, cases, seed, only, None if keep is None else Path(keep)):
        results.append(result)
        if not result.good:
            tqdm.write(f"\n{result.kind}, case {result.case}, {result.file}: {result.verdict}")
            tqdm.write("\n".join(result.detail.strip().splitlines()[-SHOWN_LINES:]))
    wrong = sum(not result.good for result in results)
    print(f"\n{table(results)}\n\n{len(results)} cases, seed {seed}: {wrong} failed")
    return wrong


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command with these arguments."""
    parser = ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n", 1)[0])
    parser.add_function_arguments(main)
    with one_line():
        sys.exit(bool(main(**parser.parse_args(arguments).as_dict())))


if __name__ == "__main__":
    run()
