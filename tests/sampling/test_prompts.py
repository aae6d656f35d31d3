"""Prompts in the pipeline and in `synthesize`."""

import numpy as np
import pytest
import torch

from core.errors import InputError
from lightning_modules.networks.portrait import save_portrait_model
from lightning_modules.networks.text import embed_prompt
from lightning_modules.sampling.model_summary import ModelSummary
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.settings import Sampling
from tests.networks.toy import PROMPT_CHANNELS, noise, toy_model, toy_text_encoder
from tests.sampling.test_pipeline import equal, orbit, picture, pictures

ASKED = {"portrait": picture(size=48), "cameras": orbit(2), "conditions": pictures(2), "progress": False}


@pytest.fixture
def model(tmp_path):
    """A model folder with a text encoder, whose empty prompt is its embedding of ""."""
    toy_text_encoder(tmp_path / "text")
    made = toy_model()
    made.backbone.empty_prompt.set_(embed_prompt(tmp_path / "text", ""))
    save_portrait_model(made, str(tmp_path / "model"))
    toy_text_encoder(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def pipeline(model):
    return DiffPortrait3DPipeline.from_pretrained(model)


def test_empty_prompt_changes_no_bit_and_another_does(pipeline):
    plain = pipeline(**ASKED, steps=2)
    assert equal(pipeline(**ASKED, steps=2, prompt=""), plain)
    prompted = pipeline(**ASKED, steps=2, prompt="abc")
    assert not equal(prompted, plain)
    assert not equal(pipeline(**ASKED, steps=2, prompt="xyz"), prompted)


def test_only_f_reads_the_prompt_in_the_conditional_pass(pipeline):
    """F_ref and F_cam read the empty prompt, and so does the unconditional pass."""
    seen = {}

    def watch(name, network):
        attention = network.mid_block.attentions[0].transformer_blocks[0].attn2
        attention.to_k.register_forward_hook(lambda _, given, __: seen.setdefault(name, []).append(given[0]))

    watch("F", pipeline.unet)
    watch("F_ref", pipeline.appearance_reference)
    watch("F_cam", pipeline.view_control)
    pipeline(**ASKED, steps=1, prompt="abc")
    given, empty = pipeline.embed_prompt("abc"), pipeline.empty_prompt
    assert given.shape == (1, 7, PROMPT_CHANNELS)
    assert not torch.allclose(given, empty)
    assert [torch.equal(x, expected) for x, expected in zip(seen["F"], (given, empty), strict=True)] == [
        True
    ] * 2
    assert all(torch.equal(x, empty) for name in ("F_ref", "F_cam") for x in seen[name])


def test_prompt_alone_enables_guidance(model):
    """With guidance the prompt's prediction is moved away from the empty prompt's, as usual."""
    pipeline = DiffPortrait3DPipeline.from_pretrained(model)
    denoiser, given = pipeline.denoiser, pipeline.embed_prompt("abc")
    latents, timesteps = noise(2, 4, 4, 4), torch.full((2,), 501)
    with torch.no_grad():
        prompted = denoiser(latents, timesteps, views=2, prompt=given)
        empty = denoiser(latents, timesteps, views=2)
        both = denoiser(latents, timesteps, views=2, prompt=given, both=True)
    assert not torch.allclose(prompted, empty)
    torch.testing.assert_close(both, torch.cat([prompted, empty]), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"a prompt of \(1, 3, 32\), but this F reads \(1, 7, 32\)"):
        denoiser(latents, timesteps, views=2, prompt=given[:, :3])


def test_text_encoder_is_saved_with_the_model(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "again")
    again = DiffPortrait3DPipeline.from_pretrained(tmp_path / "again")
    assert torch.equal(again.embed_prompt("abc"), pipeline.embed_prompt("abc"))


def test_prompt_without_a_text_encoder_is_an_input_error(model, tmp_path):
    bare = DiffPortrait3DPipeline.of(toy_model())
    with pytest.raises(InputError, match="prompt 'abc': the model has no tokenizer/ and text_encoder/"):
        bare(**ASKED, steps=1, prompt="abc")
    with pytest.raises(InputError, match=r"negative_prompt: .* the empty prompt"):
        bare(**ASKED, steps=1, negative_prompt="abc")
    save_portrait_model(toy_model(), str(tmp_path / "bare"))
    ModelSummary.read(str(model)).check(Sampling(prompt="abc"), views=1)
    with pytest.raises(InputError, match="bare has no tokenizer/ and text_encoder/"):
        ModelSummary.read(str(tmp_path / "bare")).check(Sampling(prompt="abc"), views=1)


def test_images_are_unlike_by_more_than_rounding(pipeline):
    plain, prompted = (np.stack(pipeline(**ASKED, steps=2, prompt=text).images) for text in ("", "abc"))
    assert np.abs(plain.astype(int) - prompted).max() > 1
