"""The text that names a generator and how it is used: `eg3d:FOLDER?truncation=0.7&seed=1`.

One line says all, so that it can be a setting wherever a renderer is chosen, and be recorded with what was
made.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import parse_qsl

from core.errors import InputError
from generators.gan.architecture import Kind
from generators.gan.folder import read_settings

Precision = Literal["float32", "bfloat16"]
Frame = Literal["measured", "own"]


@dataclass(frozen=True)
class GeneratorOptions:
    """A generator's folder, and who is drawn from it how.

    truncation: 1 is the whole variety, 0 the average person. seed: which people the numbers stand for.
    faces: people in whom no face is found are replaced by others. resolution: the side of the rendering, 0
    for the checkpoint's. precision, compile: how fast it runs (`Generator.tune`). frame: "own" takes shared
    labels as the generator's own; "measured" finds the average person's face and puts it where EG3D's labels
    have faces (PanoHead's heads stand about the origin).
    """

    kind: Kind
    folder: str
    truncation: float = 0.7
    seed: int = 0
    faces: bool = True
    resolution: int = 0
    precision: Precision = "float32"
    compile: bool = False
    frame: Frame = "own"

    def __post_init__(self) -> None:
        if not 0 <= self.truncation <= 1.5 or self.seed < 0 or self.resolution < 0:
            raise InputError(
                f"{self.kind}:{self.folder}: truncation is from 0 to 1.5; seed and resolution are not "
                "negative"
            )

    def check(self) -> None:
        """Raise InputError unless the folder holds a generator of this kind."""
        kind = read_settings(Path(self.folder)).kind
        if kind != self.kind:
            raise InputError(f"{self.kind}:{self.folder}: the generator in that folder is {kind}")


def default_frame(kind: Kind) -> Frame:
    """EG3D's heads stand where shared labels have them; PanoHead's are looked for."""
    return "measured" if kind == "panohead" else "own"


def parse_options(kind: Kind, text: str) -> GeneratorOptions:
    """The options of what stands behind `eg3d:` or `panohead:`. Raises InputError naming what is wrong."""
    folder, _, query = text.partition("?")
    if not folder:
        raise InputError(
            f"{kind} takes a generator's folder: {kind}:FOLDER (python -m generators.import_gan)"
        )
    known = {entry.name: entry for entry in fields(GeneratorOptions)[2:]}
    values: dict[str, object] = {"frame": default_frame(kind)}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise InputError(f"{kind}:{text}: there is no option {name}; choose of {', '.join(known)}")
        values[name] = _value(f"{kind}:{text}", name, known[name].type, value)
    return GeneratorOptions(kind, folder, **values)  # type: ignore[arg-type]


def _value(where: str, name: str, kind: object, text: str) -> object:
    choices = get_args(kind) or (("true", "false") if kind is bool else None)
    if choices and text not in choices:
        raise InputError(f"{where}: {name} is {' or '.join(choices)}, not {text!r}")
    if kind is bool:
        return text == "true"
    if choices:
        return text
    try:
        return kind(text)  # type: ignore[operator]
    except ValueError:
        raise InputError(f"{where}: {name} is a number, not {text!r}") from None
