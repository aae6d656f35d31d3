"""A backbone's networks without weights, for measuring how much memory they need."""

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from core.shipped import find_shipped
from core.tensors import read_json, read_tensors
from lightning_modules.networks.pretrained import EMPTY_PROMPT, Backbone, check_folder, load_schedule
from lightning_modules.networks.single_file import noise_schedule

PROMPT_TOKENS = 77
UNET = {"sample_size": 64, "cross_attention_dim": 768}  # Stable Diffusion 1.5's, beside diffusers' defaults
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "sample_size": 512,
}


def unloaded_backbone(path: str | None = None) -> Backbone:
    """A backbone on PyTorch's default device with arbitrary weights: that of a diffusers folder, or Stable
    Diffusion 1.5's where there is no such folder here. Raises InputError where it is another model's."""
    folder = None if path is None else find_shipped(path)
    if folder is None or not folder.is_dir():
        unet, vae, tokens = UNET, VAE, PROMPT_TOKENS
    else:
        check_folder(folder)
        unet, vae = (read_json(folder / name / "config.json") for name in ("unet", "vae"))
        prompt = folder / f"{EMPTY_PROMPT}.safetensors"
        tokens = read_tensors(prompt)[EMPTY_PROMPT].shape[1] if prompt.is_file() else PROMPT_TOKENS
    network = UNet2DConditionModel.from_config(unet).eval()
    with torch.device("cpu"):
        schedule = noise_schedule() if unet is UNET or folder is None else load_schedule(folder / "scheduler")
    return Backbone(
        AutoencoderKL.from_config(vae).eval(),
        network,
        schedule,
        torch.zeros(1, tokens, network.config.cross_attention_dim),
    )
