"""The real networks at toy width: three levels, one of them without attention."""

import json
import string
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.noise_prior import NoisePrior
from lightning_modules.networks.portrait import PortraitModel
from lightning_modules.networks.pretrained import Backbone
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.networks.view_control import view_control

PROMPT_CHANNELS = 32


def toy_unet(**changes: object) -> UNet2DConditionModel:
    settings = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (16, 24, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 4,
        "cross_attention_dim": PROMPT_CHANNELS,
    }
    torch.manual_seed(0)
    return UNet2DConditionModel(**(settings | changes)).eval()


def sd15_unet() -> UNet2DConditionModel:
    """Stable Diffusion 1.5's layers, with its 16 self-attentions, at toy width."""
    return toy_unet(
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=2,
        norm_num_groups=4,
    )


def toy_vae(**changes: object) -> AutoencoderKL:
    settings = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (8, 8, 8),
        "norm_num_groups": 4,
        "latent_channels": 4,
    }
    torch.manual_seed(1)
    return AutoencoderKL(**(settings | changes)).eval()


def toy_scheduler() -> DDPMScheduler:
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)


def toy_backbone() -> Backbone:
    return Backbone(toy_vae(), toy_unet(), toy_scheduler(), prompt())


def toy_model(prior: bool = False, image_size: int = 16, **changes: object) -> PortraitModel:
    """A whole model for images of `image_size` pixels, its zero-initialised parts perturbed."""
    unet = toy_unet(sample_size=image_size // 4, **changes)
    backbone = Backbone(toy_vae(), unet, toy_scheduler(), prompt())
    return PortraitModel(
        backbone,
        shake(AppearanceReference.from_unet(unet)).eval(),
        shake(view_control(unet, backbone.downsampling)).eval(),
        shake(CrossView.from_unet(unet, heads=8)).eval(),
        toy_prior(image_size=image_size, lift_side=image_size // 4, rendering_size=image_size // 2)
        if prior
        else None,
        "zero",
    )


def prompt(tokens: int = 1) -> Tensor:
    """An empty prompt's embedding (1, `tokens`, PROMPT_CHANNELS)."""
    return noise(1, tokens, PROMPT_CHANNELS, seed=7)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shake(module: nn.Module, scale: float = 0.05) -> nn.Module:
    """Perturb every weight in place, so that zero-initialised parts have an effect."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return module


def toy_prior(**changes: object) -> NoisePrior:
    """S for images of 16 pixels."""
    settings = {
        "image_size": 16,
        "encoder_channels": (8, 8, 8, 8),
        "code_channels": 8,
        "lift_side": 4,
        "volume_channels": (8, 8),
        "grow_channels": (8,),
        "feature_channels": 4,
        "field_channels": 8,
        "surroundings_channels": 8,
        "surroundings_doublings": 1,
        "rendering_size": 8,
        "decoder_channels": (8, 8),
        "coarse": 5,
        "fine": 4,
    }
    torch.manual_seed(0)
    return NoisePrior(**(settings | changes)).eval()


def toy_text_encoder(folder: Path, tokens: int = 7) -> None:
    """A tokenizer of single letters and a CLIP text encoder of `tokens` tokens, laid out as in a folder of
    Stable Diffusion 1.5."""
    from transformers import CLIPTextConfig, CLIPTextModel

    words = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    place = folder / "tokenizer"
    place.mkdir(parents=True)
    (place / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    settings = {"model_max_length": tokens, "pad_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer"}
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=PROMPT_CHANNELS,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokens,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
    )
    CLIPTextModel(config).eval().save_pretrained(folder / "text_encoder")
