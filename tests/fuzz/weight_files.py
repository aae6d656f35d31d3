"""Samples of weight files, and their loaders."""

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from baselines.archives import read_archive, state_dict
from core.errors import InputError
from core.tensors import read_tensors
from generators.gan.checkpoint import generator_of
from generators.gan.folder import load_generator, save_generator
from lightning_modules.networks.provenance import StageCard
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.parts import IN_CHECKPOINT, load_part
from lightning_modules.released.checkpoint import read_checkpoint as read_released
from lightning_modules.released.checkpoint import released_layout, shapes_of
from lightning_modules.sampling.model_summary import ModelSummary
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from tests.fuzz.contents import fingerprint
from tests.generators.network_pickles import write_network
from tests.generators.toy_generators import toy_generator
from tests.networks.toy import toy_model, toy_unet


def make_model(folder: Path) -> None:
    """A toy model without a noise prior."""
    DiffPortrait3DPipeline.of(toy_model()).save_pretrained(folder / "model")


def load_model(folder: Path) -> str:
    """Load as `synthesize` and `evaluate` do."""
    path = str(folder / "model")
    ModelSummary.read(path)
    pipeline = DiffPortrait3DPipeline.from_pretrained(path)
    model = pipeline.model
    networks = (model.backbone.unet, model.backbone.vae, model.reference, model.control, model.cross_view)
    weights = [dict(net.config) | net.state_dict() for net in networks if net is not None]
    return fingerprint([dict(pipeline.scheduler.config), weights])


def make_checkpoint(folder: Path) -> None:
    """A checkpoint of stage 1 with the entries of Lightning and the callbacks."""
    torch.manual_seed(0)
    reference = AppearanceReference.from_unet(toy_unet(block_out_channels=(8, 8, 8)))
    weights = {f"reference.{name}": x for name, x in reference.state_dict().items()}
    card = StageCard("appearance", "reference", "0" * 16, {"reference_timestep": "zero"})
    checkpoint = {
        "epoch": 0,
        "global_step": 3,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": weights,
        "callbacks": {"WeightAverage": {"average": weights, "updates": 3}, "Evaluation": {"validations": 1}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": []}],
        IN_CHECKPOINT: asdict(card),
    }
    torch.save(checkpoint, folder / "last.ckpt")


def load_checkpoint(folder: Path) -> str:
    """Load the part as a later stage does."""
    reference = AppearanceReference.from_unet(toy_unet(block_out_channels=(8, 8, 8)))
    card = load_part(reference, str(folder / "last.ckpt"), "appearance", "0" * 16)
    return fingerprint(card, reference.state_dict())


def make_released(folder: Path) -> None:
    """State dicts of another network, so that the released layout is refused."""
    weights = {f"module.{name}": x for name, x in toy_unet(block_out_channels=(8, 8, 8)).state_dict().items()}
    torch.save({"state_dict": weights}, folder / "model.th")
    torch.save(weights, folder / "old.pth", _use_new_zipfile_serialization=False)


def load_released(folder: Path) -> str:
    """Load as `import_released` does."""
    found = []
    for path in sorted(folder.iterdir()):
        tensors = read_released(path)
        found.append(tensors)
        try:
            released_layout(shapes_of(tensors), 8)
        except InputError as error:  # the valid sample is refused, too
            found.append(type(error).__name__)
    return fingerprint(found)


def make_gan_pickle(folder: Path) -> None:
    """A toy EG3D in the published format."""
    with pytest.MonkeyPatch.context() as patch:
        write_network(folder / "network.pkl", "eg3d", patch)


def load_gan_pickle(folder: Path) -> str:
    """Load as `import_gan` does."""
    generator = generator_of(folder / "network.pkl")
    return fingerprint(generator.state_dict(), generator.settings)


def make_gan_folder(folder: Path) -> None:
    """A toy PanoHead as `import_gan` writes it."""
    save_generator(toy_generator("panohead"), folder / "gan", "toy")


def load_gan_folder(folder: Path) -> str:
    """Load as renderers do."""
    generator = load_generator(folder / "gan")
    return fingerprint(generator.state_dict(), generator.settings)


def make_tensors(folder: Path) -> None:
    """Weights as safetensors and as a pickle."""
    from safetensors.torch import save_file

    weights = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.float16)}
    save_file(weights, folder / "a.safetensors")
    torch.save(weights, folder / "b.bin")


def load_tensors(folder: Path) -> str:
    """Load as the weights of model folders."""
    return fingerprint([read_tensors(path) for path in sorted(folder.iterdir())])


def make_archive(folder: Path) -> None:
    """A checkpoint of a baseline that holds other objects than tensors."""
    weights = {"module.a": torch.arange(12.0).reshape(3, 4)}
    torch.save({"state_dict": weights, "opts": Namespace(size=256), "epoch": 3}, folder / "net.ckpt")


def load_archive(folder: Path) -> str:
    """Load as `import_baseline` does."""
    path = folder / "net.ckpt"
    return fingerprint(state_dict(read_archive(path), str(path)))
