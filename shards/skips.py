"""What a source could not use: named, counted, and too much of it ends the build."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from core.errors import InputError
from core.files import write_json

SKIPPED = "skipped.json"
SHOWN = 12


@dataclass(frozen=True)
class Skip:
    """`what` (a frame, a camera, a photo) was left out, because of `reason`, the same words for the same kind
    of trouble. It cost `frames` frames; none where the frame came out with less."""

    what: str
    reason: str
    frames: int = 1


def lost(skips: Iterable[Skip]) -> int:
    """How many frames were left out."""
    return sum(skip.frames for skip in skips)


def summary(skips: list[Skip], frames: int) -> str:
    """What was left out of `frames` frames, by reason, with an example of each."""
    reasons = Counter(skip.reason for skip in skips)
    lines = [f"skipped: {lost(skips)} of {frames} frames; {len(skips)} remarks in {SKIPPED}"]
    for reason, count in reasons.most_common(SHOWN):
        example = next(skip.what for skip in skips if skip.reason == reason)
        lines.append(f"  {count} x {reason} (e.g. {example})")
    if len(reasons) > SHOWN:
        lines.append(f"  and {len(reasons) - SHOWN} other reasons")
    return "\n".join(lines)


def check_share(skips: list[Skip], frames: int, most: float, where: str) -> None:
    """Raise InputError if more than the share `most` of `frames` frames was left out."""
    count = lost(skips)
    if count > most * frames:
        reason = Counter(skip.reason for skip in skips if skip.frames).most_common(1)[0][0]
        raise InputError(
            f"{where}: {count} of {frames} frames were skipped, more than --max_skipped_share {most:g}"
            f" allows; most often: {reason}"
        )


def load_skips(path: Path) -> list[Skip]:
    """The skips that `save_skips` wrote; none where there is no such file."""
    return [Skip(**values) for values in json.loads(path.read_bytes())] if path.exists() else []


def save_skips(path: Path, skips: Iterable[Skip]) -> None:
    """Write skips as JSON."""
    write_json(path, [asdict(skip) for skip in skips])
