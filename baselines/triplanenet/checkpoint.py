"""Conversion of the released TriPlaneNet v2 files.

`triplanenet_v2_final.pth` holds the encoders and the generator's tensors. `ffhq512-128.pth` holds the average
style, `latent_avg`, and the generator's rendering settings (`init_kwargs`).
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.archives import read_archive, state_dict, without_prefix
from baselines.triplanenet.encoders import TriPlaneEncoders
from baselines.triplanenet.system import build_encoders
from core.errors import InputError
from core.lists import shortened
from generators.gan.architecture import UNREAD, Settings
from generators.gan.checkpoint import settings_of
from generators.gan.folder import build_generator
from generators.gan.generator import Generator
from generators.gan.pickles import Module

log = logging.getLogger(__name__)

AVERAGE = "latent_avg"
GENERATOR = "decoder."
ENCODERS = ("psp_encoder.", "triplanenet_encoder.")
FOR_TRAINING = ("dis_", "discriminator")  # networks of training that a file may hold
RENDERING = 128  # set in the published code, whatever the generator's file says
CLAMP = 256.0  # limit of activations in blocks that run in float16 on a GPU
# Rendering settings of NVIDIA's FFHQ generator, assumed where no file gives them.
FFHQ = replace(
    Settings.of("eg3d"),
    rendering=RENDERING,
    label_scale=1.0,
    clamps={f"superresolution.block{number}": CLAMP for number in range(2)},
)


def networks_of(path: Path, average: Path | None = None) -> tuple[TriPlaneEncoders, Generator, list[str]]:
    """The encoders and the generator of `triplanenet_v2_final.pth`, and notes on what was assumed.

    `average` is `ffhq512-128.pth`. Without it, the average style is assumed to be the generator's, and the
    rendering settings those of NVIDIA's FFHQ generator, with a warning. Raises InputError that lists missing,
    unexpected and misshapen tensors.
    """
    tensors = state_dict(read_archive(path), str(path))
    own = {name: x.float() for name, x in tensors.items() if name.startswith(ENCODERS)}
    decoder = {name: x.float() for name, x in without_prefix(tensors, GENERATOR).items()}
    _check_parts(path, tensors)
    found = {} if average is None else read_archive(average)
    notes = []
    settings = FFHQ
    if found:
        settings = settings_from(found.get("init_kwargs"), str(average))
    generator = build_generator(
        {name: x for name, x in decoder.items() if name not in UNREAD}, settings, f"{path}: {GENERATOR}"
    )
    own[AVERAGE] = _latent_average(found, tensors, str(average or path))
    if average is None:
        notes = ["rendering: as NVIDIA's FFHQ generator, by default"]
        if AVERAGE not in tensors:
            notes.append("latent_avg: the generator's w_avg")
        for note in notes:
            log.warning(
                "%s: %s; give ffhq512-128.pth (--average) to have what TriPlaneNet was trained with",
                path,
                note,
            )
    return build_encoders(own, generator, str(path)), generator, notes


def _check_parts(path: Path, tensors: Mapping[str, Tensor]) -> None:
    known = (*ENCODERS, GENERATOR)
    absent = [prefix for prefix in known if not any(name.startswith(prefix) for name in tensors)]
    if absent:
        raise InputError(f"{path}: no TriPlaneNet v2 file: it has nothing under {', '.join(absent)}")
    allowed = (*known, *FOR_TRAINING)
    strange = sorted(name for name in tensors if not name.startswith(allowed) and name != AVERAGE)
    if strange:
        raise InputError(f"{path}: unexpected {shortened(strange)}")


def _latent_average(found: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> Tensor:
    """The average style (Z,): of its own file, of the network's, or the generator's average."""
    if found and AVERAGE not in found:
        raise InputError(f"{where}: no {AVERAGE} in it, but {shortened(sorted(map(str, found)))}")
    average = found.get(AVERAGE, tensors.get(AVERAGE))
    if average is None:
        average = tensors.get(f"{GENERATOR}backbone.mapping.w_avg", torch.zeros(0))
    if not isinstance(average, Tensor):
        raise InputError(f"{where}: {AVERAGE} is a {type(average).__name__}, not a tensor")
    rows = average.float().reshape(-1, average.shape[-1]) if average.ndim else average.reshape(1, -1)
    if not torch.equal(rows, rows[:1].expand_as(rows)):
        raise InputError(f"{where}: {AVERAGE} differs between styles: it must be one vector for all")
    return rows[0].clone()


def settings_from(arguments: Any, where: str) -> Settings:
    """The rendering settings in a generator's constructor arguments (`init_kwargs`). Raises InputError,
    naming `where`, if they hold none, or settings that are not supported."""
    if not isinstance(arguments, dict) or not isinstance(arguments.get("rendering_kwargs"), dict):
        raise InputError(f"{where}: it has no rendering settings (init_kwargs, rendering_kwargs)")
    options = arguments["rendering_kwargs"]
    kind = str(options.get("superresolution_module", "")).rpartition(".")[2]
    clamp = CLAMP if arguments.get("sr_num_fp16_res", 0) else None
    layer = Module("SynthesisLayer", {"conv_clamp": clamp})
    attributes = {"rendering_kwargs": dict(options), "neural_rendering_resolution": RENDERING}
    modules = {"": Module("TriPlaneGenerator", attributes), "superresolution": Module(kind, {})}
    modules |= {f"superresolution.block{number}.conv1": layer for number in range(2)}
    return settings_of(modules, "eg3d", where)
