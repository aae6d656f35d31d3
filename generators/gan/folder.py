"""A generator's folder, written by `import-gan`: `generator.safetensors` and `generator.json`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from core.errors import InputError
from core.files import whole_folder, write_json
from core.lists import shortened
from core.schema import STRICT, read_schema
from core.tensors import load_strict, read_tensors
from generators.gan.architecture import Architecture, Settings
from generators.gan.eg3d import EG3D
from generators.gan.generator import Generator
from generators.gan.panohead import PanoHead

WEIGHTS = "generator.safetensors"
CARD = "generator.json"
VERSION = 1
KINDS: dict[str, type[Generator]] = {"eg3d": EG3D, "panohead": PanoHead}


@dataclass(frozen=True)
class Card:
    """The schema of `generator.json`: format version, name of the converted file, and settings."""

    __pydantic_config__: ClassVar = STRICT

    version: Literal[1]
    settings: Settings
    origin: Annotated[str, Field(alias="from")]


def build_generator(tensors: Mapping[str, Tensor], settings: Settings, where: str) -> Generator:
    """Build the generator of these tensors, in evaluation mode and sharing their memory.

    Raises InputError that begins with `where` and lists tensors that are missing, unexpected, misshapen, not
    floating point, or not finite.
    """
    shapes = {name: tuple(x.shape) for name, x in tensors.items()}
    architecture = Architecture.read(shapes, where)
    odd = [name for name, x in tensors.items() if not x.is_floating_point()]
    if odd:
        raise InputError(f"{where}: {shortened(odd)} are not floating point tensors")
    with torch.device("meta"):
        generator = KINDS[settings.kind](architecture, settings)
    load_strict(generator, tensors, where)
    return generator.eval().requires_grad_(False)


def save_generator(generator: Generator, folder: Path, origin: str) -> None:
    """Write a generator's folder, which must not exist; `origin` is the name of the converted file."""
    with whole_folder(folder) as partial:
        tensors = {name: x.detach().cpu().contiguous() for name, x in generator.state_dict().items()}
        save_file(tensors, partial / WEIGHTS)
        write_json(
            partial / CARD,
            {"version": VERSION, "from": origin, "settings": generator.settings.to_json()},
        )


def read_settings(folder: Path) -> Settings:
    """Read the rendering settings of the generator in a folder, without its weights. Raises InputError."""
    if not (folder / CARD).is_file():
        raise InputError(
            f"{folder} is not a generator folder: it has no {CARD}; convert a published checkpoint with "
            "diffportrait3d import-gan"
        )
    return read_schema(Card, folder / CARD).settings


def load_generator(folder: Path, device: str | torch.device = "cpu") -> Generator:
    """Load the generator in a folder, in float32 and evaluation mode. Raises InputError."""
    settings = read_settings(folder)
    tensors = {name: x.float() for name, x in read_tensors(folder / WEIGHTS).items()}
    return build_generator(tensors, settings, str(folder)).to(device)
