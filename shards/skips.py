"""Skipped frames, cameras and photos: listed in skipped.json and summarised in the log. Too many fail the
build."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from core.errors import InputError
from core.files import write_json

SKIPPED = "skipped.json"
MAX_REASONS = 12  # reasons listed in the log


@dataclass(frozen=True)
class Skip:
    """A frame, camera or photo (`what`) that was left out, and the reason.

    Skips of one kind have the same `reason`, so that they can be counted. `frames` is the number of frames
    lost: 0 if a frame was captured with fewer views.
    """

    what: str
    reason: str
    frames: int = 1


def count_lost(skips: Iterable[Skip]) -> int:
    """Number of frames lost."""
    return sum(skip.frames for skip in skips)


def summarize(skips: list[Skip], frames: int) -> str:
    """A summary of skips among `frames` frames: a line for each reason, with its count and an example."""
    reasons = Counter(skip.reason for skip in skips)
    lines = [f"skipped {count_lost(skips)} of {frames} frames; {len(skips)} entries in {SKIPPED}"]
    for reason, count in reasons.most_common(MAX_REASONS):
        example = next(skip.what for skip in skips if skip.reason == reason)
        lines.append(f"  {count} x {reason} (e.g. {example})")
    if len(reasons) > MAX_REASONS:
        lines.append(f"  and {len(reasons) - MAX_REASONS} other reasons")
    return "\n".join(lines)


def check_share(skips: list[Skip], frames: int, max_share: float, source: str) -> None:
    """Raise InputError if more than `max_share` of the `frames` frames of `source` were lost."""
    lost = count_lost(skips)
    if lost > max_share * frames:
        reason = Counter(skip.reason for skip in skips if skip.frames).most_common(1)[0][0]
        raise InputError(
            f"{source}: {lost} of {frames} frames were skipped, more than --max_skipped_share {max_share:g}"
            f" allows; most often: {reason}"
        )


def load_skips(path: Path) -> list[Skip]:
    """The skips in a file written by `save_skips`; empty if there is no such file."""
    return [Skip(**values) for values in json.loads(path.read_bytes())] if path.exists() else []


def save_skips(path: Path, skips: Iterable[Skip]) -> None:
    """Write skips as JSON."""
    write_json(path, [asdict(skip) for skip in skips])
