"""A generator's folder: `generator.safetensors` and `generator.json`, written by `generators.import_gan`."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from core.errors import InputError
from core.files import checksum, whole_folder, write_json
from core.tensors import load_strict, read_json, read_tensors
from generators.gan.architecture import Architecture, Settings
from generators.gan.eg3d import EG3D
from generators.gan.generator import Generator
from generators.gan.panohead import PanoHead

WEIGHTS = "generator.safetensors"
CARD = "generator.json"
VERSION = 1
KINDS: dict[str, type[Generator]] = {"eg3d": EG3D, "panohead": PanoHead}


def build_generator(tensors: Mapping[str, Tensor], settings: Settings, where: str) -> Generator:
    """The generator of these tensors, ready for inference, sharing their memory. Raises InputError, naming
    `where`, listing what is missing, unexpected or misshapen."""
    shapes = {name: tuple(x.shape) for name, x in tensors.items()}
    architecture = Architecture.read(shapes, where)
    with torch.device("meta"):
        generator = KINDS[settings.kind](architecture, settings)
    load_strict(generator, tensors, where)
    return generator.eval().requires_grad_(False)


def save_generator(generator: Generator, folder: Path, origin: str) -> None:
    """Write a generator's folder, which must not exist; `origin` says where its weights came from."""
    with whole_folder(folder) as partial:
        tensors = {name: x.detach().cpu().contiguous() for name, x in generator.state_dict().items()}
        save_file(tensors, partial / WEIGHTS)
        write_json(
            partial / CARD,
            {"version": VERSION, "from": origin, "settings": generator.settings.to_json()},
        )


def read_settings(folder: Path) -> Settings:
    """How the generator of a folder renders, without its weights. Raises InputError."""
    if not (folder / CARD).is_file():
        raise InputError(
            f"{folder} is no generator's folder: it has no {CARD}; make one of a checkpoint with "
            "python -m generators.import_gan"
        )
    card = read_json(folder / CARD)
    if card.get("version") != VERSION or not isinstance(card.get("settings"), dict):
        raise InputError(f"{folder / CARD} is not a generator's card of version {VERSION}")
    return Settings.from_json(card["settings"], str(folder / CARD))


def load_generator(folder: Path, device: str | torch.device = "cpu") -> Generator:
    """The generator of a folder, in float32, ready for inference. Raises InputError."""
    settings = read_settings(folder)
    tensors = {name: x.float() for name, x in read_tensors(folder / WEIGHTS).items()}
    return build_generator(tensors, settings, str(folder)).to(device)


def folder_fingerprint(folder: Path) -> str:
    """Sixteen characters that identify a generator's weights and settings. Raises InputError without any."""
    read_settings(folder)
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder / WEIGHTS} is missing")
    digests = "".join(checksum(folder / name) for name in (CARD, WEIGHTS))
    return hashlib.sha256(digests.encode()).hexdigest()[:16]
