"""`python -m shards.cache_latents DIR --vae BACKBONE --out DIR`: add the VAE's latents to shards.

Writes a copy of the built folder in which each sample has a `latents.npz`, so that training does not encode
the same images in every epoch. It holds the fingerprint of the VAE, and only that VAE uses it.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from jsonargparse import ArgumentParser
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from core.errors import InputError, one_line
from core.files import RESULT, checksum, resumable_folder
from core.fingerprints import of_settings
from portraits.pixels import Images, levels_to_pixels
from shards.index import ShardIndex
from shards.latents import Latents, encode_latents, vae_fingerprint
from shards.manifest import Manifest, ShardRecord
from shards.reader import read_members
from shards.schema import LATENTS, SampleError, decode
from shards.writer import SampleTar

BATCH = 32


def load_vae(backbone: str, device: str) -> AutoencoderKL:
    """The VAE in the subfolder `vae` of a Stable Diffusion 1.5 folder. Raises InputError."""
    folder = Path(backbone) / "vae"
    if not (folder / "config.json").is_file():
        raise InputError(f"--vae {backbone}: no vae/config.json in it; give a Stable Diffusion 1.5 folder")
    try:
        return AutoencoderKL.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False).to(
            device
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"--vae {backbone}: its VAE does not load ({error})") from error


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


def make_parser() -> ArgumentParser:
    """The command's parser."""
    parser = ArgumentParser(
        prog="python -m shards.cache_latents", description="Add the VAE's latents to shards."
    )
    parser.add_argument("shards", type=str, help="a built folder")
    parser.add_argument("--vae", type=str, required=True, help="the Stable Diffusion folder of the VAE")
    parser.add_argument("--out", type=str, required=True, help="the folder to make; it must not exist")
    parser.add_argument("--batch", type=int, default=BATCH, help="images encoded at a time")
    parser.add_argument("--device", type=str, default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    chosen = make_parser().parse_args(arguments)
    if chosen.batch < 1:
        raise InputError(f"--batch {chosen.batch}: give 1 or more")
    out = Path(chosen.out)
    manifest = cache(Path(chosen.shards), out, load_vae(chosen.vae, chosen.device), chosen.batch)
    print(f"{out}: latents of the VAE {manifest.latents_of} in {len(manifest.shards)} shards")


if __name__ == "__main__":
    with one_line():
        main()
