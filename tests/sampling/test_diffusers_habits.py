"""Compatibility with diffusers' pipelines: argument names, loading, outputs, callbacks, offloading."""

from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.callbacks import SDCFGCutoffCallback
from diffusers.utils.hub_utils import PushToHubMixin
from huggingface_hub.errors import LocalEntryNotFoundError

from core.errors import InputError
from lightning_modules.networks import hub
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from tests.networks.toy import toy_model, toy_vae
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


def test_from_pretrained_accepts_what_is_met_anyway(saved):
    loaded = DiffPortrait3DPipeline.from_pretrained(
        saved,
        low_cpu_mem_usage=True,
        device_map="cpu",
        token="hf_x",
        force_download=False,
        safety_checker=None,
        quantization_config=None,
    )
    assert loaded.device.type == "cpu"


def test_from_pretrained_replaces_components(saved):
    scheduler, vae = UniPCMultistepScheduler(), toy_vae()
    loaded = DiffPortrait3DPipeline.from_pretrained(saved, scheduler=scheduler, vae=vae, noise_prior=None)
    assert (loaded.scheduler, loaded.vae, loaded.noise_prior) == (scheduler, vae, None)
    loaded(**INPUTS, steps=2)
    loaded.save_pretrained(saved.with_name("other"))
    assert not saved.with_name("other").joinpath("noise_prior").exists()
    for options, message in {
        ("unet", None): "unet=None: the pipeline needs this component",
        ("vae", scheduler): "vae: give a AutoencoderKL, not a UniPCMultistepScheduler",
        ("vae", toy_vae(latent_channels=8)): "the VAE has 8 latent channels, the UNet 4",
        ("scheduler", vae): "scheduler: give a SchedulerMixin, not a AutoencoderKL",
    }.items():
        with pytest.raises(InputError, match=message):
            DiffPortrait3DPipeline.from_pretrained(saved, **dict([options]))


def test_from_pretrained_refuses_the_rest_by_name(saved):
    for options, message in (
        ({"torch_dtype": "float16"}, r"torch_dtype 'float16': give a torch\.dtype, such as torch\.float16"),
        ({"device_map": "balanced"}, r"device_map 'balanced': give one device, .* replicate\(devices\)"),
        ({"custom_pipeline": "x"}, "custom_pipeline: not an argument .*: this class is the pipeline"),
        ({"tokenizer": object()}, "tokenizer: not an argument .*: prompts are embedded by"),
        ({"foo": None}, "foo: not an argument of this from_pretrained: it takes components, appear"),
    ):
        with pytest.raises(InputError, match=message):
            DiffPortrait3DPipeline.from_pretrained(saved, **options)
    for place, message in {
        "nowhere": "nowhere: no such folder, and not a hub id",
        saved / "model_index.json": r"model_index\.json is a file: give a model's folder",
    }.items():
        with pytest.raises(InputError, match=message):
            DiffPortrait3DPipeline.from_pretrained(place)
    with pytest.raises(InputError, match=r"x\.safetensors: a model is a folder, for from_pretrained"):
        DiffPortrait3DPipeline.from_single_file("x.safetensors")


def test_methods_that_are_absent_say_what_to_do(pipeline):
    for name, message in {"enable_freeu": "skip connections", "fuse_lora": "set_adapters"}.items():
        assert not hasattr(pipeline, name)
        with pytest.raises(AttributeError, match=rf"^{name}: not part of this pipeline: .*{message}"):
            getattr(pipeline, name)()
    with pytest.raises(AttributeError, match="no attribute 'encode_everything'"):
        pipeline.encode_everything()
    with pytest.raises(InputError, match=r"enable_model_cpu_offload\(\)"):
        pipeline.enable_group_offload(torch.device("cpu"))


def test_compiling_f_alone_is_an_input_error(pipeline):
    pipeline.unet = torch.compile(pipeline.unet)
    with pytest.raises(InputError, match=r"pipeline\.tune\(compile=True\) compiles them together"):
        pipeline(**INPUTS, steps=1)


def test_schedulers_without_noise_predictions_are_input_errors(pipeline):
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(InputError, match="FlowMatchEulerDiscreteScheduler: it does not support F's"):
        pipeline(**INPUTS, steps=2)


