"""Conversion of the released GOAE files: two bare state dicts, and NVIDIA's generator."""

from pathlib import Path

from torch import Tensor

from baselines.archives import read_archive, state_dict
from baselines.goae.system import RECOMPUTED, Networks, build_networks
from baselines.layers import BATCHES_SEEN
from core.errors import InputError
from generators.gan.checkpoint import generator_of
from generators.gan.folder import load_generator
from generators.gan.generator import Generator


def networks_of(encoder: Path, correction: Path, generator: Path) -> tuple[Networks, Generator]:
    """The networks of `encoder_FFHQ.pt` and `afa_FFHQ.pt`, and the generator that they work on: NVIDIA's
    `ffhqrebalanced512-128.pkl`, or a folder that `generators.import_gan` made of it. Raises InputError
    listing what is missing, unexpected or misshapen."""
    tensors = {f"encoder.{name}": x for name, x in _tensors(encoder).items()}
    tensors |= {f"afa.{name}": x for name, x in _tensors(correction).items()}
    own = load_generator(generator) if generator.is_dir() else generator_of(generator)
    if own.settings.kind != "eg3d":
        raise InputError(f"{generator}: GOAE works on EG3D, not on {own.settings.kind}")
    return build_networks(tensors, own, f"{encoder}, {correction}"), own


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that a network reads."""
    tensors = state_dict(read_archive(path), str(path))
    constants = (*RECOMPUTED, BATCHES_SEEN)
    return {name: x.float() for name, x in tensors.items() if not name.endswith(constants)}
