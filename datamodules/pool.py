"""All images of a capture, or their latents, in memory, for training the small backbone.

Shape letters: N images, B a batch, S image side, C latent channels, H W latent size.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pytorch_lightning as pl
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from core.errors import InputError
from core.files import whole_file
from core.fingerprints import of_folder, of_settings
from core.lists import spread
from core.model_folders import load_vae
from core.seeding import stream_generators, torch_generator
from core.tensors import read_tensors
from portraits.pixels import levels_to_pixels
from shards.index import ShardIndex
from shards.manifest import Manifest
from shards.reader import ShardReader
from shards.schema import decode


@dataclass(frozen=True)
class Pool:
    """Images or their moments (N, …); the views of one frame are adjacent rows.

    `first` and `count` (N,) are, for each row, the first row and the number of rows of its frame.
    """

    rows: Tensor
    first: Tensor
    count: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def cat(cls, pools: list[Self]) -> Self:
        """Concatenate pools."""
        starts = torch.tensor([0] + [len(pool) for pool in pools[:-1]]).cumsum(0)
        return cls(
            torch.cat([pool.rows for pool in pools]),
            torch.cat([pool.first + start for pool, start in zip(pools, starts, strict=True)]),
            torch.cat([pool.count for pool in pools]),
        )

    def others(self, index: Tensor, places: Tensor) -> Tensor:
        """For each row in `index` (B,), another row of the same frame, chosen by a number of `places` (B,) in
        [0, 1), or the row itself if there is none."""
        count = self.count[index]
        ahead = (places * (count - 1)).long() + 1
        return self.first[index] + (index - self.first[index] + ahead) % count

    def batch(self, name: str, index: Tensor, places: Tensor | None) -> dict[str, Tensor]:
        """A batch {name: (B, …)} of the rows `index` (B,).

        With `places` (see `others`) it also has "other_" + name, another view of each person, and "paired"
        (B,), whether there is one."""
        batch = {name: self.rows[index]}
        if places is None:
            return batch
        return batch | {
            f"other_{name}": self.rows[self.others(index, places)],
            "paired": self.count[index] > 1,
        }


def has_pair(batch: dict[str, Tensor]) -> Tensor:
    """Whether each image of a batch has another view of the same person (B,). Raises InputError for a pool
    without pairs."""
    if "paired" not in batch:
        raise InputError(
            "model.reading above 0 trains F on pairs of views: set data.pairs to true, or model.reading to 0"
        )
    return batch["paired"]


def others(people: Sequence[str | int]) -> Tensor:
    """For each image, the index of the next one of another person (N,), or its own if there is none."""
    count = len(people)

    def following(own: int) -> int:
        after = ((own + k) % count for k in range(1, count))
        return next((one for one in after if people[one] != people[own]), own)

    return torch.tensor([following(own) for own in range(count)], dtype=torch.long)


class PoolLoader:
    """Shuffled batches of a pool (see `Pool.batch`) in an order that is a function of (seed, epoch);
    resumable at any batch.

    "position" (B,) of a batch is the place of its rows in the stream of all epochs. The views of pairs are
    functions of it, and the batches of all ranks are the next rows of the stream, whatever their number."""

    def __init__(
        self,
        pool: Pool,
        name: str,
        batch_size: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        pairs: bool = False,
    ) -> None:
        self.pool = pool
        self.name = name
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.ranks = ranks
        self.pairs = pairs
        self.epoch = 0
        self.position = 0

    def __len__(self) -> int:
        """The number of full batches in an epoch on each rank."""
        return len(self.pool) // (self.batch_size * self.ranks)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """The remaining batches of this epoch."""
        order = torch.randperm(len(self.pool), generator=torch_generator(self.seed, "order", self.epoch))
        while self.position < len(self):
            start = self.position * self.batch_size * self.ranks + self.rank
            place = start + self.ranks * torch.arange(self.batch_size)
            position = self.epoch * len(self.pool) + place
            self.position += 1
            places = uniform_at(f"{self.seed} pairs", position) if self.pairs else None
            yield self.pool.batch(self.name, order[place], places) | {"position": position}
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """The position of the next batch."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at the position that `state_dict` returned."""
        self.epoch, self.position = state["epoch"], state["position"]


