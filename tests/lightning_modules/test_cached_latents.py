"""Training on latents cached in the shards."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from callbacks.throughput import Throughput
from core.destination import Destination
from core.seeding import stream_generators
from datamodules import PortraitViewsDataModule, SourceConfig
from lightning_modules.appearance import AppearanceStage
from lightning_modules.stage import mirrored
from shards.latent_cache import cache, load_vae
from shards.latents import vae_fingerprint


@pytest.fixture(scope="module")
def cached(capture: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The capture with the toy backbone's latents."""
    out = tmp_path_factory.mktemp("cached") / "fake"
    cache(capture, Destination(out), load_vae(str(backbone), "cpu"))
    return out


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The messages about cached latents."""
    found: list[str] = []
    monkeypatch.setattr("datamodules.portrait_views.rank_zero_info", found.append)
    return found


class Batches(pl.Callback):
    """Records the training batches."""

    def __init__(self) -> None:
        self.batches: list[dict] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: dict, *_: Any):
        self.batches.append(batch)


@pytest.fixture
def batches(
    make_data: Callable[..., PortraitViewsDataModule], make_trainer: Callable, cached: Path
) -> Callable[[AppearanceStage], list[dict]]:
    """A function that gives a stage's first training batches, of plain shards and with cached latents."""

    def first(stage: AppearanceStage) -> list[dict]:
        record = Batches()
        for options in ({}, {"sources": {"fake": SourceConfig(str(cached))}}):
            make_trainer(max_steps=1, callbacks=[record]).fit(stage, make_data(**options))
        return record.batches

    return first


def test_cached_latents_replace_the_images(
    make_stage: Callable[..., AppearanceStage], batches: Callable[..., list[dict]]
):
    plain, cached = batches(make_stage())
    assert plain["key"] == cached["key"]
    assert {"reference", "target"} <= set(plain)
    assert not {"reference", "target"} & set(cached)
    assert cached["target_moments"].shape == cached["target_mirrored_moments"].shape == (2, 3, 8, 4, 4)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("draws", [False, True])
@pytest.mark.parametrize("name", ["reference", "target"])
def test_cached_latents_match_encoded_images(
    make_stage: Callable[..., AppearanceStage],
    batches: Callable[..., list[dict]],
    name: str,
    draws: bool,
    mirror: bool,
):
    stage = make_stage()
    plain, cached = batches(stage)
    if mirror:
        plain, cached = (mirrored(batch, stream_generators("mirror", [0, 1])) for batch in (plain, cached))
    own, again = (stream_generators("test", [0, 1]) if draws else None for _ in range(2))
    read = stage.latents(cached, name, own)
    torch.testing.assert_close(read, stage.encode(plain[name], again), atol=5e-3, rtol=5e-3)


def test_latents_of_another_vae_are_ignored(
    make_stage: Callable[..., AppearanceStage], batches: Callable[..., list[dict]], messages: list[str]
):
    stage = make_stage()
    stage.vae_fingerprint = "0" * 16
    plain, cached = batches(stage)
    torch.testing.assert_close(cached["target"], plain["target"])
    assert not any(name.endswith("moments") for name in cached)
    (message,) = messages
    assert "this VAE is 0000000000000000, images are encoded" in message


def test_batch_has_latents_only_if_all_frames_do(
    make_data: Callable[..., PortraitViewsDataModule], backbone: Path, capture: Path, cached: Path
):
    options = {"plain": SourceConfig(str(capture)), "cached": SourceConfig(str(cached))}
    data = make_data(sources=options, batch_size=2)
    data.setup("fit")
    vae = vae_fingerprint(load_vae(str(backbone), "cpu"))
    data._vae = vae
    stream = iter(data.train_dataloader())
    kinds = [("target" in batch, "target_moments" in batch) for batch in itertools.islice(stream, 40)]
    assert set(kinds) == {(True, False), (False, True)}


@pytest.mark.parametrize("mirror", [False, True])
def test_training_on_cached_latents_encodes_nothing(
    make_stage: Callable[..., AppearanceStage],
    make_data: Callable[..., PortraitViewsDataModule],
    make_trainer: Callable,
    cached: Path,
    messages: list[str],
    monkeypatch: pytest.MonkeyPatch,
    mirror: bool,
):
    stage = make_stage(mirror=mirror)

    def never(*_: object) -> None:
        raise AssertionError("images were encoded")

    monkeypatch.setattr(stage.vae, "encode", never)
    data = make_data(sources={"fake": SourceConfig(str(cached))})
    make_trainer(max_steps=2, callbacks=[Throughput()]).fit(stage, data)
    (message,) = messages
    assert "they are used" in message
