"""A toy model of 32×32 pixels, photos of three people, and the command with few steps."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lightning_modules import synthesize as command
from lightning_modules.networks.portrait import PortraitModel, save_portrait_model
from lightning_modules.sampling import synthesis, view_conditions
from tests.faces import FlatRenderer
from tests.lightning_modules.synthesize.folders import SIZE
from tests.networks.toy import toy_model, toy_prior

FAST = ["--steps", "1", "--window", "2", "--overlap", "1", "--align", "false"]


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders of a whole model (`whole`) and of one that ends with stage 1 (`stage1`)."""
    folder = tmp_path_factory.mktemp("models")
    prior = toy_prior(image_size=SIZE, encoder_channels=(8,) * 5, rendering_size=16)
    whole = replace(toy_model(), noise_prior=prior)
    whole.backbone.unet.register_to_config(sample_size=SIZE // whole.backbone.downsampling)
    save_portrait_model(whole, str(folder / "whole"))
    early = PortraitModel(whole.backbone, whole.reference, reference_timestep="zero")
    save_portrait_model(early, str(folder / "stage1"))
    return folder


@pytest.fixture(autouse=True)
def flat_renderer(monkeypatch):
    monkeypatch.setattr(view_conditions, "open_renderer", lambda _: FlatRenderer())


@pytest.fixture
def photos(tmp_path):
    """A folder of people: ada and bo with one photo each, cleo with two."""
    draw = np.random.default_rng(0)
    for name in ("ada.jpg", "bo.png", "cleo/1.png", "cleo/2.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.fixture
def run(models, photos, tmp_path):
    """A function that runs the command, on ada's portrait by default, and returns its output folder."""

    def run_with(*arguments, out="out", portrait=("--portrait", "ada.jpg")):
        flag, *names = portrait
        given = [flag, *(str(photos / name) for name in names)]
        folder = tmp_path / out
        command.main(["--model", str(models / "whole"), *given, "--out", str(folder), *FAST, *arguments])
        return folder

    return run_with


@pytest.fixture
def no_model(monkeypatch):
    """Fail the test if a model is loaded; the machine has no Apple GPU."""
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr(synthesis, "open_pipeline", lambda *_: pytest.fail("a model was loaded"))