class OrderedLoader:
    """Batches of the rows `index` of a pool in a fixed order.

    Like those of `PoolLoader`, with "position" the place of each row in `index`. With `pairs` they also have
    "another_" + name: for each row that has another view, such a view of the next person who has one."""

    def __init__(self, pool: Pool, index: list[int], name: str, batch_size: int, pairs: bool = False) -> None:
        self.pool = pool
        self.index = torch.tensor(index)
        self.name = name
        self.batch_size = batch_size
        self.pairs = pairs

    def __len__(self) -> int:
        return -(-len(self.index) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """All batches; the last one may be smaller."""
        positions = torch.arange(len(self.index))
        places = uniform_at("validation pairs", positions) if self.pairs else None
        another = None if places is None else self._another(places)
        for position in positions.split(self.batch_size):
            own = None if places is None else places[position]
            batch = self.pool.batch(self.name, self.index[position], own) | {"position": position}
            if another is not None:
                batch[f"another_{self.name}"] = self.pool.rows[another[position]]
            yield batch

    def _another(self, places: Tensor) -> Tensor:
        """The row (N,) of another person's view for each row of `index`; its own where it has no other."""
        rows = self.pool.others(self.index, places)
        chosen = (self.pool.count[self.index] > 1).nonzero().flatten()
        following = chosen[others(self.pool.first[self.index[chosen]].tolist())]
        return rows.index_copy(0, chosen, rows[following])


def uniform_at(seed: int | str, positions: Tensor) -> Tensor:
    """A random number (B,) in [0, 1) for each position (B,) of a stream."""
    return torch.cat([torch.rand(1, generator=draw) for draw in stream_generators(seed, positions.tolist())])


class ImagePool(pl.LightningDataModule):
    """All views of built folders as single images, shuffled, each once per epoch.

    Batches are {"images": (B, 3, S, S) uint8}. If `vae` is given, the images are encoded once in `setup`, and
    batches are {"moments": (B, 2C, H, W) float16}: mean and log variance of the posterior, before scaling.
    They also have "position", see `PoolLoader` and `OrderedLoader`.
    All images are held in memory on every rank: use it for captures of small images.

    Args:
        folders: the built folders
        batch_size: images in a batch of one rank
        vae: the model folder of a VAE
        mirror: add the mirrored training images
        pairs: add another view of the same person to each image; see `Pool.batch`
        val_images: the number of validation images, evenly spaced
        encode_batch: images encoded at a time
        cache_dir: a folder in which the encoded images are kept for later runs, under a name that depends on
            the VAE, the shards and `mirror`
        seed: seed of the order

    Raises InputError in `setup` for folders that cannot be read, have different image sizes, or have too few
    images for one batch.
    """

    def __init__(
        self,
        folders: list[str],
        batch_size: int = 64,
        vae: str | None = None,
        mirror: bool = False,
        pairs: bool = False,
        val_images: int = 512,
        encode_batch: int = 64,
        cache_dir: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.folders = [Path(folder) for folder in folders]
        self.batch_size = batch_size
        self.vae = vae
        self.mirror = mirror
        self.pairs = pairs
        self.val_images = val_images
        self.encode_batch = encode_batch
        self.cache_dir = cache_dir
        self.seed = seed
        self.train: Pool | None = None
        self.val: Pool | None = None

    def setup(self, stage: str) -> None:
        """Read and encode both splits, with progress bars."""
        if self.train is not None:
            return
        sizes = {folder: Manifest.load(folder).image_size for folder in self.folders}
        if len(set(sizes.values())) != 1:
            raise InputError(f"all folders must have one image size: {_describe(sizes)}")
        train, val = (
            Pool.cat([read_images(folder, split) for folder in self.folders]) for split in ("train", "val")
        )
        if len(train) < self.batch_size or not len(val):
            raise InputError(
                f"{_describe(sizes)}: {len(train)} training and {len(val)} validation images; "
                f"at least one batch of {self.batch_size} and one image are needed"
            )
        if self.mirror:
            train = Pool.cat([train, replace(train, rows=train.rows.flip(-1))])
        if self.vae is not None:
            moments = self._moments(Path(self.vae), {"train": train.rows, "val": val.rows})
            train, val = replace(train, rows=moments["train"]), replace(val, rows=moments["val"])
        self.train, self.val = train, val

    def _moments(self, vae: Path, images: dict[str, Tensor]) -> dict[str, Tensor]:
        """The moments of both splits, read from `cache_dir` if they are cached."""
        path = None
        if self.cache_dir is not None:
            shards = [shard.sha256 for folder in self.folders for shard in Manifest.load(folder).shards]
            name = of_settings(
                {"vae": of_folder(vae), "shards": shards, "images": "views", "mirror": self.mirror}
            )
            Path(self.cache_dir).mkdir(parents=True, exist_ok=True)
            path = Path(self.cache_dir, f"moments-{name}.safetensors")
            if path.is_file():
                return read_tensors(path)
        model = load_vae(vae)
        moments = {
            split: encode_moments(model, rows, self.encode_batch, f"encode {split}")
            for split, rows in images.items()
        }
        if path is not None:
            with whole_file(path) as partial:
                save_file(moments, partial)
        return moments

    @property
    def batch_name(self) -> str:
        """The name of the tensor in a batch."""
        return "images" if self.vae is None else "moments"

    def train_dataloader(self) -> PoolLoader:
        """Shuffled training rows, divided among the ranks."""
        assert self.train is not None, "setup() comes first"
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return PoolLoader(self.train, self.batch_name, self.batch_size, self.seed, rank, ranks, self.pairs)

    def val_dataloader(self) -> OrderedLoader:
        """Evenly spaced validation rows in a fixed order, the same on every rank."""
        assert self.val is not None, "setup() comes first"
        index = spread(len(self.val), self.val_images)
        return OrderedLoader(self.val, index, self.batch_name, self.batch_size, self.pairs)


def read_images(folder: Path, split: str) -> Pool:
    """All views (N, 3, S, S) uint8 of a split, in the order of the shards, without condition images: F never
    sees these, and F_cam sees them as pixels."""
    manifest = Manifest.load(folder)
    reader = ShardReader()
    side = manifest.image_size
    frames, sizes = [np.empty((0, side, side, 3), np.uint8)], []
    with tqdm(total=manifest.samples(split), desc=f"read {split}", unit="frame", disable=None) as bar:
        for shard in manifest.of_split(split):
            path = folder / shard.name
            index = ShardIndex.scan(path)
            for position in range(len(index)):
                sample = decode(reader.read(path, index.members(position)), size=side)
                frames.append(sample.views)
                sizes.append(len(sample.views))
                bar.update()
    reader.close()
    images = torch.from_numpy(np.concatenate(frames)).permute(0, 3, 1, 2).contiguous()
    count = torch.tensor(sizes, dtype=torch.long)
    first = (count.cumsum(0) - count).repeat_interleave(count)
    return Pool(images, first, count.repeat_interleave(count))


@torch.no_grad()
def encode_moments(vae: AutoencoderKL, images: Tensor, batch: int, description: str) -> Tensor:
    """The posterior moments (N, 2C, H, W) float16 of images (N, 3, S, S) uint8: mean, then log variance.

    Computed in bfloat16 on a GPU and in float32 on a CPU, since processors without bfloat16 units emulate it
    many times slower.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    nn.Module.to(vae, device, memory_format=torch.channels_last)
    moments: list[Tensor] = []
    with (
        torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"),
        tqdm(total=len(images), desc=description, unit="image", disable=None) as bar,
    ):
        for rows in images.split(batch):
            pixels = levels_to_pixels(rows.to(device)).contiguous(memory_format=torch.channels_last)
            moments.append(vae.encode(pixels).latent_dist.parameters.half().cpu().contiguous())
            bar.update(len(rows))
    return torch.cat(moments)


def _describe(sizes: Mapping[Path, int]) -> str:
    return ", ".join(f"{folder} ({size} pixels)" for folder, size in sizes.items())
