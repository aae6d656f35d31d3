"""The layout of a released checkpoint: its parts, its unused tensors, and checks of completeness."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from core.errors import InputError
from core.lists import shortened
from core.tensors import read_tensors, shape_faults
from lightning_modules.networks import portrait
from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.released import names, structure
from lightning_modules.released.structure import Shapes

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
TEXT_ENCODER = "text_encoder"
# Buffers of CompVis' diffusion class, which follow from the noise schedule's four parameters.
DIFFUSION = [
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "lvlb_weights",
    "logvar",
    "scale_factor",
]
UNREAD_IF_PRESENT = {*DIFFUSION, f"{names.TEXT}.text_model.embeddings.position_ids"}


@dataclass(frozen=True)
class Part:
    """One part of a model folder, and the released names of its tensors."""

    folder: str
    model: Any
    """A ConfigMixin, on the meta device; None for the text encoder, whose class is transformers'."""
    names: dict[str, str]
    """Released names by our names."""
    own_shapes: dict[str, tuple[int, ...]]
    """Shapes by our names."""
    shapes: dict[str, tuple[int, ...]]
    """Shapes by released names: the same, except that the VAE's attention has 1x1 convolutions instead of
    matrices."""

    def to_ours(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This part of a released state dict, with our names and shapes."""
        return {name: tensors[theirs].reshape(self.own_shapes[name]) for name, theirs in self.names.items()}

    def to_released(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `to_ours`."""
        return {theirs: tensors[name].reshape(self.shapes[theirs]) for name, theirs in self.names.items()}


@dataclass(frozen=True)
class Layout:
    """The contents of a released checkpoint of one architecture."""

    parts: list[Part]
    unread: dict[str, tuple[int, ...]]
    """Unused tensors of the released networks, by released name, which our networks do not have."""

    def part(self, folder: str) -> Part:
        """The part in this folder."""
        return next(part for part in self.parts if part.folder == folder)

    def faults(self, shapes: Shapes) -> str:
        """Describe missing, unexpected and misshapen tensors of a checkpoint; empty if there are none."""
        wanted = dict(self.unread)
        for part in self.parts:
            wanted |= part.shapes
        return shape_faults(wanted, {k: shape for k, shape in shapes.items() if k not in UNREAD_IF_PRESENT})

    def unread_in(self, shapes: Shapes) -> list[str]:
        """The names of unused tensors in a checkpoint."""
        return [name for name in shapes if name in self.unread or name in UNREAD_IF_PRESENT]


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The memory-mapped state dict in a released file, possibly wrapped by a trainer. Pickles are read by the
    restricted unpickler.

    Raises InputError if the file is damaged or holds other objects.
    """
    loaded = read_tensors(path)
    wrapped = next((name for name in WRAPPERS if isinstance(loaded.get(name), dict)), None)
    tensors: dict[str, Any] = loaded[wrapped] if wrapped else loaded  # type: ignore[assignment]
    if tensors and all(str(name).startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): x for name, x in tensors.items()}
    others = sorted(str(name) for name, x in tensors.items() if not isinstance(x, Tensor))
    if others or not tensors:
        raise InputError(f"{path} is not a state dict of tensors: {shortened(others) or 'it is empty'}")
    return tensors


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """The shape of each tensor by name."""
    return {name: tuple(x.shape) for name, x in tensors.items()}


def released_layout(shapes: Shapes, heads: int, view_heads: int = 8) -> Layout:
    """The layout of the architecture inferred from a checkpoint's shapes; the numbers of attention heads of F
    and V are not in the shapes.

    Raises InputError if there is no such architecture.
    """
    config = structure.unet_config(shapes, heads)
    hint, cross_view = structure.hint_channels(shapes), structure.cross_view_config(shapes, view_heads)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
        control = ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=hint, load_weights_from_unet=False
        )
        layout = layout_of(unet, control, CrossView.from_unet(unet, **cross_view))
        if any(name.startswith(f"{names.VAE}.") for name in shapes):
            vae = AutoencoderKL(**structure.vae_config(shapes))
            layout.parts.append(released_part("vae", vae, names.vae_names(vae)))
    if any(name.startswith(f"{names.TEXT}.") for name in shapes):
        layout.parts.append(text_part(structure.text_config(shapes)))
    return layout


def layout_of(unet: UNet2DConditionModel, control: ControlNetModel, cross_view: CrossView) -> Layout:
    """The layout of the three released networks for ours, which may be on the meta device."""
    reference = AppearanceReference.from_unet(unet)
    whole = names.unet_names(unet, names.REFERENCE)
    read = names.unet_names(reference, names.REFERENCE)
    parts = [
        released_part("unet", unet, names.unet_names(unet, names.UNET)),
        released_part(portrait.REFERENCE, reference, read),
        released_part(portrait.CONTROL, control, names.control_names(control)),
        released_part(portrait.CROSS_VIEW, cross_view, names.cross_view_names(cross_view)),
    ]
    sizes = shapes_of(unet.state_dict())
    unread = {
        theirs: sizes[name] for name, theirs in whole.items() if name not in read and "up_blocks" in name
    }
    hint = {theirs: shape for theirs, shape in parts[2].shapes.items() if ".input_hint_block." in theirs}
    unread |= {name.removeprefix("pose_"): shape for name, shape in hint.items()}
    return Layout(parts, unread)


def text_part(config: dict[str, int]) -> Part:
    """The text encoder, with the names of its published folders."""
    width, hidden, root = config["hidden_size"], config["intermediate_size"], "text_model"
    shapes: dict[str, tuple[int, ...]] = {
        f"{root}.embeddings.token_embedding.weight": (config["vocab_size"], width),
        f"{root}.embeddings.position_embedding.weight": (config["max_position_embeddings"], width),
    }
    square, norm = ((width, width), (width,)), ((width,), (width,))
    linear: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
        "mlp.fc1": ((hidden, width), (hidden,)),
        "mlp.fc2": ((width, hidden), (width,)),
    }
    linear |= {f"self_attn.{x}_proj": square for x in ("q", "k", "v", "out")}
    linear |= {"layer_norm1": norm, "layer_norm2": norm}
    pairs = {
        f"{root}.encoder.layers.{n}.{module}": pair
        for n in range(config["num_hidden_layers"])
        for module, pair in linear.items()
    }
    for module, (weight, bias) in (pairs | {f"{root}.final_layer_norm": norm}).items():
        shapes |= {f"{module}.weight": weight, f"{module}.bias": bias}
    theirs = {name: f"{names.TEXT}.{name}" for name in shapes}
    return Part(TEXT_ENCODER, None, theirs, shapes, {theirs[name]: shape for name, shape in shapes.items()})


def part_sizes(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, int, int, str]]:
    """For each released prefix: its name, number of tensors, number of parameters, and dtypes."""
    prefixes = [names.UNET, names.REFERENCE, names.CONTROL, names.VAE, names.TEXT]
    groups: dict[str, list[Tensor]] = {}
    for name, x in tensors.items():
        prefix = next((p for p in prefixes if name.startswith(f"{p}.")), "(other)")
        if prefix == names.UNET and "_motion_module." in name:
            prefix = f"{names.UNET}.*_motion_module"
        groups.setdefault(prefix, []).append(x)
    for prefix, members in groups.items():
        dtypes = ", ".join(sorted({str(x.dtype).removeprefix("torch.") for x in members}))
        yield prefix, len(members), sum(x.numel() for x in members), dtypes


def released_part(folder: str, model: ConfigMixin, table: dict[str, str]) -> Part:
    """The part of one of our models, which may be on the meta device, with its table of names."""
    own = dict(shapes_of(model.state_dict()))
    shapes = {
        theirs: (*own[name], 1, 1) if folder == "vae" and len(own[name]) == 2 else own[name]
        for name, theirs in table.items()
    }
    return Part(folder, model, table, own, shapes)
