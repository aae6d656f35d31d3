"""The baselines by kind. A new one is a class (`base.Baseline`) and a line here."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from baselines.base import Baseline, ViewSynthesizer
from core.errors import InputError
from core.schema import check_values


def _zero123() -> type[Baseline]:
    from baselines.zero123.system import Zero123

    return Zero123


def _triplanenet() -> type[Baseline]:
    from baselines.triplanenet.system import TriPlaneNet

    return TriPlaneNet


def _goae() -> type[Baseline]:
    from baselines.goae.system import GOAE

    return GOAE


def _eg3d_pti() -> type[Baseline]:
    from baselines.inversion import EG3DInversion

    return EG3DInversion


def _panohead_pti() -> type[Baseline]:
    from baselines.inversion import PanoHeadInversion

    return PanoHeadInversion


# Classes by kind, imported on demand.
BASELINES: dict[str, Callable[[], type[Baseline]]] = {
    "zero123": _zero123,
    "triplanenet": _triplanenet,
    "goae": _goae,
    "eg3d_pti": _eg3d_pti,
    "panohead_pti": _panohead_pti,
}


# Names in the paper's tables.
NAMES = {
    "triplanenet": "TriPlaneNet",
    "goae": "GOAE",
    "eg3d_pti": "EG3D-PTI",
    "panohead_pti": "PanoHead-PTI",
    "zero123": "Zero-1-to-3",
}


def takes_masks(kind: str, settings: Mapping[str, Any]) -> bool:
    """Whether a baseline needs masks: Zero-1-to-3, unless its settings keep the background."""
    return kind == "zero123" and settings.get("background") != "keep"


def check_baseline(kind: str, folder: Path, settings: Mapping[str, Any] | None = None) -> None:
    """Raise InputError if there is no such kind or setting, or the folder does not hold its weights;
    quick."""
    baseline = _baseline(kind)
    _settings(kind, baseline, settings)
    baseline.check(folder)


def open_baseline(
    kind: str, folder: Path, device: str = "cpu", settings: Mapping[str, Any] | None = None
) -> ViewSynthesizer:
    """The baseline of a kind, with weights from `folder`; settings that are not given have their defaults.
    Raises InputError if there is no such kind or setting, or the weights cannot be used."""
    baseline = _baseline(kind)
    chosen = _settings(kind, baseline, settings)
    baseline.check(folder)
    return baseline.open(folder, device, chosen)


def _baseline(kind: str) -> type[Baseline]:
    if kind not in BASELINES:
        raise InputError(f"{kind}: there is no such baseline; choose from {', '.join(BASELINES)}")
    return BASELINES[kind]()


def _settings(kind: str, baseline: type[Baseline], values: Mapping[str, Any] | None) -> Any:
    """The dataclass of a baseline's settings with these values."""
    return check_values(baseline.Settings, values or {}, f"settings of {kind}")
