"""Conversion of the original Zero-1-to-3 checkpoint (`105000.ckpt`, `zero123-xl.ckpt`, …).

It is a Lightning checkpoint with CompVis' names. The UNet and the VAE are converted by diffusers, like any
Stable Diffusion 1.x; CLIP's image tower has OpenAI's names.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from baselines.archives import read_archive, state_dict, without_prefix
from baselines.zero123.folder import with_buffers
from baselines.zero123.networks import CCProjection, Networks, image_encoder_of
from core.errors import InputError
from core.lists import shortened
from core.tensors import load_strict

Model = TypeVar("Model", bound=ModelMixin)

UNET = "model.diffusion_model."
VAE = "first_stage_model."
IMAGE = "cond_stage_model.model.visual."
PROJECTION = "cc_projection."
AVERAGE = "model_ema."
MULTIPLES = (1, 2, 4, 4)
HEADS = 8
HEAD_WIDTH = 64  # channels of a head of CLIP's attention
LATENT_SIZE = 32  # side of the latents on which the released UNet was trained
LATENT_SCALE = 0.18215
# Unused entries of a checkpoint: the noise schedule, the average's state, and parts of CLIP's text tower.
UNREAD = re.compile(
    r"(betas|(sqrt_|log_)?(one_minus_|recip_|recipm1_)?alphas_cumprod(_prev)?|posterior_\w+|lvlb_weights|logvar"
    r"|scale_factor|model_ema\.(decay|num_updates)|cond_stage_model\.(mean|std)"
    r"|cond_stage_model\.model\.(positional_embedding|text_projection|logit_scale|token_embedding\.weight"
    r"|ln_final\.(weight|bias)|transformer\..*))"
)


def networks_of(path: Path, averaged: bool = True) -> tuple[Networks, bool]:
    """The networks of an original checkpoint, and whether the UNet is the average over training (EMA), which
    the demo samples with; with `averaged` it is wherever the file has one.

    Raises InputError listing what is missing, unexpected or misshapen.
    """
    tensors = state_dict(read_archive(path), str(path))
    parts = {prefix: without_prefix(tensors, prefix) for prefix in (UNET, VAE, IMAGE, PROJECTION)}
    absent = [prefix for prefix, part in parts.items() if not part]
    if absent:
        raise InputError(f"{path}: no Zero-1-to-3 checkpoint: it has nothing under {', '.join(absent)}")
    known = (*parts, AVERAGE)
    strange = sorted(name for name in tensors if not name.startswith(known) and not UNREAD.fullmatch(name))
    if strange:
        raise InputError(f"{path}: unexpected {shortened(strange)}")
    average = _average(tensors, str(path)) if averaged else {}
    where = str(path)
    networks = Networks(
        _unet(average or parts[UNET], where),
        _vae(parts[VAE], where),
        _image_encoder(parts[IMAGE], where),
        _projection(parts[PROJECTION], where),
    )
    return networks, bool(average)


def _average(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The UNet's moving average by the UNet's own names, empty where the file has none. Raises InputError
    if it has only some of it."""
    stored = {name for name in tensors if name.startswith(AVERAGE) and not UNREAD.fullmatch(name)}
    if not stored:
        return {}
    own = [name for name in tensors if name.startswith(UNET)]
    flat = {name: AVERAGE + name.removeprefix("model.").replace(".", "") for name in own}
    missing = sorted(set(flat.values()) - stored)
    strange = sorted(stored - set(flat.values()))
    if missing or strange:
        faults = [
            f"{what} {shortened(x)}" for what, x in (("missing", missing), ("unexpected", strange)) if x
        ]
        raise InputError(f"{where}: the average of the UNet (EMA) is not whole: {'; '.join(faults)}")
    return {name.removeprefix(UNET): tensors[average] for name, average in flat.items()}


def _unet(tensors: Mapping[str, Tensor], where: str) -> UNet2DConditionModel:
    width = _size(tensors, "input_blocks.0.0.weight", 0, UNET, where)
    context = _size(tensors, "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", 1, UNET, where)
    config = {
        "sample_size": LATENT_SIZE,
        "in_channels": 8,
        "out_channels": 4,
        "block_out_channels": [width * multiple for multiple in MULTIPLES],
        "attention_head_dim": HEADS,
        "cross_attention_dim": context,
    }
    unet = _empty(UNet2DConditionModel, config, where)
    named = {UNET + name: x for name, x in tensors.items()}
    converted = convert_ldm_unet_checkpoint(named, {**unet.config})
    _check_all_converted(named, converted, where)
    load_strict(unet, _floats(converted), f"{where}: UNet in diffusers' names")
    return unet.eval()


