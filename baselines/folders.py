"""The folder of a baseline that uses an EG3D generator: its networks, the generator, and a card.

`baseline.json` records the folder's content, origin and licence; `networks.safetensors` holds the baseline's
networks, and `generator/` is a generator folder (`generators.gan.folder`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

from safetensors.torch import save_file
from torch import Tensor

from core.errors import InputError
from core.files import whole_folder, write_json
from core.schema import STRICT, read_schema
from generators.gan.folder import load_generator, read_settings, save_generator
from generators.gan.generator import Generator

CARD = "baseline.json"
NETWORKS = "networks.safetensors"
GENERATOR = "generator"


@dataclass(frozen=True)
class Card:
    """Provenance metadata of a folder: its `kind`, the names of the `files` that it was converted from, the
    terms of the weights (`licence`), and `notes` on assumptions of the conversion."""

    kind: str
    files: tuple[str, ...]
    licence: str
    notes: tuple[str, ...] = ()
    version: Literal[1] = 1

    __pydantic_config__: ClassVar = STRICT

    @classmethod
    def read(cls, folder: Path, kind: str) -> Self:
        """The card of a folder. Raises InputError if it has none, or one of another kind."""
        path = folder / CARD
        if not path.is_file():
            raise InputError(
                f"{folder} is no {kind} folder: it has no {CARD}; make one of the released files with "
                f"diffportrait3d import-baseline {kind}"
            )
        card = read_schema(cls, path)
        if card.kind != kind:
            raise InputError(f"{folder} holds {card.kind}, not {kind}")
        return card

    def write(self, folder: Path) -> None:
        """Write `baseline.json` into a folder."""
        write_json(folder / CARD, asdict(self))


def save_baseline(
    folder: Path, card: Card, tensors: Mapping[str, Tensor], generator: Generator, origin: str
) -> None:
    """Write a baseline's folder, which must not exist; `origin` says where the generator came from. Raises
    InputError."""
    with whole_folder(folder) as partial:
        save_file({name: x.detach().cpu().contiguous() for name, x in tensors.items()}, partial / NETWORKS)
        save_generator(generator, partial / GENERATOR, origin)
        card.write(partial)


def check_folder(folder: Path, kind: str) -> None:
    """Raise InputError unless a folder holds the files of a baseline of this kind; tensors are not read."""
    Card.read(folder, kind)
    if not (folder / NETWORKS).is_file():
        raise InputError(f"{folder} has no {NETWORKS}: import the released files again")
    settings = read_settings(folder / GENERATOR)
    if settings.kind != "eg3d":
        raise InputError(f"{folder / GENERATOR}: {kind} works on EG3D, not on {settings.kind}")


def open_generator(folder: Path, device: str = "cpu") -> Generator:
    """The generator in a baseline's folder. Raises InputError."""
    return load_generator(folder / GENERATOR, device)


def networks_file(folder: Path) -> Path:
    """Path of the file with a baseline's own networks, all except the generator."""
    return folder / NETWORKS