def test_from_pretrained_downloads_from_the_hub(saved, monkeypatch):
    download = Mock(return_value=str(saved))
    monkeypatch.setattr(hub, "snapshot_download", download)
    assert DiffPortrait3DPipeline.from_pretrained("someone/model", revision="main").image_size == 16
    assert download.call_args.args == ("someone/model",)
    assert download.call_args.kwargs["revision"] == "main"
    DiffPortrait3DPipeline.from_pretrained("someone/model", token="hf_x", force_download=True, cache_dir="c")
    given = {"token": "hf_x", "force_download": True, "cache_dir": "c", "revision": None}
    assert given.items() <= download.call_args.kwargs.items()
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
    with pytest.raises(InputError, match=r"push_to_hub\('owner/name'\)"):
        pipeline.save_pretrained(tmp_path / "other", push_to_hub=True)
    with pytest.raises(InputError, match="max_shard_size 1GB: each network is saved in one file"):
        pipeline.save_pretrained(tmp_path / "other", max_shard_size="1GB")


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
        ({"num_images_per_prompt": 2}, "num_images_per_prompt: .* call again with another seed"),
        ({"latents": torch.zeros(1)}, "latents: .* determined by seed"),
        ({"cross_attention_kwargs": {"scale": 0.5}}, "cross_attention_kwargs: .* set_adapters"),
        ({"callback": print}, "callback: .* give callback_on_step_end"),
        ({"stepz": 1}, "stepz: not an argument of this pipeline: choose from chunk, decoder, deep_every"),
        ({"prompt": ["a face"]}, r"prompt \['a face'\]: give one text"),
        ({"guidance_scale": "3"}, "guidance '3': give a number"),
        ({"guidance_scale": None}, "guidance None: give a number"),
        ({"eta": "no"}, "eta 'no': give a number"),
        ({"steps": True}, "steps True: give a whole number"),
        ({"callback_on_step_end": 3}, "callback_on_step_end: give a function, not a int"),
        ({"callback_on_step_end": lambda *given: given[-1]["latents"]}, "return the mapping .* not a Tensor"),
        ({"callback_on_step_end": SDCFGCutoffCallback()}, "tensor_inputs prompt_embeds: choose from latents"),
        ({"output_type": "latent"}, "output_type 'latent': choose from pil, np, pt"),
        ({"generator": 3}, "give a torch.Generator, not a int"),
        (
            {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]},
            "embeds: choose from latents, pred_orig",
        ),
    ):
        with pytest.raises(InputError, match=message):
            pipeline(**INPUTS, **options)


def test_diffusers_arguments_that_ask_for_nothing_change_nothing(pipeline):
    nothing = {"height": 16, "width": None, "num_images_per_prompt": 1, "negative_prompt": "", "prompt": None}
    nothing |= {"latents": None, "cross_attention_kwargs": None, "clip_skip": None, "guidance_rescale": 0.0}
    nothing |= {"callback_on_step_end_tensor_inputs": None}
    assert equal(pipeline(**INPUTS, steps=2), pipeline(**INPUTS, num_inference_steps=np.int64(2), **nothing))


def test_a_guidance_scale_of_at_most_one_is_none_as_in_diffusers(pipeline):
    plain = pipeline(**INPUTS, steps=2, guidance=1)
    assert equal(plain, pipeline(**INPUTS, steps=2, guidance_scale=0.0))
    assert not equal(plain, pipeline(**INPUTS, steps=2, guidance=0.0))  # which is the unconditional pass


@pytest.mark.parametrize("name", ["portrait", "conditions", "proxies"])
def test_other_things_than_pil_images_are_input_errors(pipeline, name):
    for given, kind in {"me.jpg": "str", ("a", "b"): "str", None: "NoneType", (b"", b""): "bytes"}.items():
        if given is None and name != "portrait":
            continue
        with pytest.raises(InputError, match=rf"^{name}: give PIL images, not {kind}: Image\.open reads"):
            pipeline(**INPUTS | {name: given}, steps=1)
    with pytest.raises(InputError, match=f"^{name}: give PIL images, not ndarray"):
        pipeline(**INPUTS | {name: np.zeros((16, 16, 3), np.uint8)}, steps=1)


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


def test_a_callback_can_interrupt_as_in_diffusers(pipeline):
    steps = []

    def stop(given, step, _timestep, tensors):
        steps.append(step)
        given._interrupt = step == 1
        return {"latents": torch.zeros_like(tensors["latents"])}

    stopped = pipeline(**INPUTS, steps=4, callback_on_step_end=stop, output_type="pt").images
    assert steps == [0, 1]
    torch.testing.assert_close(stopped, pipeline.decode(torch.zeros(2, 4, 4, 4), levels=True).float() / 255)
    steps.clear()
    pipeline(**INPUTS, steps=2, callback_on_step_end=lambda *given: steps.append(given[1]))
    assert steps == [0, 1]


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
    for place in ("gpu", 0):
        with pytest.raises(InputError, match=r"^to .*: no such device; this machine has cpu$"):
            pipeline.to(place)
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
    with pytest.raises(InputError, match=r"a/b/c: not uploaded: Repo id must be in the form"):
        pipeline.push_to_hub("a/b/c")