def _vae(tensors: Mapping[str, Tensor], where: str) -> AutoencoderKL:
    width = _size(tensors, "encoder.conv_in.weight", 0, VAE, where)
    levels = len(MULTIPLES)
    config = {
        "block_out_channels": [width * multiple for multiple in MULTIPLES],
        "layers_per_block": 2,
        "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "sample_size": 256,
        "scaling_factor": LATENT_SCALE,
    }
    vae = _empty(AutoencoderKL, config, where)
    named = {VAE + name: x for name, x in tensors.items()}
    converted = convert_ldm_vae_checkpoint(named, {**vae.config})
    _check_all_converted(named, converted, where)
    load_strict(vae, _floats(converted), f"{where}: VAE in diffusers' names")
    return vae.eval()


def _image_encoder(tensors: Mapping[str, Tensor], where: str) -> Any:
    width = _size(tensors, "class_embedding", 0, IMAGE, where)
    patch = _size(tensors, "conv1.weight", -1, IMAGE, where)
    patches = _size(tensors, "positional_embedding", 0, IMAGE, where) - 1
    blocks = {match[1] for name in tensors if (match := re.match(r"transformer\.resblocks\.(\d+)\.", name))}
    encoder = image_encoder_of(
        {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": len(blocks),
            "num_attention_heads": max(width // HEAD_WIDTH, 1),
            "image_size": patch * round(patches**0.5),
            "patch_size": patch,
            "projection_dim": _size(tensors, "proj", 1, IMAGE, where),
            "hidden_act": "quick_gelu",
        }
    )
    converted = dict(_image_tensors(tensors))
    return with_buffers(encoder, _floats(converted), f"{where}: CLIP in transformers' names").eval()


def _image_tensors(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors of OpenAI's image tower under transformers' names."""
    places = {
        "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "conv1.weight": "embeddings.patch_embedding.weight",
    }
    layers = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    layers["attn.out_proj"] = "self_attn.out_proj"
    found = {}
    for name, x in tensors.items():
        block = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)", name)
        if name == "proj":
            found["visual_projection.weight"] = x.T.contiguous()
        elif block and block[2] == "attn.in_proj":
            for part, rows in zip("qkv", x.chunk(3), strict=True):
                place = f"encoder.layers.{block[1]}.self_attn.{part}_proj.{block[3]}"
                found[f"vision_model.{place}"] = rows
        elif block:
            place = f"encoder.layers.{block[1]}.{layers.get(block[2], block[2])}.{block[3]}"
            found[f"vision_model.{place}"] = x
        else:
            place = name.replace("ln_pre.", "pre_layrnorm.").replace("ln_post.", "post_layernorm.")
            found[f"vision_model.{places.get(name, place)}"] = x
    return found


def _projection(tensors: Mapping[str, Tensor], where: str) -> CCProjection:
    inputs = _size(tensors, "weight", 1, PROJECTION, where)
    sizes = {"in_channel": inputs, "out_channel": _size(tensors, "weight", 0, PROJECTION, where)}
    projection = _empty(CCProjection, sizes, where)
    named = {f"projection.{name}": x for name, x in tensors.items()}
    load_strict(projection, _floats(named), f"{where}: {PROJECTION}")
    return projection.eval()


def _empty(cls: type[Model], config: Mapping[str, Any], where: str) -> Model:
    """A network of these sizes without weights. Raises InputError if there is none."""
    try:
        with torch.device("meta"):
            return cls(**config)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: the sizes of its tensors make no {cls.__name__}: {error}") from error


def _size(tensors: Mapping[str, Tensor], name: str, dimension: int, prefix: str, where: str) -> int:
    """The size of one dimension of a tensor. Raises InputError if there is no such tensor or dimension."""
    x = tensors.get(name)
    if x is None or x.ndim <= dimension:
        raise InputError(f"{where}: missing or misshapen {prefix}{name}")
    return int(x.shape[dimension])


def _check_all_converted(given: Mapping[str, Tensor], converted: Mapping[str, Tensor], where: str) -> None:
    """diffusers' conversion passes over names that it does not know."""
    kept = {x.data_ptr() for x in converted.values() if x is not None}
    strange = sorted(name for name, x in given.items() if x.data_ptr() not in kept)
    if strange:
        raise InputError(f"{where}: unexpected {shortened(strange)}")


def _floats(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.float() for name, x in tensors.items() if x is not None}
