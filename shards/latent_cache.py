"""Encoding of images by the VAE, and a resumable copy of a built folder with latents."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from core import model_folders
from core.destination import Destination
from core.devices import find_device
from core.engine import THIS_PROCESS, Engine, Task
from core.errors import IncompleteError, InputError
from core.files import RESULT, checksum, resumable_folder
from core.fingerprints import of_settings
from core.lists import shortened
from core.workers import Worker
from portraits.pixels import Images, levels_to_pixels
from shards.index import ShardIndex
from shards.latents import BATCH, Latents, encode_latents, vae_fingerprint
from shards.manifest import MANIFEST, Manifest, ShardRecord
from shards.reader import read_members
from shards.schema import LATENTS, SampleError, decode
from shards.writer import SampleTar


def load_vae(backbone: str, device: str | None = None) -> AutoencoderKL:
    """Load the VAE in the subfolder `vae` of a Stable Diffusion 1.5 folder to a device, by default a GPU if
    there is one. Raises InputError."""
    device = find_device(device)
    folder = Path(backbone) / "vae"
    if not (folder / "config.json").is_file():
        raise InputError(f"--vae {backbone}: no vae/config.json in it; give a Stable Diffusion 1.5 folder")
    return model_folders.load_vae(folder).to(device)


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


def cache(
    folder: Path,
    destination: Destination,
    vae: AutoencoderKL,
    batch: int = BATCH,
    engine: Engine = THIS_PROCESS,
    device: str | None = None,
) -> Manifest:
    """Write the shards of `folder` with latents into the destination's new folder, which appears when it is
    complete, and is then moved to the destination's URL, if it has one.

    A shard is a unit of work, encoded by the VAE on a worker's `device` (by default where it is). The same
    call resumes an interrupted run with the next shard. Shows a progress bar. Raises InputError, and
    IncompleteError if shards were given up.
    """
    manifest = Manifest.load(folder)
    name = vae_fingerprint(vae)
    recipe = {"vae": name, "images": of_settings(asdict(manifest))}
    if not destination.is_finished(recipe):
        with resumable_folder(destination.folder, recipe) as staging:
            (staging / RESULT).mkdir(exist_ok=True)
            encoder = Encoder(folder, staging / RESULT, vae, name, batch, device)
            records = _encode_shards(encoder, manifest.shards, engine)
            manifest.with_latents(name, records).save(staging / RESULT)
            destination.label(staging / RESULT, recipe)
    cached = Manifest.load(destination.folder)
    destination.deliver(MANIFEST)
    return cached


def _encode_shards(encoder: "Encoder", shards: Sequence[ShardRecord], engine: Engine) -> list[ShardRecord]:
    """The records of all shards with latents. Raises IncompleteError if some were given up."""
    records = {
        shard.name: _record(shard, path) for shard in shards if (path := encoder.out / shard.name).exists()
    }
    todo = [shard for shard in shards if shard.name not in records]
    task = Task(
        "latents",
        "latents",
        encoder,
        todo,
        [shard.samples for shard in todo],
        "frame",
        sum(shard.samples for shard in shards) - sum(shard.samples for shard in todo),
        own_bars=True,
    )
    failures = []
    for done in engine.run(task):
        if done.failure is None:
            records[todo[done.index].name] = done.result
        else:
            failures.append(f"{todo[done.index].name}: {done.failure}")
    if failures:
        raise IncompleteError(
            f"{len(failures)} of {len(shards)} shards could not be encoded:"
            f" {shortened(failures, separator='; ')}; the others are kept: run the same command again"
        )
    return [records[shard.name] for shard in shards]


@dataclass(frozen=True)
class Encoder:
    """Encodes the shards of `folder` into `out` by a VAE of fingerprint `name`, `batch` images at a time."""

    folder: Path
    out: Path
    vae: AutoencoderKL
    name: str
    batch: int
    device: str | None = None

    def __call__(self, worker: Worker) -> Callable[[ShardRecord], ShardRecord]:
        """Move the VAE to the device, and return the function that encodes one shard."""
        vae = self.vae if self.device is None else self.vae.to(self.device)
        return lambda shard: self._encode(shard, vae, worker.shown)

    def _encode(self, shard: ShardRecord, vae: AutoencoderKL, shown: bool) -> ShardRecord:
        path = self.folder / shard.name
        if not path.is_file():
            raise InputError(f"{path} is missing")
        if checksum(path) != shard.sha256:  # else a damaged shard would get a checksum of its own
            raise InputError(
                f"{path}: its checksum differs from that in the manifest: copy or build it again"
            )
        index = ShardIndex.scan(path)
        bar = tqdm(index.keys, desc=shard.name, unit="frame", leave=False, disable=not shown)
        with SampleTar(self.out / shard.name) as tar:
            for number, key in enumerate(bar):
                members = read_members(path, index.members(number))
                try:
                    sample = decode(members)
                except SampleError as error:
                    raise InputError(f"{path}: {key}: {error}") from error
                views, mirrored = (
                    moments(vae, images, self.batch) for images in (sample.views, sample.views[:, :, ::-1])
                )
                members[LATENTS] = encode_latents(Latents(self.name, views, mirrored))
                tar.add(key, members)
        return _record(shard, self.out / shard.name)


def _record(shard: ShardRecord, path: Path) -> ShardRecord:
    return replace(shard, bytes=path.stat().st_size, sha256=checksum(path))
