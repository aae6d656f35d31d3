"""Strict reading and writing of model folders: a `config.json` and a safetensors file."""

import json
import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.modeling_utils import ModelMixin
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from core.errors import InputError
from core.files import whole_folder
from core.lists import shortened
from core.schema import STRICT
from core.tensors import compare, load_strict, read_json, read_tensors, shape_faults

__all__ = [
    "compare",
    "empty_model",
    "load_model",
    "load_strict",
    "load_vae",
    "place_like",
    "read_json",
    "read_tensors",
    "read_weights",
    "save_model",
    "shape_faults",
    "weight_files",
    "whole_folder",
]

Model = TypeVar("Model", bound=ModelMixin)

WEIGHTS = "diffusion_pytorch_model"
DEPTHS = re.compile(r"layers|attentions$|doublings")  # names of settings that are numbers of layers
MAX_DEPTH = 100
# Raised by constructors for invalid values.
MALFORMED = (TypeError, ValueError, AttributeError, ArithmeticError, LookupError, RuntimeError)


def load_model(cls: type[Model], folder: Path, dtype: torch.dtype | None = None) -> Model:
    """Load a diffusers-style model from its folder, in `dtype` or as stored, in evaluation mode.

    The weights are memory-mapped, so that only one copy exists.

    Raises:
        InputError: files are missing or unreadable, or the names or shapes of tensors differ from the
            model's.
    """
    config = read_json(folder / "config.json")
    stored = config.get("_class_name", cls.__name__)
    if stored != cls.__name__:
        raise InputError(f"{folder} holds a {stored}, not a {cls.__name__}")
    model = empty_model(cls, config, folder)
    tensors = read_weights(folder)
    load_strict(model, {name: x.to(dtype or x.dtype) for name, x in tensors.items()}, str(folder))
    return model.eval()


def load_vae(folder: Path, dtype: torch.dtype = torch.float32) -> AutoencoderKL:
    """Load the VAE in a `vae/` folder of any diffusers version, in `dtype`. Raises as `load_model`."""
    vae = empty_model(AutoencoderKL, read_json(folder / "config.json"), folder)
    tensors = {_current_name(name): x.to(dtype) for name, x in read_weights(folder).items()}
    load_strict(vae, tensors, str(folder))
    return vae.eval()


def _current_name(name: str) -> str:
    """The current name of a VAE tensor: diffusers before 0.15 named the middle attention's layers
    differently."""
    renamed = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    parts = name.split(".")
    if "attentions" in parts:
        parts = [renamed.get(part, part) for part in parts]
    return ".".join(parts)


def empty_model(cls: type[Model], config: Mapping[str, Any], folder: Path) -> Model:
    """Build the model of a config on the meta device. Raises InputError for an invalid config."""
    where = folder / "config.json"
    try:
        _check_types(cls, config)
        _check_depth(config)
        with torch.device("meta"):
            return cls.from_config(config)
    except MALFORMED as error:
        raise InputError(
            f"{where} is no valid config of {cls.__name__}: {' '.join(str(error).split())[:200]}"
        ) from error


def _check_types(cls: type[ModelMixin], config: Mapping[str, Any]) -> None:
    """Raise ValueError if the type of a setting differs from the constructor's annotation. diffusers' own
    classes are not checked, as their annotations are not precise."""
    if cls.__init__.__module__.startswith("diffusers."):
        return
    for name, kind in get_type_hints(cls.__init__).items():
        if name in config:
            try:
                TypeAdapter(kind, config=STRICT).validate_json(json.dumps(config[name]))
            except ValidationError as error:
                raise ValueError(f"{name}: {error.errors()[0]['msg']}") from None


def _check_depth(config: Mapping[str, Any]) -> None:
    """Raise ValueError for more layers than any network has, as building them would never end."""
    for name, value in config.items():
        if isinstance(value, list) and len(value) > MAX_DEPTH:
            raise ValueError(f"{name}: {len(value)} entries, more than {MAX_DEPTH}")
        depths = value if isinstance(value, list) else [value]
        if DEPTHS.search(name) and any(isinstance(depth, int) and depth > MAX_DEPTH for depth in depths):
            raise ValueError(f"{name}: more than {MAX_DEPTH} layers")


def save_model(model: ModelMixin, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Save a model in `dtype`, by default its own, for `load_model` and diffusers' `from_pretrained`."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_config(folder)
    tensors = {
        name: x.detach().to("cpu", dtype or x.dtype).contiguous() for name, x in model.state_dict().items()
    }
    save_file(tensors, folder / f"{WEIGHTS}.safetensors", metadata={"format": "pt"})


def place_like(model: Model, other: nn.Module) -> Model:
    """Move a model, in place, to the device and dtype of another's first parameter."""
    like = next(other.parameters())
    if all(x.device == like.device and x.dtype == like.dtype for x in model.parameters()):
        return model  # PyTorch cannot convert simulated tensors in place
    # ModelMixin.to warns about modules to keep in float32 whenever a dtype is given; there are none here.
    return nn.Module.to(model, device=like.device, dtype=like.dtype)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model folder, from its `weight_files`. Raises InputError."""
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        tensors |= read_tensors(path)
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a model folder's weights: one, or several that an index lists.

    Safetensors are preferred to pickled state dicts, and full precision to the fp16 variant. Raises
    InputError if there are none, or an index is damaged or lists a missing file.
    """
    for kind, variant in product(("safetensors", "bin"), ("", ".fp16")):
        single = folder / f"{WEIGHTS}{variant}.{kind}"
        index = folder / f"{WEIGHTS}.{kind}.index{variant}.json"
        if single.is_file():
            return [single]
        if index.is_file():
            return _indexed_files(index)
    raise InputError(f"{folder} has no {WEIGHTS}.safetensors")


def _indexed_files(index: Path) -> list[Path]:
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(x, str) for x in listed.values()):
        raise InputError(f"{index} has no weight_map of tensor names and files")
    names = sorted(set(listed.values()))
    if odd := next((name for name in names if Path(name).name != name), None):
        raise InputError(f"{index}: {odd!r} is no plain file name")
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise InputError(
            f"{index.parent}: {shortened(missing)} missing, listed in {index.name}: download the folder again"
        )
    return [index.parent / name for name in names]
