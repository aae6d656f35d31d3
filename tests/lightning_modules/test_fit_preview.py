"""fit-preview writes a decoder into a model folder."""

import pytest
import torch

from core.errors import InputError
from lightning_modules.fit_preview import main
from lightning_modules.networks.portrait import PREVIEW_DECODER, save_portrait_model
from lightning_modules.networks.preview import load_decoder
from lightning_modules.sampling.model_summary import ModelSummary
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.settings import Sampling
from tests.networks.toy import noise, toy_model

PEOPLE = ["--data", "tests/data/people", "--split", "val"]


@pytest.fixture
def model(tmp_path):
    save_portrait_model(toy_model(image_size=64), str(tmp_path / "model"))
    return tmp_path / "model"


def test_a_decoder_is_written_into_the_model(model, capsys):
    summary = ModelSummary.read(str(model))
    with pytest.raises(InputError, match="model has no preview_decoder/; fit-preview makes one"):
        summary.check(Sampling(decoder="preview"), views=1)
    main(["--model", str(model), *PEOPLE, "--images", "32", "--kernel", "1"])
    assert "fitted to 32 images" in capsys.readouterr().out
    decoder = load_decoder(model / PREVIEW_DECODER)
    assert decoder.conv.weight.shape == (48, 4, 1, 1)
    summary.check(Sampling(decoder="preview"), views=1)
    pipeline, latents = DiffPortrait3DPipeline.from_pretrained(model), noise(1, 4, 16, 16)
    with torch.no_grad():
        expected = decoder.decode(latents).sample.clamp(-1, 1)
    torch.testing.assert_close(pipeline.decode(latents, decoder="preview"), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*PEOPLE, "--kernel", "2"], "--kernel 2: give an odd number"),
        (["--data", "tests/data/people", "--split", "train"], "has 9 images of train: give 32 or more"),
    ],
)
def test_invalid_arguments_are_input_errors(model, arguments, message):
    with pytest.raises(InputError, match=message):
        main(["--model", str(model), *arguments])


def test_images_of_another_size_are_an_input_error(tmp_path):
    save_portrait_model(toy_model(), str(tmp_path / "model"))
    with pytest.raises(InputError, match=r"has images of 64 pixels; .*model is for 16"):
        main(["--model", str(tmp_path / "model"), *PEOPLE])
