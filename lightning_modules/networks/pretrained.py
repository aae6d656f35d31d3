"""Loading of the backbone, Stable Diffusion 1.5 at any width: F, its VAE, noise schedule and empty prompt
embedding.

Shape letters: T prompt tokens, D prompt channels.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from safetensors.torch import save_file
from torch import Tensor

from core.errors import InputError
from core.files import whole_file, whole_folder
from core.model_folders import MALFORMED, load_model, load_vae, save_model
from core.shipped import find_shipped
from core.tensors import read_json, read_tensors
from lightning_modules.networks.hub import fetch_backbone
from lightning_modules.networks.single_file import (
    convert_text_encoder,
    convert_unet,
    convert_vae,
    noise_schedule,
    read_single_file,
    unet_config,
)
from lightning_modules.networks.text import (
    TEXT_ENCODER,
    copy_text_encoder,
    embed_nothing,
    find_text_encoder,
    load_text_encoder,
)

EMPTY_PROMPT = "empty_prompt"
MAX_TIMESTEPS = 10_000
SINGLE_FILES = (".safetensors", ".ckpt")
# Settings of Stable Diffusion 1.5's UNet at any width; SD 2, SDXL, inpainting and video models differ in at
# least one.
SHAPE: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "use_linear_projection": False,
    "only_cross_attention": False,
    "dual_cross_attention": False,
    "class_embed_type": None,
    "addition_embed_type": None,
    "encoder_hid_dim": None,
    "time_cond_proj_dim": None,
    "resnet_time_scale_shift": "default",
    "attention_type": "default",
    "time_embedding_act_fn": None,
    "num_class_embeds": None,
    "center_input_sample": False,
}
Scheduler = TypeVar("Scheduler", bound=SchedulerMixin)
BLOCKS = {"DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"}


@dataclass(frozen=True)
class Backbone:
    """The frozen latent diffusion model of the paper (3.1), with an empty prompt."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    scheduler: DDPMScheduler
    empty_prompt: Tensor
    """The text embedding (1, T, D) of ""."""
    text_folder: Path | None = None
    """The folder whose tokenizer/ and text_encoder/ embed other prompts, if there is one."""

    @property
    def downsampling(self) -> int:
        """The VAE's downsampling factor: 8 for Stable Diffusion 1.5."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)


def load_backbone(path_or_hub_id: str, dtype: torch.dtype = torch.float32) -> Backbone:
    """Load the backbone from a diffusers folder, single file or hub repository, with networks in `dtype` and
    evaluation mode.

    The empty prompt is read from `empty_prompt.safetensors`. If that is missing, it is computed once by the
    text encoder, which needs the package transformers, and stored in the folder if that is writable. Raises
    InputError for models other than Stable Diffusion 1.5 (of any width) and for damaged files.
    """
    folder = find_folder(path_or_hub_id)
    if folder.is_file():
        return load_single_file(folder, dtype)
    check_folder(folder)
    scheduler = load_schedule(folder / "scheduler")
    unet = load_model(UNet2DConditionModel, folder / "unet", dtype)
    vae = load_vae(folder / "vae", dtype)
    check_vae(vae, unet.config.in_channels, folder)
    empty_prompt = load_empty_prompt(folder, unet.config.cross_attention_dim).to(dtype)
    return Backbone(vae, unet, scheduler, empty_prompt, find_text_encoder(folder))


def load_single_file(path: Path, dtype: torch.dtype = torch.float32) -> Backbone:
    """Load the backbone from a single file, with networks in `dtype` and evaluation mode; see
    `networks.single_file`.

    Raises InputError if it is damaged or is not Stable Diffusion 1.5.
    """
    tensors = read_single_file(path)
    config = unet_config(tensors)
    check_unet(config, path)
    unet, vae = convert_unet(tensors, config, path), convert_vae(tensors, path)
    prompt = embed_nothing(convert_text_encoder(tensors, path).float())
    return Backbone(vae.to(dtype), unet.to(dtype), noise_schedule(), prompt.to(dtype))


class GivenBackbone:
    """Stable Diffusion 1.5 in a folder or a single file, of which only the parts that are asked for are read.

    Creating it checks that it is Stable Diffusion 1.5. Raises InputError as `load_backbone`.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.single = read_single_file(place) if place.is_file() else None
        if self.single is None:
            check_folder(place)
        else:
            check_unet(unet_config(self.single), place)

    def schedule(self) -> DDPMScheduler:
        """The noise schedule."""
        return load_schedule(self.place / "scheduler") if self.single is None else noise_schedule()

    def vae(self) -> AutoencoderKL:
        """The VAE, in float32."""
        if self.single is None:
            return load_vae(self.place / "vae")
        return convert_vae(self.single, self.place).float()

    def empty_prompt(self, channels: int) -> Tensor:
        """The embedding (1, T, D = `channels`) of ""."""
        if self.single is None:
            return load_empty_prompt(self.place, channels)
        embedding = embed_nothing(convert_text_encoder(self.single, self.place).float())
        check_empty_prompt(embedding, channels, self.place)
        return embedding


