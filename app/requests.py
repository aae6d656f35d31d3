"""The page's settings as the `Request` of `synthesize`, and a request as its command line."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import InputError
from generators.registry import STUDIO
from lightning_modules.sampling.devices import Precision
from lightning_modules.sampling.presets import preset, read_presets
from lightning_modules.sampling.requests import Request
from lightning_modules.sampling.settings import Sampling
from portraits.camera_files import write_cameras
from portraits.cameras import label_from_angles

# Fields of a request that have a control: always shown, and in a section that is collapsed at first.
SHOWN = ("prompt", "lora", "steps", "guidance", "strength", "seed")
FOLDED = ("noise", "eta", "identity", "window", "overlap", "fps", "solver", "spacing", "guidance_low",
          "guidance_high", "one_batch", "deep_every", "decoder")  # fmt: skip
# Fields that a preset sets; those that it does not name get their defaults.
PRESET = ("steps", "guidance", "eta", "solver", "spacing", "guidance_low", "guidance_high", "one_batch",
          "deep_every", "decoder")  # fmt: skip
START = "fast"  # preset that is chosen at first
PATH, DRAGGED, FOLLOWED = "a path", "dragged views", "a photo's pose"
MODES = (PATH, DRAGGED, FOLLOWED)
CAMERAS = "cameras.json"


@dataclass(frozen=True)
class Fixed:
    """Settings shared by all requests of a running page; `loras` are the files to choose from."""

    model: str
    conditions: str = STUDIO
    precision: Precision = "float32"
    loras: Sequence[Path] = ()


@dataclass(frozen=True)
class Cameras:
    """The cameras of the views.

    Args:
        mode: one of `MODES`; it determines which of the other fields are used.
        trajectory, views, yaw, pitch: a path, as on the command line.
        dragged: yaw and pitch in degrees, one pair for each view.
        photos: files from which the cameras are estimated.
    """

    mode: str = PATH
    trajectory: str = "orbit"
    views: int = 24
    yaw: float | None = None
    pitch: float | None = None
    dragged: Sequence[tuple[float, float]] = ()
    photos: Sequence[Path] = ()

    def options(self, folder: Path) -> dict[str, Any]:
        """The camera fields of a request; dragged cameras are written into `folder`. Raises InputError if no
        view or no photo was given."""
        if self.mode == PATH:
            names = ("trajectory", "views", "yaw", "pitch")
            return {name: getattr(self, name) for name in names}
        if self.mode == DRAGGED:
            if not self.dragged:
                raise InputError("no view is chosen: drag the head and add a view")
            pairs = np.radians(np.asarray(self.dragged, dtype=np.float64))
            write_cameras(np.stack([label_from_angles(*pair) for pair in pairs]), folder / CAMERAS)
            return {"cameras": [str(folder / CAMERAS)]}
        if not self.photos:
            raise InputError("no photo to estimate cameras from: drop one under Camera")
        return {"cameras": [str(path) for path in self.photos]}


def preset_values(name: str) -> dict[str, Any]:
    """The values of a preset for all fields in `PRESET`. Raises InputError."""
    chosen = Sampling(**preset(name))
    return {setting: getattr(chosen, setting) for setting in PRESET}


def offered_presets(loras: Sequence[Path]) -> list[str]:
    """Names of the presets on the page; those for LCM-LoRAs only if there are LoRAs."""
    return [name for name, values in read_presets().items() if loras or values.get("solver") != "lcm"]


def lora_texts(files: Sequence[str], weight: float) -> list[str] | None:
    """The request's LoRAs: the chosen files, all with the same weight; None if none is chosen."""
    return [file if weight == 1 else f"{file}:{weight:g}" for file in files] or None


def optional_number(name: str, text: str) -> float | None:
    """The number in a field; None if it is empty. Raises InputError."""
    try:
        return float(text) if text.strip() else None
    except ValueError:
        raise InputError(f"{name} {text!r}: give a number, or leave it empty") from None


def optional_whole(name: str, text: str) -> int | None:
    """The whole number in a field; None if it is empty. Raises InputError."""
    number = optional_number(name, text)
    if number is not None and not number.is_integer():
        raise InputError(f"{name} {text!r}: give a whole number, or leave it empty")
    return None if number is None else int(number)


def make_request(
    fixed: Fixed,
    portrait: Sequence[str],
    align: bool,
    cameras: Mapping[str, Any],
    settings: Mapping[str, Any],
    out: Path,
) -> Request:
    """The request of the page's inputs. Raises InputError on values out of range."""
    unknown = set(settings) - {*SHOWN, *FOLDED}
    assert not unknown, unknown
    given = {name: value for name, value in settings.items() if value is not None}
    return Request(
        model=fixed.model,
        out=str(out),
        portrait=list(portrait),
        align=align,
        conditions=fixed.conditions,
        precision=fixed.precision,
        devices=1,
        **cameras,
        **given,
    )


def command_line(request: Request) -> str:
    """The `synthesize` line that makes the same images: every option that differs from its default."""
    words = ["diffportrait3d", "synthesize"]
    for field in fields(Request):
        value = getattr(request, field.name)
        if field.default is not MISSING and value == field.default:
            continue
        if isinstance(value, str) and value.startswith("-"):
            words.append(f"--{field.name}={value}")
            continue
        words.append(f"--{field.name}")
        if isinstance(value, bool):
            words.append(str(value).lower())
        else:
            words += [str(item) for item in (value if isinstance(value, list) else [value])]
    return shlex.join(words)


def request_of(settings: Mapping[str, Any]) -> Request:
    """The request that a result's `settings.json` was written for."""
    names = {field.name for field in fields(Request)}
    return Request(**{name: value for name, value in settings.items() if name in names})
