"""Every single image of a capture in memory, for training the small backbone: images, or their latents.

Shape letters: N images, B a batch, S image side, C latent channels, H W latent size.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from tqdm.auto import tqdm

from core.errors import InputError
from core.lists import spread
from core.model_folders import load_model
from core.seeding import torch_generator
from portraits.pixels import levels_to_pixels
from shards.index import ShardIndex
from shards.manifest import Manifest
from shards.reader import ShardReader
from shards.schema import decode


class PoolLoader:
    """Batches of rows of one tensor in an order that is a function of (seed, epoch), resumable at any
    batch."""

    def __init__(
        self, rows: Tensor, name: str, batch_size: int, seed: int, rank: int = 0, ranks: int = 1
    ) -> None:
        self.rows = rows
        self.name = name
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.ranks = ranks
        self.epoch = 0
        self.position = 0

    def __len__(self) -> int:
        """Whole batches in an epoch, on each rank."""
        return len(self.rows) // (self.batch_size * self.ranks)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """The rest of this epoch: {name: (B, …)}."""
        order = torch.randperm(len(self.rows), generator=torch_generator(self.seed, "order", self.epoch))
        order = order[self.rank :: self.ranks]
        while self.position < len(self):
            start = self.position * self.batch_size
            self.position += 1
            yield {self.name: self.rows[order[start : start + self.batch_size]]}
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """Where in the stream the next batch is."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from where `state_dict` was taken."""
        self.epoch, self.position = state["epoch"], state["position"]


class OrderedLoader:
    """Batches of rows of one tensor, first to last."""

    def __init__(self, rows: Tensor, name: str, batch_size: int) -> None:
        self.rows = rows
        self.name = name
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Batches {name: (B, …)}, the last one possibly smaller."""
        for rows in self.rows.split(self.batch_size):
            yield {self.name: rows}


class ImagePool(pl.LightningDataModule):
    """All views and conditions of the built folders `folders`, shuffled one by one, each once an epoch.

    Batches are {"images": (B, 3, S, S) uint8}; with `vae`, a model folder, the images are encoded once at
    the start and batches are {"moments": (B, 2C, H, W) float16}: mean and log-variance of the posterior,
    before scaling. With `mirror` the training images are there a second time, mirrored. The pool is held in
    memory on every rank: it is for captures of small images. `val_images` of the val split, evenly spread,
    are kept for validation. Raises InputError on folders that cannot be read, are of several image sizes,
    or have too few images for one batch.
    """

    def __init__(
        self,
        folders: list[str],
        batch_size: int = 64,
        vae: str | None = None,
        mirror: bool = False,
        val_images: int = 512,
        encode_batch: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.folders = [Path(folder) for folder in folders]
        self.batch_size = batch_size
        self.vae = vae
        self.mirror = mirror
        self.val_images = val_images
        self.encode_batch = encode_batch
        self.seed = seed
        self.train_rows: Tensor | None = None
        self.val_rows: Tensor | None = None

    def setup(self, stage: str) -> None:
        """Reads, and encodes, both splits; with progress bars."""
        if self.train_rows is not None:
            return
        sizes = {folder: Manifest.load(folder).image_size for folder in self.folders}
        if len(set(sizes.values())) != 1:
            raise InputError(f"a pool takes folders of one image size: {_listed(sizes)}")
        train = torch.cat([read_images(folder, "train") for folder in self.folders])
        val = torch.cat([read_images(folder, "val") for folder in self.folders])
        val = val[spread(len(val), self.val_images)]
        if len(train) < self.batch_size or not len(val):
            raise InputError(
                f"{_listed(sizes)}: {len(train)} training and {len(val)} validation images; "
                f"needed are one batch of {self.batch_size} and at least one"
            )
        if self.mirror:
            train = torch.cat([train, train.flip(-1)])
        if self.vae is not None:
            vae = load_model(AutoencoderKL, Path(self.vae), torch.float32)
            train = encode_moments(vae, train, self.encode_batch, "encode train")
            val = encode_moments(vae, val, self.encode_batch, "encode val")
        self.train_rows, self.val_rows = train, val

    @property
    def name(self) -> str:
        """What a batch's tensor is called."""
        return "images" if self.vae is None else "moments"

    def train_dataloader(self) -> PoolLoader:
        """Shuffled training rows, split over ranks."""
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return PoolLoader(self.train_rows, self.name, self.batch_size, self.seed, rank, ranks)

    def val_dataloader(self) -> OrderedLoader:
        """Validation rows in fixed order, the same on every rank."""
        return OrderedLoader(self.val_rows, self.name, self.batch_size)


def read_images(folder: Path, split: str) -> Tensor:
    """All views and conditions of a split (N, 3, S, S) uint8, in the order of the shards."""
    manifest = Manifest.load(folder)
    reader = ShardReader()
    frames = []
    with tqdm(total=manifest.samples(split), desc=f"read {split}", unit="frame", disable=None) as bar:
        for shard in manifest.of_split(split):
            path = folder / shard.name
            index = ShardIndex.scan(path)
            for position in range(len(index)):
                sample = decode(reader.read(path, index.members(position)), size=manifest.image_size)
                frames.append(np.concatenate([sample.views, sample.conditions]))
                bar.update()
    reader.close()
    side = manifest.image_size
    images = np.concatenate(frames) if frames else np.empty((0, side, side, 3), np.uint8)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def encode_moments(vae: AutoencoderKL, images: Tensor, batch: int, description: str) -> Tensor:
    """Posterior mean and log-variance (N, 2C, H, W) float16 of images (N, 3, S, S) uint8, in bfloat16
    arithmetic."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vae = vae.to(device)
    moments: list[Tensor] = []
    with (
        torch.autocast(device.type, torch.bfloat16),
        tqdm(total=len(images), desc=description, unit="image", disable=None) as bar,
    ):
        for rows in images.split(batch):
            moments.append(vae.encode(levels_to_pixels(rows.to(device))).latent_dist.parameters.half().cpu())
            bar.update(len(rows))
    return torch.cat(moments)


def _listed(sizes: Mapping[Path, int]) -> str:
    return ", ".join(f"{folder} ({size} pixels)" for folder, size in sizes.items())
