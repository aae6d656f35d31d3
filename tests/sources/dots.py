"""NeRSemble captures whose faces are dots, in the studio of `tests.sources.studio`."""

from pathlib import Path
from typing import Any

from shards.schema import Sample
from shards.skips import Skip
from shards.sources.nersemble.source import NersembleCapture
from tests.faces import DotDetector, FlatRenderer

SIZE = 96
SEQUENCE = "EXP-3-cheeks+nose"
PEOPLE = ("007", "018")  # 018 is held out
ALL_TRAIN = {"val_share": 0.0, "test_share": 0.0}


class DotCapture(NersembleCapture):
    """A NeRSemble capture that detects dotted faces, with flat conditions."""

    _detector = DotDetector()
    _renderer = FlatRenderer()


def capture(root: Path, **change: Any) -> DotCapture:
    """A small capture of everything below `root`."""
    options = {
        "frames": 1,
        "val_frames": 0,
        "test_frames": 1,
        "size": SIZE,
        "background": "keep",
        **ALL_TRAIN,
    }
    return DotCapture(str(root), **{**options, **change})


def everything(source: NersembleCapture) -> tuple[list[Sample], list[Skip]]:
    """All samples and skips of a capture."""
    results = [result for unit in source.units() for result in source.capture(unit)]
    return [r for r in results if isinstance(r, Sample)], [r for r in results if isinstance(r, Skip)]
