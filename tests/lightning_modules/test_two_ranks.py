"""Every training on two and four ranks, launched by `fit` itself, takes the steps that one process takes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.model_folders import save_model
from lightning_modules.networks.portrait import CONTROL, REFERENCE, save_portrait_model
from tests.lightning_modules.processes import environment, losses, settings
from tests.networks.toy import toy_model, toy_prior, toy_vae

STEPS = 10
STAGES = ("stage1", "stage2", "stage3", "noise_prior")


@pytest.fixture
def options(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Each stage's settings at toy size."""
    save_portrait_model(toy_model(), str(tmp_path / "model"))
    parts = {
        "model__init_args__backbone": tmp_path / "model",
        "model__init_args__appearance": tmp_path / "model" / REFERENCE,
        "model__init_args__control": tmp_path / "model" / CONTROL,
    }
    names = list(parts)
    prior = {name: x for name, x in toy_prior().config.items() if not name.startswith("_")}
    own = {f"model__init_args__prior__init_args__{name}": _text(x) for name, x in prior.items()}
    save_model(toy_vae(), tmp_path / "vae")
    small = {
        "model__init_args__block_out_channels": [8, 8],
        "model__init_args__norm_num_groups": 4,
    }
    return {
        "backbone_vae": small | {"model__init_args__image_size": 16},
        "backbone_unet": small
        | {
            "model__init_args__vae": tmp_path / "vae",
            "model__init_args__cross_attention_dim": 8,
            "model__init_args__reading": 0.5,
            "data__init_args__vae": tmp_path / "vae",
            "data__init_args__pairs": True,
            "data__init_args__cache_dir": "null",
        },
        "stage1": {names[0]: parts[names[0]]},
        "stage2": {name: parts[name] for name in names[:2]},
        "stage3": parts | {"model__init_args__middle": "unconditional", "data__init_args__targets": 3},
        "noise_prior": own | {"data__init_args__references": 2},
    }


def _text(value: Any) -> Any:
    """A setting as an argument."""
    return list(value) if isinstance(value, tuple) else value


def run(root: Path, capture: Path, stage: str, **options: Any) -> dict[str, list[float]]:
    """Train; the logged losses by step."""
    given = {"trainer__max_steps": STEPS, "trainer__val_check_interval": STEPS, **options}
    command = [sys.executable, *settings(root, capture, stage, **given)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return losses(root)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_take_the_steps_of_one_process(stage, options, capture, tmp_path):
    own = options[stage]
    alone = run(tmp_path / "alone", capture, stage, **own, data__init_args__batch_size=2)
    two = {"trainer__devices": 2, "trainer__strategy": "ddp", "data__init_args__batch_size": 1}
    found = run(tmp_path / "two", capture, stage, **own, **two)
    check_equal(found, alone)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("stage", ["backbone_vae", "backbone_unet"])
def test_ranks_take_the_steps_of_one_process_for_the_backbone(stage, ranks, options, capture, tmp_path):
    own = options[stage]
    alone = run(tmp_path / "alone", capture, stage, **own, data__init_args__batch_size=8)
    several = {"trainer__devices": ranks, "trainer__strategy": "ddp"}
    several["data__init_args__batch_size"] = 8 // ranks
    check_equal(run(tmp_path / "several", capture, stage, **own, **several), alone)


def check_equal(found: dict[str, list[float]], alone: dict[str, list[float]]) -> None:
    """Check that both runs have logged the same losses."""
    assert max(len(found[name]) for name in ("train/loss", "train/loss_reading")) == STEPS
    assert len(found["val/loss"]) == 1
    for name, values in alone.items():
        assert found[name] == pytest.approx(values, rel=1e-4), name
