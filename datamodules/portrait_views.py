"""`PortraitViewsDataModule`: batches of references, targets, conditions and cameras from mixed sources."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch.utils.data import DistributedSampler

from core.errors import InputError
from core.lists import spread
from datamodules.loader import SkipCounter, StreamLoader, StreamProgress
from datamodules.reading import Batch, Protocol, ViewReader
from datamodules.sources import SourceCatalogs, SourceConfig, Sources
from datamodules.stream import EvaluationBatches, Stream, TrainBatches
from shards.fetch import ShardCache
from shards.frames import FrameSet

GIGABYTE = 10**9
LOADERS = ("train", "val")  # splits whose workers run at the same time
PREFETCHED = 2  # batches per worker, PyTorch's default


class PortraitViewsDataModule(pl.LightningDataModule):
    """Streams batches in the format of `datamodules.reading.collate`.

    The training stream is endless (set `max_steps` and an integer `val_check_interval`) and a function of
    (`seed`, position). It does not depend on the number of workers or ranks, and a resumed run continues at
    the next position, also with another batch size or number of ranks. Every frame of a source appears once
    in each of its epochs. Validation and test are finite, with a fixed order and fixed views; frames whose
    `valid` is False only fill up batches.

    If the trained module has a `vae_fingerprint`, batches in which all frames have cached latents of that VAE
    hold those and no images.

    Args:
        sources: the sources by name, mixed by weight
        image_size: the side of the images in pixels; shards of another size are refused
        batch_size: frames in a batch of one rank
        references: R, the number of references drawn from each frame (Eq. 5)
        targets: V, the number of targets drawn from each frame
        conditions: read the condition images of the targets
        protocol: novel_view draws distinct references and targets; in reconstruction the references are the
            targets, so that one view is enough, as in shards of photos
        num_workers: worker processes per rank that read and decode; 0 for none
        seed: seed of the order and of the drawn views
        shuffle_shards: the number of shards that are shuffled together
        val_frames: the number of validation frames, evenly spaced; 0 for no validation
        test_frames: the number of test frames; all by default
        max_skipped_share: the share of damaged samples that ends the run
        cache_dir: the folder for copies of remote shards
        cache_gb: the largest size of that folder in GB

    Raises InputError in `setup` for shards that cannot be read as configured.
    """

    def __init__(
        self,
        sources: dict[str, SourceConfig],
        image_size: int,
        batch_size: int,
        references: int = 1,
        targets: int = 8,
        conditions: bool = True,
        num_workers: int = 1,
        seed: int = 0,
        shuffle_shards: int = 64,
        val_frames: int = 64,
        test_frames: int | None = None,
        max_skipped_share: float = 0.02,
        cache_dir: str = "shards/cache",
        cache_gb: float = 200.0,
        protocol: Protocol = "novel_view",
    ) -> None:
        super().__init__()
        _at_least(1, image_size=image_size, batch_size=batch_size, shuffle_shards=shuffle_shards)
        _at_least(1, references=references, targets=targets)
        _at_least(0, num_workers=num_workers, seed=seed, val_frames=val_frames, cache_gb=cache_gb)
        _at_least(0, max_skipped_share=max_skipped_share, test_frames=test_frames or 0)
        self.batch_size = batch_size
        self.protocol = protocol
        self._configs = sources
        self._reader = ViewReader(image_size, references, targets, conditions, protocol)
        self._vae: str | None = None
        self._num_workers = num_workers
        self._seed = seed
        self._shuffle_shards = shuffle_shards
        self._budgets = {"val": val_frames, "test": test_frames}
        self._max_skipped_share = max_skipped_share
        self._cache = ShardCache(Path(cache_dir), int(cache_gb * GIGABYTE))
        self._catalogs: SourceCatalogs | None = None
        self._splits: dict[str, Sources] = {}
        self._progress = StreamProgress()

    def setup(self, stage: str) -> None:
        """Open and check the shards of the splits that the stage needs."""
        self._catalogs = self._catalogs or SourceCatalogs(self._configs, self._cache)
        if stage == "fit":
            self._splits["train"] = self._catalogs.require("train", self._reader, self._max_skipped_share)
            self._vae = self._wanted_latents()
            if self._global_step() == 0:
                self._progress = StreamProgress()
        if stage in ("fit", "validate") and self._budgets["val"] != 0:
            self._splits["val"] = self._evaluated("val")
        if stage == "test":
            self._splits["test"] = self._evaluated("test")

    def train_dataloader(self) -> StreamLoader:
        """This rank's batches of the stream; each iteration starts at the position that training has
        reached."""
        rank, world_size = self._ranks()
        batches = TrainBatches(self._stream(), self.batch_size, rank, world_size)
        return self._loader(batches, begin=lambda: self._progress.taken)

    def val_dataloader(self) -> StreamLoader | list[StreamLoader]:
        """This rank's share of the validation frames; none if `val_frames` is 0."""
        return self._evaluation_loader("val") if "val" in self._splits else []

    def test_dataloader(self) -> StreamLoader:
        """This rank's share of the test frames."""
        return self._evaluation_loader("test")

    def samples(self, frames: int, split: str = "val") -> Batch:
        """One batch of `frames` evenly spaced frames of a split; always the same ones."""
        everything = self._splits[split].spread(self._budgets[split])
        chosen = [everything[i] for i in spread(len(everything), frames)]
        batch = EvaluationBatches(chosen, self._reader, len(chosen))[0]
        if isinstance(batch, InputError):
            raise batch
        return batch

    def frame_sets(self, split: str) -> tuple[FrameSet, ...]:
        """The frames of a split, for each source that has any, after `setup`."""
        return self._splits[split].frames

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
        """Record the position that training has reached in the stream."""
        if self.trainer is not None and self.trainer.training:
            rank, world_size = self._ranks()
            start = int(batch["position"][0]) - rank * self.batch_size
            self._progress.take(start + world_size * self.batch_size, self._global_step())
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The position after the last completed optimiser step; the same on every rank."""
        self._progress.settle(self._global_step())
        return {"samples_seen": self._progress.done, "stream": self._description()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the position of a checkpoint. Warns if the checkpoint is from another stream."""
        self._progress = StreamProgress(int(state_dict["samples_seen"]))
        if state_dict["stream"] != self._description():
            was, now = state_dict["stream"], self._description()
            rank_zero_warn(f"resuming on another data stream: it was {was}, now it is {now}")

    def _stream(self) -> Stream:
        train = self._splits["train"]
        reader = replace(self._reader, vae=self._vae)
        return Stream(train.frames, train.weights, self._seed, self._shuffle_shards, reader)

    def _wanted_latents(self) -> str | None:
        """The fingerprint of the trained module's VAE, if it has one; logs whether the shards hold its
        latents."""
        module = self.trainer.lightning_module if self.trainer is not None else None
        vae: str | None = getattr(module, "vae_fingerprint", None)
        for frames in self._splits["train"].frames if vae is not None else ():
            for name in sorted({shard.vae for shard in frames.shards if shard.vae is not None}):
                use = "they are used" if name == vae else f"this VAE is {vae}, images are encoded"
                rank_zero_info(f"source {frames.name}: latents of the VAE {name} are in the shards: {use}")
        return vae

    def _description(self) -> dict[str, Any]:
        """The settings that determine the order of the stream, for checkpoints."""
        train = self._splits.get("train", Sources((), ()))
        sources = {f.name: [len(f), weight] for f, weight in zip(train.frames, train.weights, strict=True)}
        return {"sources": sources, "seed": self._seed, "shuffle_shards": self._shuffle_shards}

    def _evaluated(self, split: str) -> Sources:
        assert self._catalogs is not None
        sources = self._catalogs.open(split, self._reader, self._max_skipped_share)
        if not sources.frames:
            remedy = "; set val_frames to 0 for no validation" if split == "val" else ""
            raise InputError(f"none of the sources {', '.join(self._configs)} has {split} shards{remedy}")
        return sources

    def _evaluation_loader(self, split: str) -> StreamLoader:
        rank, world_size = self._ranks()
        frames = self._splits[split].spread(self._budgets[split])
        others = split == "val"  # validation also conditions on other people's references
        batches = EvaluationBatches(frames, self._reader, self.batch_size, world_size, others)
        return self._loader(batches, sampler=DistributedSampler(batches, world_size, rank, shuffle=False))

    def _loader(self, batches: TrainBatches | EvaluationBatches, **options: Any) -> StreamLoader:
        return StreamLoader(
            batches,
            SkipCounter(self._max_skipped_share),
            num_workers=self._num_workers,
            room=self._shared_bytes(),
            **options,
        )

    def _shared_bytes(self) -> int:
        """The shared memory in bytes for the batches of all loaders on this machine."""
        ranks = self.trainer.num_devices if self.trainer is not None else 1
        in_flight = PREFETCHED * self._num_workers + 1
        return len(LOADERS) * ranks * in_flight * self.batch_size * self._reader.bytes

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _global_step(self) -> int:
        return self.trainer.global_step if self.trainer is not None else 0


def _at_least(bound: int, **values: float) -> None:
    for name, value in values.items():
        if value < bound:
            raise InputError(f"data.{name} is {value}: give {bound} or more")
