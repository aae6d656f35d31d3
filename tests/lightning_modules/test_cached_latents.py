"""Training on latents that the shards hold, and on nobody else's."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from datamodules import PortraitViewsDataModule, SourceConfig
from lightning_modules.appearance import AppearanceStage
from lightning_modules.draws import generator
from shards.cache_latents import cache, load_vae


@pytest.fixture(scope="module")
def cached(capture: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The capture with the toy backbone's latents."""
    out = tmp_path_factory.mktemp("cached") / "fake"
    cache(capture, out, load_vae(str(backbone), "cpu"))
    return out


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the stage tells people."""
    messages: list[str] = []
    monkeypatch.setattr("lightning_modules.stage.rank_zero_info", messages.append)
    return messages


def first_batch(data: PortraitViewsDataModule) -> dict:
    data.setup("fit")
    return next(iter(data.train_dataloader()))


@pytest.mark.parametrize("draws", [False, True])
@pytest.mark.parametrize("name", ["reference", "target"])
def test_cached_latents_are_those_of_the_images(
    make_stage: Callable[..., AppearanceStage],
    make_data: Callable[..., PortraitViewsDataModule],
    cached: Path,
    name: str,
    draws: bool,
):
    stage = make_stage()
    batch = first_batch(make_data(sources={"fake": SourceConfig(str(cached))}))
    assert batch["vae"] == stage.vae_fingerprint
    draw, again = (generator("test") if draws else None for _ in range(2))
    read = stage.latents(batch, name, draw)
    torch.testing.assert_close(read, stage.encode(batch[name], again), atol=5e-3, rtol=5e-3)


def test_another_vae_s_latents_are_not_used(
    make_stage: Callable[..., AppearanceStage],
    make_data: Callable[..., PortraitViewsDataModule],
    cached: Path,
    said: list[str],
):
    stage = make_stage()
    batch = first_batch(make_data(sources={"fake": SourceConfig(str(cached))}))
    strange = batch | {"vae": "0" * 16, "target_moments": torch.full_like(batch["target_moments"], 9.0)}
    found = stage.latents(strange, "target")
    stage.latents(strange, "target")
    torch.testing.assert_close(found, stage.encode(batch["target"]))
    assert len(said) == 1
    assert "images are encoded" in said[0]


def test_training_says_that_it_uses_them(
    make_stage: Callable[..., AppearanceStage],
    make_data: Callable[..., PortraitViewsDataModule],
    make_trainer: Callable,
    cached: Path,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
):
    stage = make_stage()

    def never(*_: object) -> None:
        raise AssertionError("images were encoded")

    monkeypatch.setattr(stage.vae, "encode", never)
    make_trainer(max_steps=2).fit(stage, make_data(sources={"fake": SourceConfig(str(cached))}))
    assert len(said) == 1
    assert "they are used" in said[0]
