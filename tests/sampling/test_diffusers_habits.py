"""Compatibility with diffusers' pipelines: argument names, loading, outputs, callbacks, offloading."""

from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from diffusers.utils.hub_utils import PushToHubMixin
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import nn

from core.errors import InputError
from lightning_modules.networks import hub
from lightning_modules.sampling.offloading import OffloadedLayer, offload_layers
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from tests.networks.toy import noise, toy_model
from tests.sampling.test_pipeline import equal, orbit, picture, pictures

INPUTS = {"portrait": picture(size=48), "cameras": orbit(2), "conditions": pictures(2), "progress": False}


@pytest.fixture
def pipeline():
    return DiffPortrait3DPipeline.of(toy_model(prior=True))


@pytest.fixture
def saved(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "model", safe_serialization=True)
    return tmp_path / "model"


def test_from_pretrained_accepts_diffusers_arguments(saved):
    loaded = DiffPortrait3DPipeline.from_pretrained(
        saved, torch_dtype=torch.bfloat16, variant="fp16", use_safetensors=True, local_files_only=True
    )
    assert {part.dtype for part in (loaded.unet, loaded.vae, loaded.noise_prior)} == {torch.bfloat16}
    assert loaded.to(torch.float32).denoiser.empty_prompt.dtype == torch.float32


def test_from_pretrained_rejects_variants_and_pickles(saved):
    with pytest.raises(InputError, match="variant 'fp8'"):
        DiffPortrait3DPipeline.from_pretrained(saved, variant="fp8")
    weights = saved / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(InputError, match=r"vae.*\.bin is not safetensors"):
        DiffPortrait3DPipeline.from_pretrained(saved, use_safetensors=True)


def test_from_pretrained_downloads_from_the_hub(saved, monkeypatch):
    download = Mock(return_value=str(saved))
    monkeypatch.setattr(hub, "snapshot_download", download)
    assert DiffPortrait3DPipeline.from_pretrained("someone/model", revision="main").image_size == 16
    assert download.call_args.args == ("someone/model",)
    assert download.call_args.kwargs["revision"] == "main"
    download.side_effect = LocalEntryNotFoundError("no connection")
    with pytest.raises(InputError, match="someone/model: no such folder, and not available from the hub"):
        DiffPortrait3DPipeline.from_pretrained("someone/model", local_files_only=True)


def test_save_pretrained_accepts_an_empty_folder(pipeline, tmp_path):
    (tmp_path / "empty").mkdir()
    pipeline.save_pretrained(tmp_path / "empty")
    assert (tmp_path / "empty" / "unet" / "config.json").is_file()
    for options in ({"safe_serialization": False}, {"variant": "fp16"}):
        with pytest.raises(InputError, match="saved as safetensors without a variant"):
            pipeline.save_pretrained(tmp_path / "other", **options)


def test_diffusers_argument_names_are_accepted(pipeline):
    ours = pipeline(**INPUTS, steps=2, guidance=2.0)
    assert equal(ours, pipeline(**INPUTS, num_inference_steps=2, guidance_scale=2.0))
    assert equal(ours, pipeline(**INPUTS, steps=2, num_inference_steps=2, guidance=2.0))
    for options, message in (
        ({"steps": 2, "num_inference_steps": 3}, "steps is given twice, as 2 and as 3"),
        (
            {"negative_prompt": "a face"},
            "negative_prompt: not an argument of this pipeline: the unconditional",
        ),
        ({"height": 512}, "height: .* the size that the model was trained for"),
        (
            {"clip_skip": 1},
            "clip_skip: not an argument of this pipeline: choose from chunk, decoder, deep_every",
        ),
        ({"output_type": "latent"}, "output_type 'latent': choose from pil, np, pt"),
        ({"generator": 3}, "give a torch.Generator, not a int"),
        (
            {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]},
            "embeds: choose from latents, pred_orig",
        ),
    ):
        with pytest.raises(InputError, match=message):
            pipeline(**INPUTS, **options)


def test_generator_decides_the_result(pipeline):
    def views(generator):
        return pipeline(**INPUTS, steps=2, generator=generator)

    generator = torch.Generator().manual_seed(0)
    first, second = views(generator), views(generator)
    assert equal(first, views(torch.Generator().manual_seed(0)))
    assert not equal(first, second)


