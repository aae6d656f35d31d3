"""Zero-1-to-3's folder in diffusers' layout, as kxic converted it: `unet`, `vae`, `image_encoder`,
`cc_projection`."""

from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

from baselines.folders import Card
from baselines.zero123.networks import POSE, CCProjection, Networks, image_encoder_of
from core.errors import InputError
from core.files import write_json
from core.model_folders import WEIGHTS, empty_model, load_model, load_vae, read_weights, save_model
from core.tensors import load_strict, read_json, read_tensors

KIND = "zero123"
UNET, VAE, IMAGE_ENCODER, PROJECTION = "unet", "vae", "image_encoder", "cc_projection"
OTHER_PROJECTION = "clip_camera_projection"  # folder name in bennyguo's and ashawkey's conversions
IMAGE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
FILES = {
    UNET: (f"{WEIGHTS}.safetensors", f"{WEIGHTS}.fp16.safetensors", f"{WEIGHTS}.bin"),
    VAE: (f"{WEIGHTS}.safetensors", f"{WEIGHTS}.fp16.safetensors", f"{WEIGHTS}.bin"),
    IMAGE_ENCODER: IMAGE_WEIGHTS,
}
POSITION_IDS = "vision_model.embeddings.position_ids"  # a constant that older files hold
LINEAR = ("projection.", "proj.")  # what conversions call the projection's layer


def check_folder(folder: Path) -> None:
    """Raise InputError unless the folder has the four networks; tensors are not read."""
    for part, names in FILES.items():
        _check_part(folder, part, names)
    place = projection_folder(folder)
    _check_part(folder, place.name, FILES[UNET])


def _check_part(folder: Path, part: str, names: tuple[str, ...]) -> None:
    if not (folder / part / "config.json").is_file():
        raise InputError(
            f"{folder} is no Zero-1-to-3 folder: it has no {part}/config.json; give a folder converted for "
            "diffusers, or make one of a .ckpt with diffportrait3d import-baseline zero123"
        )
    if not any((folder / part / name).is_file() for name in names):
        raise InputError(f"{folder / part} has no {names[0]}")


def projection_folder(folder: Path) -> Path:
    """Where the projection of image and camera is."""
    other = folder / OTHER_PROJECTION
    return other if other.is_dir() and not (folder / PROJECTION).is_dir() else folder / PROJECTION


def load_networks(folder: Path) -> Networks:
    """The networks of a folder, in float32. Raises InputError if something is missing, unreadable,
    unexpected or misshapen, with its names."""
    check_folder(folder)
    unet = load_model(UNet2DConditionModel, folder / UNET)
    vae = load_vae(folder / VAE)
    latents = vae.config.latent_channels
    if unet.config.in_channels != 2 * latents:
        raise InputError(
            f"{folder / UNET}: {unet.config.in_channels} channels in; Zero-1-to-3 joins the noisy latent and "
            f"the source's, {2 * latents}"
        )
    encoder = _load_image_encoder(folder / IMAGE_ENCODER)
    projection = _load_projection(projection_folder(folder))
    width = encoder.config.projection_dim
    sizes = (projection.config.in_channel, projection.config.out_channel)
    if sizes != (width + POSE, unet.config.cross_attention_dim):
        raise InputError(
            f"{folder}: the projection takes {sizes[0]} numbers and makes {sizes[1]}; the image encoder and "
            f"camera are {width} + {POSE}, the UNet reads {unet.config.cross_attention_dim}"
        )
    parts = [nn.Module.float(part).requires_grad_(False).eval() for part in (unet, vae, encoder, projection)]
    return Networks(*parts)


def _load_image_encoder(folder: Path) -> nn.Module:
    config = read_json(folder / "config.json")
    # what describes the file rather than the network
    config = {name: value for name, value in config.items() if name not in ("architectures", "model_type")}
    encoder = image_encoder_of(config)
    path = next(folder / name for name in IMAGE_WEIGHTS if (folder / name).is_file())
    tensors = {name: x.float() for name, x in read_tensors(path).items() if name != POSITION_IDS}
    return with_buffers(encoder, tensors, str(path))


def with_buffers(encoder: nn.Module, tensors: dict[str, Tensor], where: str) -> nn.Module:
    """An image encoder that was made on the meta device, with these tensors, and with the constants that
    state dicts don't hold."""
    load_strict(encoder, tensors, where)
    embeddings = encoder.get_submodule("vision_model.embeddings")
    positions = tensors["vision_model.embeddings.position_embedding.weight"].shape[0]
    embeddings.register_buffer("position_ids", torch.arange(positions).expand(1, -1), persistent=False)
    return encoder


def _load_projection(folder: Path) -> CCProjection:
    tensors = read_weights(folder)
    layer = next((name for name in LINEAR if f"{name}weight" in tensors), LINEAR[0])
    tensors = {
        f"projection.{name.removeprefix(layer)}" if name.startswith(layer) else name: x.float()
        for name, x in tensors.items()
    }
    weight = tensors.get("projection.weight")
    if weight is None or weight.ndim != 2:
        raise InputError(f"{folder} has no projection.weight")
    sizes = {"in_channel": weight.shape[1], "out_channel": weight.shape[0]}
    projection = empty_model(CCProjection, sizes, folder)
    load_strict(projection, tensors, str(folder))
    return projection


def save_networks(networks: Networks, folder: Path, card: Card) -> None:
    """Write the networks into a folder in kxic's layout, with a card beside them."""
    for name, part in ((UNET, networks.unet), (VAE, networks.vae), (PROJECTION, networks.cc_projection)):
        save_model(part, folder / name)
    place = folder / IMAGE_ENCODER
    place.mkdir()
    config = networks.image_encoder.config.to_diff_dict()
    write_json(place / "config.json", {**config, "architectures": ["CLIPVisionModelWithProjection"]})
    tensors = {name: x.contiguous() for name, x in networks.image_encoder.state_dict().items()}
    save_file(tensors, place / IMAGE_WEIGHTS[0], metadata={"format": "pt"})
    card.write(folder)
