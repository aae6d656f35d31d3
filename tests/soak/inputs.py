"""Inputs of the commands: a toy model and its parts, captures and settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from core.model_folders import save_model
from lightning_modules.networks.portrait import CONTROL, REFERENCE, save_portrait_model
from shards.builder import build
from tests.networks.toy import toy_model, toy_vae
from tests.shards.fake_source import FakeSource
from tests.sources.studio import Studio, paint_dots, write_v2
from tests.sources.test_wild import photo

ROOT = Path(__file__).parents[2]
SIZE, VIEWS = 16, 4
PEOPLE = ("007", "018", "030")
SEQUENCE = "EXP-3-cheeks+nose"
STEPS = {"max_steps": 6, "val_check_interval": 3, "log_every_n_steps": 1, "accelerator": "cpu"}
SMALL_EVALUATION = {"frames": 1, "views": 2, "steps": 2, "metrics": ["PSNR"]}
ORBIT = {"stage2": 2}  # views by stage; rendering one takes a second
NETWORK = {"block_out_channels": [8, 8], "norm_num_groups": 4}
PRIOR = {
    "image_size": SIZE,
    "encoder_channels": [8, 8, 8, 8],
    "code_channels": 8,
    "lift_side": 4,
    "volume_channels": [8, 8],
    "grow_channels": [8],
    "feature_channels": 4,
    "field_channels": 8,
    "surroundings_channels": 8,
    "surroundings_doublings": 1,
    "rendering_size": 8,
    "decoder_channels": [8, 8],
    "coarse": 5,
    "fine": 4,
}


def make_inputs(folder: Path) -> None:
    """Write all inputs of `tests.soak.jobs`."""
    save_portrait_model(toy_model(), str(folder / "model"))
    save_model(toy_vae(), folder / "vae")
    build(FakeSource(4, 2, views=VIEWS, size=SIZE), folder / "shards", 0)
    studio = Studio()
    for person in PEOPLE:
        write_v2(folder / "nersemble", person, SEQUENCE, studio, studio.pictures(paint_dots))
    (folder / "photos").mkdir()
    for number in range(6):
        photo(shift=(100.0 + 8 * number, 40.0)).save(folder / "photos" / f"person{number}.png")
    for name, (model, data, trainer) in stages(folder).items():
        write_stage(folder / f"{name}.yaml", ROOT / "configs" / f"{name}.yaml", model, data, trainer)


Settings = dict[str, Any]


def stages(folder: Path) -> Mapping[str, tuple[Settings, Settings, Settings]]:
    """Changes to the shipped configurations: to model, data and trainer of each stage."""
    parts = {"backbone": str(folder / "model"), "appearance": str(folder / "model" / REFERENCE)}
    control = {"control": str(folder / "model" / CONTROL)}
    views = {
        "sources": {"fake": {"urls": str(folder / "shards")}},
        "image_size": SIZE,
        "batch_size": 2,
        "targets": 2,
        "num_workers": 1,
        "val_frames": 4,
    }
    pool = {"folders": [str(folder / "shards")], "batch_size": 16}
    learning = {"learning": {"rate": 1e-3, "decay": "cosine", "warmup_steps": 2}}
    return {
        "stage1": (learning | {"backbone": parts["backbone"]}, views, {}),
        "stage2": (learning | parts, views, {}),
        "stage3": (learning | parts | control, views | {"targets": 3}, {}),
        "noise_prior": (
            learning | {"prior": {"class_path": PRIOR_CLASS, "init_args": PRIOR}},
            views,
            {"num_sanity_val_steps": 0},
        ),
        "backbone_vae": (learning | NETWORK | {"image_size": SIZE}, pool, {}),
        "backbone_unet": (
            learning | NETWORK | {"vae": str(folder / "vae")},
            pool | {"vae": str(folder / "vae"), "cache_dir": "cache"},
            {},
        ),
    }


def shipped_callbacks() -> list[Settings]:
    """The callbacks of configs/trainer/default.yaml."""
    defaults = yaml.safe_load((ROOT / "configs/trainer/default.yaml").read_text(encoding="utf-8"))
    return defaults["trainer"]["callbacks"]


PRIOR_CLASS = "lightning_modules.networks.noise_prior.NoisePrior"


def write_stage(path: Path, shipped: Path, model: Settings, data: Settings, trainer: Settings) -> None:
    """Write a shipped configuration at toy size, with checkpoints every two steps and only a CSV log."""
    values = yaml.safe_load(shipped.read_text(encoding="utf-8"))
    values["name"] = "run"
    values["model"]["init_args"] |= model
    values["data"]["init_args"] |= data
    logger = {"class_path": "lightning_modules.loggers.RunLogger"}
    logger["init_args"] = {"save_dir": "runs", "name": "run"}
    values["trainer"] |= STEPS | trainer | {"logger": logger}
    callbacks = values["trainer"].get("callbacks") or shipped_callbacks()
    values["trainer"]["callbacks"] = callbacks + values["trainer"].pop("callbacks+", [])
    for callback in values["trainer"]["callbacks"]:
        settings = callback.setdefault("init_args", {})
        match callback["class_path"].rpartition(".")[2]:
            case "Evaluation":
                settings |= SMALL_EVALUATION | {"orbit_views": ORBIT.get(path.stem, 0)}
            case "Export":
                settings.clear()
            case "ModelCheckpoint":
                settings["every_n_train_steps"] = 2
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