def test_output_types_agree(pipeline):
    images = np.stack([np.asarray(image) for image in pipeline(**INPUTS, steps=1).images])
    array = pipeline(**INPUTS, steps=1, output_type="np").images
    assert (array.shape, array.dtype) == ((2, 16, 16, 3), np.float32)
    np.testing.assert_array_equal(np.round(array * 255).astype(np.uint8), images)
    (tensor,) = pipeline(**INPUTS, steps=1, output_type="pt", return_dict=False)
    np.testing.assert_array_equal(tensor.movedim(1, -1).numpy(), array)


def test_callback_receives_the_predicted_clean_latents(pipeline):
    """From latents of zero, the noise follows from a step's predicted clean latents, and gives its result."""
    seen = []

    def watch(_pipeline, _step, timestep, tensors):
        seen.append((int(timestep), tensors))
        return {"latents": torch.zeros_like(tensors["latents"])}

    names = ("latents", "pred_original_sample")
    watched = {"callback_on_step_end": watch, "callback_on_step_end_tensor_inputs": names}
    pipeline(**INPUTS, steps=4, **watched)
    alphas = pipeline.scheduler.alphas_cumprod
    for (timestep, tensors), (following, _) in pairwise(seen[1:]):
        now, then, clean = alphas[timestep], alphas[following], tensors["pred_original_sample"]
        noise = -now.sqrt() * clean / (1 - now).sqrt()
        expected = then.sqrt() * clean + (1 - then).sqrt() * noise
        torch.testing.assert_close(tensors["latents"], expected, rtol=1e-4, atol=1e-4)


def test_callback_sees_each_step_and_can_replace_latents(pipeline):
    seen = []

    def watch(given, step, timestep, tensors):
        assert given is pipeline
        seen.append((step, int(timestep), tuple(tensors["latents"].shape)))
        return {}

    plain = pipeline(**INPUTS, steps=2)
    assert equal(plain, pipeline(**INPUTS, steps=2, callback_on_step_end=watch))
    assert seen == [(0, 501, (2, 4, 4, 4)), (1, 1, (2, 4, 4, 4))]
    zeros = pipeline(
        **INPUTS,
        steps=2,
        callback_on_step_end=lambda *given: {"latents": torch.zeros_like(given[-1]["latents"])},
        output_type="pt",
    ).images
    expected = pipeline.decode(torch.zeros(2, 4, 4, 4), levels=True).float() / 255
    torch.testing.assert_close(zeros, expected)


def test_slicing_changes_images_by_at_most_one_level(pipeline):
    plain = pipeline(**INPUTS, steps=2)
    pipeline.enable_attention_slicing()
    pipeline.enable_vae_slicing()
    assert pipeline.vae.use_slicing
    sliced = pipeline(**INPUTS, steps=2)
    pairs = zip(plain.images, sliced.images, strict=True)
    differences = [np.abs(np.subtract(one, other, dtype=int)).max() for one, other in pairs]
    assert max(differences) <= 1  # sums are rounded in another order
    pipeline.disable_vae_slicing()
    assert equal(plain, pipeline(**INPUTS, steps=2))


def test_tiling_a_small_vae_keeps_images(pipeline):
    plain = pipeline(**INPUTS, steps=1)
    pipeline.enable_vae_tiling()
    assert pipeline.vae.use_tiling
    assert equal(plain, pipeline(**INPUTS, steps=1))  # images of one tile
    vae = pipeline.vae
    vae.tile_latent_min_size, vae.tile_sample_min_size, vae.tile_overlap_factor = 2, 8, 0.5
    tiled = pipeline(**INPUTS, steps=1)
    assert not equal(plain, tiled)
    assert tiled.images[0].size == plain.images[0].size
    pipeline.disable_vae_tiling()
    assert equal(plain, pipeline(**INPUTS, steps=1))


