"""Runs of many cases of all kinds, and their outcomes."""

import random
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from tests.fuzz.kinds import Kind
from tests.fuzz.sandbox import Outcome, run_case

REFUSED, SAME, OTHER = "refused in one line", "loaded the same", "loaded as another valid file"
GOOD = (REFUSED, SAME, OTHER)


@dataclass(frozen=True)
class Result:
    """One case: the mutated file, and the outcome."""

    kind: str
    case: int
    file: str
    verdict: str
    detail: str

    @property
    def good(self) -> bool:
        """Whether the case passed."""
        return self.verdict in GOOD


def fuzz(
    kinds: Sequence[Kind], cases: int, seed: int = 0, only: int | None = None, keep: Path | None = None
) -> Iterator[Result]:
    """Run about `cases` cases, split evenly over the kinds; `only` runs that case of each kind.

    The files of failed cases are kept in `keep`.
    """
    per_kind = -(-cases // len(kinds))
    numbers = range(per_kind) if only is None else (only,)
    with tqdm(total=len(numbers) * len(kinds), desc="fuzzing", unit="case") as bar:
        for kind in kinds:
            bar.set_postfix_str(kind.name)
            with TemporaryDirectory(prefix="fuzz-") as place:
                whole = Path(place) / "whole"
                whole.mkdir()
                kind.make(whole)
                expected = _run(kind, whole, Path(place))
                if expected.verdict != "loaded":
                    raise RuntimeError(f"{kind.name}: the whole sample is not loaded: {expected.detail}")
                for number in numbers:
                    result = _case(kind, number, seed, Path(place), expected)
                    if not result.good and keep is not None:
                        _keep(Path(place) / "case/files", keep / f"{kind.name}-{number}".replace(" ", "-"))
                    yield result
                    bar.update()


def _case(kind: Kind, number: int, seed: int, place: Path, expected: Outcome) -> Result:
    draw = random.Random(f"{seed} {kind.name} {number}")
    case = place / "case/files"
    shutil.rmtree(place / "case", ignore_errors=True)
    shutil.copytree(place / "whole", case)
    pattern = draw.choice(sorted(kind.mutations))
    path = draw.choice(sorted(path for path in case.glob(pattern) if path.is_file()))
    before = path.read_bytes()
    path.write_bytes(kind.mutations[pattern](draw, before, place / "canary"))
    outcome = run_case(kind.load, case, place / "canary")
    return Result(
        kind.name, number, str(path.relative_to(case)), _verdict(kind, outcome, expected), outcome.detail
    )


def _verdict(kind: Kind, outcome: Outcome, expected: Outcome) -> str:
    if outcome.verdict == "refused":
        return REFUSED
    if outcome.verdict != "loaded":
        return outcome.verdict
    if outcome.detail == expected.detail:
        return SAME
    return "a change passed the checksum" if kind.checked else OTHER


def _run(kind: Kind, whole: Path, place: Path) -> Outcome:
    case = place / "case/files"
    shutil.copytree(whole, case)
    return run_case(kind.load, case, place / "canary")


def _keep(files: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(files, place)


def table(results: Sequence[Result]) -> str:
    """Counts of outcomes by kind, as a Markdown table."""
    verdicts = [*GOOD, *sorted({result.verdict for result in results} - set(GOOD))]
    counts = Counter((result.kind, result.verdict) for result in results)
    kinds = dict.fromkeys(result.kind for result in results)
    rows = [[kind, *(counts[kind, verdict] for verdict in verdicts)] for kind in kinds]
    rows.append(["all", *(sum(counts[kind, verdict] for kind in kinds) for verdict in verdicts)])
    lines = [f"| kind | {' | '.join(verdicts)} |", "|---|" + "---:|" * len(verdicts)]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])
