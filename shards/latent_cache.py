"""Encoding of images by the VAE, and a resumable copy of a built folder with latents."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from core.errors import InputError
from core.files import RESULT, checksum, resumable_folder
from core.fingerprints import of_settings
from core.model_folders import load_model
from generators.gan.renderer import check_device
from portraits.pixels import Images, levels_to_pixels
from shards.index import ShardIndex
from shards.latents import BATCH, Latents, encode_latents, vae_fingerprint
from shards.manifest import Manifest, ShardRecord
from shards.reader import read_members
from shards.schema import LATENTS, SampleError, decode
from shards.writer import SampleTar


def load_vae(backbone: str, device: str | None = None) -> AutoencoderKL:
    """Load the VAE in the subfolder `vae` of a Stable Diffusion 1.5 folder to a device, by default a GPU if
    there is one. Raises InputError."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    folder = Path(backbone) / "vae"
    if not (folder / "config.json").is_file():
        raise InputError(f"--vae {backbone}: no vae/config.json in it; give a Stable Diffusion 1.5 folder")
    return load_model(AutoencoderKL, folder, torch.float32).to(device)


@torch.no_grad()
def moments(vae: AutoencoderKL, images: Images, batch: int = BATCH) -> NDArray[np.float16]:
    """The posterior moments (K, 2C, H, W) of images (K, S, S, 3) uint8: mean, then log variance."""
    parameter = next(vae.parameters())
    found: list[Tensor] = []
    for part in torch.from_numpy(np.ascontiguousarray(images)).split(batch):
        pixels = levels_to_pixels(part.permute(0, 3, 1, 2)).to(parameter.device, parameter.dtype)
        posterior = cast(AutoencoderKLOutput, vae.encode(pixels)).latent_dist
        found.append(torch.cat([posterior.mean, posterior.logvar], 1).half().cpu())
    return torch.cat(found).numpy()


def cache(folder: Path, out: Path, vae: AutoencoderKL, batch: int = BATCH) -> Manifest:
    """Write the shards of `folder` with latents into the new folder `out`, which appears when it is complete.

    The same call resumes an interrupted run with the next shard. Shows a progress bar. Raises InputError.
    """
    if out.exists():
        raise InputError(f"{out} exists already: choose another --out")
    manifest = Manifest.load(folder)
    name = vae_fingerprint(vae)
    recipe = {"vae": name, "images": of_settings(asdict(manifest))}
    frames = sum(shard.samples for shard in manifest.shards)
    with (
        resumable_folder(out, recipe) as staging,
        tqdm(total=frames, unit="frame", desc="latents") as bar,
    ):
        (staging / RESULT).mkdir(exist_ok=True)
        records = [
            _cache_shard(folder, staging / RESULT, shard, vae, name, batch, bar) for shard in manifest.shards
        ]
        cached = manifest.with_latents(name, records)
        cached.save(staging / RESULT)
    return cached


def _cache_shard(
    folder: Path, staging: Path, shard: ShardRecord, vae: AutoencoderKL, name: str, batch: int, bar: tqdm
) -> ShardRecord:
    path = staging / shard.name
    if path.exists():
        bar.update(shard.samples)
    else:
        if not (folder / shard.name).is_file():
            raise InputError(f"{folder / shard.name} is missing")
        index = ShardIndex.scan(folder / shard.name)
        with SampleTar(path) as tar:
            for number, key in enumerate(index.keys):
                members = read_members(folder / shard.name, index.members(number))
                try:
                    sample = decode(members)
                except SampleError as error:
                    raise InputError(f"{folder / shard.name}: {key}: {error}") from error
                views, mirrored = (
                    moments(vae, images, batch) for images in (sample.views, sample.views[:, :, ::-1])
                )
                members[LATENTS] = encode_latents(Latents(name, views, mirrored))
                tar.add(key, members)
                bar.update()
    return replace(shard, bytes=path.stat().st_size, sha256=checksum(path))
