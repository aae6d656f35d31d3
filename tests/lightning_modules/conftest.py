"""Toy captures, a toy backbone and a trainer without logs or checkpoints, for all tests of training."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from datamodules import PortraitViewsDataModule, SourceConfig
from lightning_modules.appearance import AppearanceStage
from lightning_modules.networks.portrait import REFERENCE, save_portrait_model
from lightning_modules.networks.pretrained import save_backbone
from lightning_modules.optimization import Learning
from shards.builder import build
from tests.networks.toy import prompt, toy_backbone, toy_model
from tests.shards.fake_source import FakeSource

SIZE = 16


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built folder: 4 people in each split, 2 frames each, 4 views of 16×16 pixels."""
    folder = tmp_path_factory.mktemp("capture") / "fake"
    build(FakeSource(4, 2, views=4, size=SIZE), folder, 0)
    return folder


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a toy backbone that downsamples by 4."""
    folder = tmp_path_factory.mktemp("backbone") / "toy"
    save_backbone(toy_backbone(), str(folder))
    return folder


@pytest.fixture(scope="session")
def make_data(
    capture: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., PortraitViewsDataModule]:
    """A function that makes a data module over the capture."""

    def make(**change: Any) -> PortraitViewsDataModule:
        options: dict[str, Any] = {
            "sources": {"fake": SourceConfig(str(capture))},
            "image_size": SIZE,
            "batch_size": 2,
            "targets": 3,
            "conditions": False,
            "num_workers": 0,
            "val_frames": 4,
            "cache_dir": str(tmp_path_factory.mktemp("cache")),
        }
        return PortraitViewsDataModule(**{**options, **change})

    return make


@pytest.fixture(scope="session")
def make_stage(backbone: Path) -> Callable[..., AppearanceStage]:
    """A function that makes stage 1 on the toy backbone."""

    def make(**change: Any) -> AppearanceStage:
        options: dict[str, Any] = {"backbone": str(backbone), "learning": Learning(1e-3), "sample_steps": 2}
        return AppearanceStage(**{**options, **change})

    return make


@pytest.fixture(scope="session")
def several_tokens_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and a model for `several_tokens`."""
    folder = tmp_path_factory.mktemp("several_tokens")
    build(FakeSource(2, 1, views=4, size=2 * SIZE), folder / "larger", 0)
    model = toy_model()
    backbone = replace(model.backbone, empty_prompt=prompt(tokens=3))
    save_portrait_model(replace(model, backbone=backbone), str(folder / "model"))
    return folder


@pytest.fixture
def several_tokens(
    make_data: Callable[..., PortraitViewsDataModule], several_tokens_folder: Path
) -> tuple[Any, Any]:
    """Paths of a toy backbone and F_ref, and data, where every attention has several tokens: over a single
    token the gradients of queries and keys are zero."""
    sources = {"fake": SourceConfig(str(several_tokens_folder / "larger"))}
    model = several_tokens_folder / "model"
    parts = {"backbone": str(model), "appearance": str(model / REFERENCE)}
    return parts, make_data(sources=sources, image_size=2 * SIZE, conditions=True)


@pytest.fixture(scope="session")
def make_trainer(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., pl.Trainer]:
    """A function that makes a CPU trainer without logs, progress bars or checkpoints."""

    def make(**change: Any) -> pl.Trainer:
        options: dict[str, Any] = {
            "accelerator": "cpu",
            "max_steps": 4,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "limit_val_batches": 0,
            "default_root_dir": tmp_path_factory.mktemp("runs"),
        }
        return pl.Trainer(**{**options, **change})

    return make