def save_backbone(backbone: Backbone, path: str, dtype: torch.dtype | None = None) -> None:
    """Write, atomically, the folder that `load_backbone` reads, with networks in `dtype` or as stored.

    Raises InputError if `path` exists.
    """
    with whole_folder(Path(path)) as folder:
        write_backbone(backbone, folder, dtype)


def write_backbone(backbone: Backbone, folder: Path, dtype: torch.dtype | None = None) -> None:
    """As `save_backbone`, into an existing folder; its other files are kept."""
    save_model(backbone.unet, folder / "unet", dtype)
    save_model(backbone.vae, folder / "vae", dtype)
    backbone.scheduler.save_config(folder / "scheduler")
    write_empty_prompt(backbone.empty_prompt, folder)
    if backbone.text_folder is not None:
        copy_text_encoder(backbone.text_folder, folder)


def write_empty_prompt(empty_prompt: Tensor, folder: Path) -> None:
    """Write `empty_prompt.safetensors`, float32 (1, T, D), into a folder."""
    with whole_file(folder / f"{EMPTY_PROMPT}.safetensors") as partial:
        save_file({EMPTY_PROMPT: empty_prompt.detach().float().cpu().contiguous()}, partial)


def load_schedule(folder: Path) -> DDPMScheduler:
    """Load the noise schedule from a scheduler folder of any class. Raises InputError unless it predicts
    ε."""
    config = read_json(folder / "scheduler_config.json")
    prediction = config.get("prediction_type", "epsilon")
    if prediction != "epsilon":
        raise InputError(
            f"{folder} predicts {prediction!r}, as Stable Diffusion 2 does: the paper's F predicts epsilon"
        )
    kept = set(DDPMScheduler._get_init_keys(DDPMScheduler))
    own = {name: value for name, value in config.items() if name in kept}
    return scheduler_of(DDPMScheduler, own | {"clip_sample": False}, folder)


def scheduler_of(cls: type[Scheduler], config: Mapping[str, Any], folder: Path) -> Scheduler:
    """The scheduler of a class in diffusers with the config in a scheduler folder. Raises InputError unless
    it is valid, and its noise schedule is one."""
    fault = f"{folder / 'scheduler_config.json'} is no noise schedule: "
    steps = config.get("num_train_timesteps", 1)
    if type(steps) is not int or not 1 <= steps <= MAX_TIMESTEPS:
        raise InputError(f"{fault}num_train_timesteps is {str(steps)[:20]}, not 1 to {MAX_TIMESTEPS}")
    build: Any = cls  # diffusers' mixin does not declare it
    try:
        scheduler: Scheduler = build.from_config(config)
        kept = torch.as_tensor(getattr(scheduler, "alphas_cumprod", 1.0))
    except MALFORMED as error:
        raise InputError(f"{fault}{str(error).split(chr(10), 1)[0]}") from error
    if not bool(((kept >= 0) & (kept <= 1)).all()):
        raise InputError(f"{fault}its betas are out of range")
    return scheduler


def check_folder(folder: Path) -> None:
    """Raise InputError unless a folder has the parts of a backbone, and its UNet is Stable Diffusion
    1.5's."""
    wanted = ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")
    lacking = [name for name in wanted if not (folder / name).is_file()]
    if lacking:
        raise InputError(
            f"{folder} is no diffusers folder of Stable Diffusion 1.5: it has no {', no '.join(lacking)}"
        )
    check_unet(read_json(folder / "unet" / "config.json"), folder)