def test_moving_to_a_missing_gpu_is_an_input_error(pipeline, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for place in (("cuda",), (torch.device("cuda", 1),), (torch.float16, "mps")):
        with pytest.raises(InputError, match=r"^to .*; this machine has cpu$"):
            pipeline.to(*place)
    with pytest.raises(InputError, match=r"^to cuda: no such device"):
        pipeline.to(device="cuda")
    assert pipeline.to("cpu", torch.float32) is pipeline


def test_push_to_hub_uploads_what_save_pretrained_writes(pipeline, saved, monkeypatch):
    uploaded = {}

    def upload(_pipeline, folder, repository, **_options):
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        uploaded.update({path.relative_to(folder).as_posix(): path.read_bytes() for path in files})
        return f"https://huggingface.co/{repository}/commit/1"

    create = Mock(return_value=Mock(repo_id="someone/model"))
    monkeypatch.setattr("diffusers.utils.hub_utils.create_repo", create)
    monkeypatch.setattr("diffusers.utils.hub_utils.load_or_create_model_card", Mock())
    monkeypatch.setattr("diffusers.utils.hub_utils.populate_model_card", Mock())
    monkeypatch.setattr(PushToHubMixin, "_upload_folder", upload)
    assert pipeline.push_to_hub("someone/model", private=True).endswith("someone/model/commit/1")
    assert create.call_args.kwargs["private"]
    written = [path for path in saved.rglob("*") if path.is_file()]
    assert uploaded == {path.relative_to(saved).as_posix(): path.read_bytes() for path in written}


def test_push_to_hub_without_connection_is_an_input_error(pipeline, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"model: not uploaded: .*; save_pretrained writes the folder"):
        pipeline.push_to_hub("someone/model")


@pytest.fixture
def moves(monkeypatch):
    """The calls of `Module.to`, as (class, device)."""
    found, move = [], nn.Module.to

    def watched(module, *args, **options):
        found.append((type(module).__name__, str(args[0]) if args else None))
        return move(module, *args, **options)

    monkeypatch.setattr(nn.Module, "to", watched)
    return found


def test_model_offload_moves_networks_in_order(pipeline, moves):
    plain = pipeline(**INPUTS, steps=2)
    pipeline.enable_model_cpu_offload(device="cpu:0")  # in place of a GPU
    moves.clear()
    assert equal(plain, pipeline(**INPUTS, steps=2))
    loaded = [name for name, device in moves if device == "cpu:0"]
    denoising = ["UNet2DConditionModel", "AppearanceReference", "ControlNetModel", "CrossView"]
    assert loaded == ["AutoencoderKL", "NoisePrior", "AutoencoderKL", *denoising, "AutoencoderKL"]
    assert [name for name, device in moves if device == "cpu"] == [
        "AutoencoderKL", "AutoencoderKL", "NoisePrior", *denoising, "AutoencoderKL"]  # fmt: skip


def test_sequential_offload_loads_every_layer_and_restores_it(pipeline, monkeypatch):
    plain = pipeline(**INPUTS, steps=2)
    loads, load = set(), OffloadedLayer.load

    def watched(layer, module, *inputs):
        loads.add(module)
        return load(layer, module, *inputs)

    monkeypatch.setattr(OffloadedLayer, "load", watched)
    kept = {id(x) for part in pipeline._networks() for x in part.parameters()}
    pipeline.enable_sequential_cpu_offload(device="cpu:0")  # in place of a GPU
    assert equal(plain, pipeline(**INPUTS, steps=2))
    assert {id(x) for part in pipeline._networks() for x in part.parameters()} == kept
    weighted = {m for part in pipeline._networks() for m in part.modules() if list(m.parameters(False))}
    assert len(weighted & loads) > 0.9 * len(weighted)  # a few layers never run
    with pytest.raises(InputError, match="load the pipeline again"):
        pipeline.enable_model_cpu_offload(device="cpu:0")


def test_offloaded_layer_runs_on_the_device():
    layer = nn.BatchNorm1d(3).eval()
    weights = dict(layer.state_dict(keep_vars=True))
    offload_layers(layer, torch.device("meta"))
    assert layer(noise(2, 3)).device.type == "meta"
    assert layer(input=noise(2, 3)).device.type == "meta"
    assert all(layer.state_dict(keep_vars=True)[name] is x for name, x in weights.items())
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        layer(noise(2, 5, 3, 3))
    assert layer.weight is weights["weight"]


def test_offloading_without_a_gpu_changes_nothing(pipeline, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    plain = pipeline(**INPUTS, steps=1)
    pipeline.enable_model_cpu_offload()
    pipeline.enable_sequential_cpu_offload()
    assert equal(plain, pipeline(**INPUTS, steps=1))
