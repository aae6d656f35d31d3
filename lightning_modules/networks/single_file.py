"""Reading of Stable Diffusion 1.5 from a single file in CompVis' layout, such as
`v1-5-pruned-emaonly.safetensors`.

Names are converted by diffusers' functions; sizes are inferred from the tensors, so that any width is
supported.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from core.errors import InputError
from core.tensors import load_strict, read_pickle, read_tensors

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
OTHER_TEXT_ENCODERS = {
    "cond_stage_model.model.": "Stable Diffusion 2 or SD-Turbo",
    "conditioner.": "Stable Diffusion XL",
}
ATTENTION = f"{UNET}input_blocks.1.1."
WIDTHS = (1, 2, 4, 4)  # widths of the UNet's levels, relative to the first
HEADS, HEAD_SIZE = 8, 64  # heads of the UNet's attention; channels of a head of CLIP's
SAFETENSORS = ".safetensors"
# Classes in the published .ckpt files besides tensors, from the state of Lightning's training.
LIGHTNING = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

Tensors = Mapping[str, Tensor]


def read_single_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by their names in CompVis' code. Raises InputError if it is damaged or is not
    Stable Diffusion 1.5."""
    contents = read_tensors(path) if path.suffix == SAFETENSORS else read_pickle(path, LIGHTNING)
    if not isinstance(contents, dict):
        raise InputError(f"{path} holds a {type(contents).__name__}, not a state dict")
    nested = contents.get("state_dict", contents)
    named = nested.items() if isinstance(nested, dict) else ()
    tensors = {name: x for name, x in named if isinstance(x, Tensor)}
    for prefix, family in OTHER_TEXT_ENCODERS.items():
        if any(name.startswith(prefix) for name in tensors):
            raise InputError(f"{path} is {family}, not Stable Diffusion 1.5")
    wanted = (f"{UNET}input_blocks.0.0.weight", f"{ATTENTION}proj_in.weight", f"{VAE}encoder.conv_in.weight")
    missing = [name for name in (*wanted, f"{TEXT}embeddings.token_embedding.weight") if name not in tensors]
    if missing:
        raise InputError(f"{path} is not a single file of Stable Diffusion 1.5: it has no {missing[0]}")
    return tensors


def unet_config(tensors: Tensors) -> dict[str, Any]:
    """The settings of the UNet, which may not be those of Stable Diffusion 1.5."""
    width, channels = tensors[f"{UNET}input_blocks.0.0.weight"].shape[:2]
    prompt = tensors.get(f"{ATTENTION}transformer_blocks.0.attn2.to_k.weight", torch.empty(0, 0))
    return {
        "sample_size": 64,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "layers_per_block": 2,
        "in_channels": channels,
        "block_out_channels": tuple(width * factor for factor in WIDTHS),
        "cross_attention_dim": prompt.shape[1],
        "attention_head_dim": HEADS,
        "use_linear_projection": tensors[f"{ATTENTION}proj_in.weight"].ndim == 2,
    }


def convert_unet(tensors: Tensors, config: Mapping[str, Any], path: Path) -> UNet2DConditionModel:
    """The UNet with its weights. Raises InputError if they do not fit its settings."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    return _filled(unet, convert_ldm_unet_checkpoint(dict(tensors), unet.config), path)


def convert_vae(tensors: Tensors, path: Path) -> AutoencoderKL:
    """The VAE with its weights. Raises InputError if they do not fit Stable Diffusion's VAE."""
    width = tensors[f"{VAE}encoder.conv_in.weight"].shape[0]
    levels = len(WIDTHS)
    with torch.device("meta"):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(width * factor for factor in WIDTHS),
            layers_per_block=2,
            sample_size=512,
        )
    return _filled(vae, convert_ldm_vae_checkpoint(dict(tensors), vae.config), path)


def convert_text_encoder(tensors: Tensors, path: Path) -> nn.Module:
    """The CLIP text encoder with its weights. Raises InputError if the package transformers is not
    installed."""
    try:
        from transformers import CLIPTextConfig, CLIPTextModel
    except ImportError:
        raise InputError(f"{path}: its text encoder needs transformers: pip install transformers") from None
    vocabulary, channels = tensors[f"{TEXT}embeddings.token_embedding.weight"].shape
    layers = sum(
        name.startswith(f"{TEXT}encoder.layers.") and name.endswith("fc1.weight") for name in tensors
    )
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=channels,
        intermediate_size=tensors[f"{TEXT}encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=layers,
        num_attention_heads=max(1, channels // HEAD_SIZE),
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
    )
    encoder = CLIPTextModel(config)  # not on the meta device, as the file may not have its position_ids
    weights = convert_ldm_clip_checkpoint(dict(tensors))
    if not any(name.startswith("text_model.") for name in encoder.state_dict()):  # transformers 5
        weights = {name.removeprefix("text_model."): x for name, x in weights.items()}
    known = encoder.state_dict().keys()
    weights = {name: x for name, x in weights.items() if name in known or not name.endswith("position_ids")}
    load_strict(encoder, weights, str(path))
    return encoder.eval()


def noise_schedule() -> DDPMScheduler:
    """Stable Diffusion 1.5's noise schedule."""
    return DDPMScheduler(**SCHEDULE, clip_sample=False, steps_offset=1)


def _filled(model: Any, weights: Tensors, path: Path) -> Any:
    load_strict(model, weights, str(path))
    return model.eval()