def check_vae(vae: AutoencoderKL, channels: int, folder: Path) -> None:
    """Raise InputError unless a VAE's latents have the UNet's channels and a valid scaling factor."""
    if vae.config.latent_channels != channels:
        raise InputError(
            f"{folder}: the VAE has {vae.config.latent_channels} latent channels, the UNet {channels}"
        )
    factor = vae.config.scaling_factor
    if type(factor) not in (float, int) or not 1e-6 < factor < 1e6:
        shown = repr(factor)[:20]
        raise InputError(f"{folder / 'vae' / 'config.json'}: scaling_factor is {shown}, not a number above 0")


def check_unet(config: Mapping[str, Any], folder: Path) -> None:
    """Raise InputError that names the model family unless a UNet's config is Stable Diffusion 1.5's at some
    width."""
    for name, value in SHAPE.items():
        if config.get(name, value) != value:
            raise InputError(
                f"{folder} is {model_family(config)}, not Stable Diffusion 1.5: its UNet has "
                f"{name}={config[name]!r}, not {value!r}"
            )
    if not isinstance(config.get("cross_attention_dim"), int):
        raise InputError(f"{folder} is not Stable Diffusion 1.5: its UNet has no single cross_attention_dim")
    unknown = set()
    for blocks in (config.get("down_block_types"), config.get("up_block_types")):
        listed = blocks if isinstance(blocks, list | tuple) and blocks else [blocks]
        unknown |= {str(block)[:40] for block in listed if str(block) not in BLOCKS}
    if unknown:
        raise InputError(
            f"{folder} is not Stable Diffusion 1.5: its UNet has blocks {', '.join(sorted(unknown))}"
        )


def model_family(config: Mapping[str, Any]) -> str:
    """The model family of a UNet whose config is not Stable Diffusion 1.5's."""
    if config.get("addition_embed_type") == "text_time" or config.get("cross_attention_dim") == 2048:
        return "Stable Diffusion XL"
    if config.get("in_channels") == 9:
        return "an inpainting model"
    if config.get("in_channels") == 8:
        return "an image-editing model (InstructPix2Pix)"
    if config.get("use_linear_projection") or config.get("cross_attention_dim") == 1024:
        return "Stable Diffusion 2 or SD-Turbo"
    if config.get("time_cond_proj_dim") is not None:
        return "a latent consistency model"
    return "another diffusion model"


def find_folder(path_or_hub_id: str) -> Path:
    """The folder or single file of a backbone, downloaded from the hub unless local. Raises InputError if
    there is none."""
    folder = find_shipped(Path(path_or_hub_id).expanduser())
    if folder.is_dir() or (folder.is_file() and folder.suffix in SINGLE_FILES):
        return folder
    if folder.exists():
        raise InputError(
            f"{folder} is a file: give the diffusers folder with unet/, vae/ and scheduler/ in it, or a "
            f"single file of Stable Diffusion 1.5 ({', '.join(SINGLE_FILES)})"
        )
    return fetch_backbone(path_or_hub_id)


def load_empty_prompt(folder: Path, channels: int) -> Tensor:
    """The embedding (1, T, D = `channels`) of "" in a backbone's folder, computed and stored there if
    missing.

    Raises InputError if it cannot be computed, or has another shape.
    """
    stored = folder / f"{EMPTY_PROMPT}.safetensors"
    if stored.is_file():
        embedding = read_tensors(stored).get(EMPTY_PROMPT, torch.empty(0))
    else:
        embedding = encode_empty_prompt(folder)
        if os.access(folder, os.W_OK):
            write_empty_prompt(embedding, folder)
    check_empty_prompt(embedding, channels, folder)
    return embedding


def check_empty_prompt(embedding: Tensor, channels: int, where: Path) -> None:
    """Raise InputError unless an embedding has the shape (1, T, `channels`)."""
    if embedding.ndim != 3 or embedding.shape[0] != 1 or embedding.shape[2] != channels:
        raise InputError(
            f"{where}: the empty prompt has shape {tuple(embedding.shape)}, "
            f"but this UNet needs (1, T, {channels})"
        )


def encode_empty_prompt(folder: Path) -> Tensor:
    """Compute the embedding (1, T, D) of "" with the text encoder in a backbone's folder.

    Raises InputError if there is no text encoder, or the package transformers is not installed.
    """
    if not (folder / TEXT_ENCODER / "config.json").is_file():
        raise InputError(f"{folder} has neither {EMPTY_PROMPT}.safetensors nor {TEXT_ENCODER}/ to compute it")
    return embed_nothing(load_text_encoder(folder / TEXT_ENCODER))
