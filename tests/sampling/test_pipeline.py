"""The pipeline at toy width: inputs, outputs, determinism, errors."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, UniPCMultistepScheduler
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

from core.errors import InputError
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.settings import Sampling
from lightning_modules.sampling.starting_noise import diffused
from portraits.cameras import label_from_angles
from portraits.people import read_portrait
from portraits.pixels import levels_to_pixels, to_pixels
from tests.networks.toy import noise, toy_model

FEW = {"steps": 2, "progress": False}


@pytest.fixture
def pipeline():
    return DiffPortrait3DPipeline.of(toy_model(prior=True))


def picture(seed=0, size=16):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pictures(count, **options):
    return [picture(100 + i, **options) for i in range(count)]


def orbit(count):
    return np.stack([label_from_angles(0.1 * i, 0.05) for i in range(count)])


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one.images, other.images, strict=True))


def almost_equal(one, other):
    """Equal within one grey level: the memory alignment of loaded weights changes the rounding of sums."""
    pairs = zip(one.images, other.images, strict=True)
    return all(np.abs(np.subtract(a, b, dtype=np.int16)).max() <= 1 for a, b in pairs)


def test_pipeline_is_deterministic_by_seed(pipeline):
    assert isinstance(pipeline, DiffusionPipeline)
    views = pipeline(picture(size=48), cameras=orbit(3), conditions=pictures(3), **FEW)
    assert [image.size for image in views.images] == [(16, 16)] * 3
    again = pipeline(picture(size=48), cameras=orbit(3), conditions=pictures(3), **FEW)
    assert equal(views, again)
    assert not equal(views, pipeline(picture(size=48), orbit(3), pictures(3), seed=1, **FEW))


def test_images_and_photo_files_are_read_alike(pipeline, tmp_path):
    """With EXIF rotation, with transparency, of 16 bits."""
    rows, columns = np.mgrid[0:48, 0:48].astype(np.uint8)
    photo = Image.fromarray(np.dstack([5 * rows, 5 * columns, np.full_like(rows, 90)]))
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "on_its_side.png", exif=exif)
    cut = np.dstack([np.asarray(photo), np.where((rows > 9) & (columns > 9), 255, 0).astype(np.uint8)])
    Image.fromarray(cut * (cut[..., 3:] > 0)).save(tmp_path / "cut_out.png")
    Image.fromarray(rows.astype(np.uint16) * 1300).save(tmp_path / "16_bits.png")
    for path in tmp_path.iterdir():
        seen = pipeline._portraits([Image.open(path)])[0, 0]
        torch.testing.assert_close(seen, to_pixels(np.asarray(read_portrait(path, 16, aligned=False))))


def test_pipeline_folder_round_trip(pipeline, tmp_path):
    pipeline.scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.save_pretrained(tmp_path / "model")
    loaded = DiffPortrait3DPipeline.from_pretrained(tmp_path / "model")
    assert isinstance(loaded.scheduler, UniPCMultistepScheduler)
    assert loaded.config.reference_timestep == "zero"
    asked = {"portrait": picture(size=48), "cameras": orbit(2), "conditions": pictures(2), **FEW}
    assert almost_equal(loaded(**asked), pipeline(**asked))
    with pytest.raises(InputError, match="exists"):
        pipeline.save_pretrained(tmp_path / "model")


@pytest.mark.parametrize("entry", [["diffusers", "os"], ["diffusers", 7], [], 5, None, "os", {"a": "b"}])
def test_foreign_scheduler_class_is_an_input_error(pipeline, tmp_path, entry):
    pipeline.save_pretrained(tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"scheduler": entry}))
    with pytest.raises(InputError, match="not one of diffusers' schedulers"):
        DiffPortrait3DPipeline.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    "changes", [{"num_train_timesteps": 10**9}, {"beta_start": "x"}, {"beta_start": 1e308, "beta_end": 1e308}]
)
def test_damaged_scheduler_is_an_input_error_before_networks_are_read(pipeline, tmp_path, changes):
    pipeline.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    file = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(InputError, match=r"scheduler_config\.json is no noise schedule"):
        DiffPortrait3DPipeline.from_pretrained(tmp_path / "model")


def batch(people, views, seed=0):
    return {
        "references": noise(people, 1, 3, 16, 16, seed=seed).clamp(-1, 1),
        "conditions": noise(people, views, 3, 16, 16, seed=seed + 1).clamp(-1, 1),
        "cameras": torch.from_numpy(orbit(views)).expand(people, views, 25),
    }


def rows(given, which):
    return {name: x[which] for name, x in given.items()}


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_views_do_not_depend_on_batch_or_chunks(pipeline, eta):
    given = batch(2, 3)
    settings = Sampling(steps=2, eta=eta)
    together = pipeline.views(**given, seeds=["a", "b"], sampling=settings)
    alone = pipeline.views(**rows(given, slice(1, 2)), seeds=["b"], sampling=replace(settings, chunk=1))
    torch.testing.assert_close(together[1:], alone, rtol=1e-3, atol=1e-3)
    other = pipeline.views(**rows(given, slice(1, 2)), seeds=["c"], sampling=settings)
    assert not torch.allclose(together[1:], other, atol=1e-2)


def test_longer_trajectory_starts_with_the_same_views(pipeline):
    """A view's noise does not depend on the number of views (without cross-view attention)."""
    pipeline.cross_view = None
    given, settings = batch(1, 5), Sampling(steps=2)
    long = pipeline.views(**given, seeds=[0], sampling=settings)
    short = pipeline.views(**{k: x if k == "references" else x[:, :2] for k, x in given.items()},
                           seeds=[0], sampling=settings)  # fmt: skip
    torch.testing.assert_close(long[:, :2], short, rtol=1e-3, atol=1e-3)


def test_noise_is_3d_aware_when_the_model_has_a_prior(pipeline):
    given, settings = batch(1, 2), Sampling(steps=2)
    aware = pipeline.views(**given, seeds=[0], sampling=settings)
    random = pipeline.views(**given, seeds=[0], sampling=replace(settings, noise="random"))
    assert not torch.allclose(aware, random, atol=1e-3)
    proxies = pipeline.proxies(given["references"], given["cameras"])
    given_proxies = pipeline.views(**given, proxies=proxies, seeds=[0], sampling=settings)
    assert torch.equal(aware, given_proxies)
    pipeline.noise_prior = None
    assert torch.equal(pipeline.views(**given, seeds=[0], sampling=settings), random)
    with pytest.raises(InputError, match="noise_prior"):
        pipeline.views(**given, seeds=[0], sampling=replace(settings, noise="3d-aware"))


def test_lower_strength_stays_closer_to_the_proxies(pipeline):
    given, settings = batch(1, 2), Sampling(steps=20)
    proxies = noise(1, 2, 3, 16, 16, seed=5).clamp(-1, 1)
    kept = pipeline.decode(pipeline.encode(proxies).flatten(0, 1)).unflatten(0, (1, 2))

    def distance(strength):
        made = pipeline.views(
            **given, proxies=proxies, seeds=[0], sampling=replace(settings, strength=strength)
        )
        return (made - kept).abs().mean().item()

    assert distance(0.05) < 0.75 * distance(1.0)
    random = replace(settings, steps=2, noise="random")
    halved = pipeline.views(**given, seeds=[0], sampling=replace(random, strength=0.5))
    assert torch.equal(halved, pipeline.views(**given, seeds=[0], sampling=random))


def test_longer_trajectories_take_no_larger_batches(pipeline):
    """With 24 views, no network gets larger batches than with 8; all are called more often."""
    largest, calls = {}, {}

    def watch(name, module):
        def hook(_, given, __):
            largest[name] = max(largest.get(name, 0), len(given[0]))
            calls[name] = calls.get(name, 0) + 1

        return module.register_forward_hook(hook)

    def run(views):
        largest.clear()
        calls.clear()
        pipeline.views(**batch(2, views), seeds=[0, 1], sampling=Sampling(steps=2, window=4, chunk=3))
        return dict(largest), dict(calls)

    modules = {
        "F": pipeline.unet.conv_in,
        "F_cam": pipeline.view_control.conv_in,
        "hint": pipeline.view_control.controlnet_cond_embedding,
        "F_ref": pipeline.appearance_reference.conv_in,
        "S": pipeline.noise_prior.decoder.get_submodule(
            next(n for n, _ in pipeline.noise_prior.decoder.named_children())
        ),
        "encoder": pipeline.vae.encoder,
        "decoder": pipeline.vae.decoder,
    }
    for name, module in modules.items():
        watch(name, module)
    (short, few), (long, many) = run(8), run(24)
    assert short == long
    assert long["F"] == 2 * 4
    assert long["decoder"] == 3
    assert all(many[name] > few[name] for name in modules if name != "F_ref")


def test_replicas_change_nothing(pipeline):
    given, settings = batch(1, 9), Sampling(steps=2, window=4)
    alone = pipeline.views(**given, seeds=[0], sampling=settings)
    calls = []
    for copy in pipeline.replicate(["cpu", "cpu"]).replicas:
        copy.unet.conv_in.register_forward_hook(lambda *_: calls.append(1))
    shared = pipeline.views(**given, seeds=[0], sampling=settings)
    # memory alignment decides the kernel, and so the rounding
    torch.testing.assert_close(shared, alone, rtol=1e-3, atol=1e-3)
    assert calls


def test_uint8_and_float_inputs_agree(pipeline):
    levels = torch.randint(0, 256, (1, 2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte()
    given = batch(1, 2)
    floats = given | {"conditions": levels_to_pixels(levels), "proxies": levels_to_pixels(levels)}
    settings = {"seeds": [0], "sampling": Sampling(steps=2)}
    expected = pipeline.views(**floats, **settings)
    assert torch.equal(
        pipeline.views(**given | {"conditions": levels, "proxies": levels}, **settings), expected
    )


def test_stochastic_scheduler_does_not_depend_on_the_batch(pipeline):
    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
    given, settings = batch(2, 2), Sampling(steps=3)
    together = pipeline.views(**given, seeds=["a", "b"], sampling=settings)
    alone = pipeline.views(**rows(given, slice(1, 2)), seeds=["b"], sampling=settings)
    torch.testing.assert_close(together[1:], alone, rtol=1e-3, atol=1e-3)


def test_diffused_matches_the_forward_process(pipeline):
    clean, epsilon = noise(2, 4, 4, 4), noise(2, 4, 4, 4, seed=1)
    last = torch.full((2,), 999)
    expected = pipeline.scheduler.add_noise(clean, epsilon, last)
    torch.testing.assert_close(diffused(clean, epsilon, pipeline.scheduler), expected)


def test_all_references_count_in_any_order(pipeline):
    """Eq. 5: the references' tokens are concatenated."""
    given = batch(1, 2)
    two = noise(1, 2, 3, 16, 16, seed=9).clamp(-1, 1)

    def views(references):
        return pipeline.views(**given | {"references": references}, seeds=[0], sampling=Sampling(steps=2))

    torch.testing.assert_close(views(two.flip(1)), views(two), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(views(two[:, :1]), views(two), atol=1e-3)
    assert not torch.allclose(views(two[:, 1:]), views(two), atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conditions": pictures(2)}, "3 cameras, 2 conditions"),
        ({"cameras": orbit(3)[:, :24]}, "EG3D labels are"),
        ({"cameras": orbit(3)[0]}, r"cameras have shape \(25,\)"),
        ({"cameras": orbit(3) * 2}, "camera 0 is not a rigid"),
        ({"conditions": None}, "F_cam needs an image for each view"),
        (
            {"conditions": [picture(), picture(), picture().crop((0, 0, 16, 8))]},
            "conditions: an image of 16x8",
        ),
        ({"portrait": picture(size=20)}, "a portrait of 20x20 pixels"),
        ({"portrait": []}, "no portrait"),
        ({"cameras": None, "conditions": None}, "the views are missing"),
        ({"steps": 0}, "steps 0"),
        ({"steps": 1.5}, "steps 1.5"),
        ({"steps": 600}, "sampling steps"),
        ({"window": 0}, "window 0"),
        ({"chunk": 0}, "chunk 0"),
        ({"noise": "3D-aware"}, "noise '3D-aware'"),
        ({"guidance": float("nan")}, "guidance nan"),
        ({"eta": 2.0}, "eta 2"),
        ({"window": 2, "overlap": 2}, "cannot overlap by 2"),
        ({"strength": 0.0}, "strength 0"),
    ],
)
def test_invalid_arguments_are_input_errors(pipeline, change, message):
    asked = {"portrait": picture(size=48), "cameras": orbit(3), "conditions": pictures(3), **FEW}
    with pytest.raises(InputError, match=message):
        pipeline(**{**asked, **change})


def test_conditions_without_f_cam_are_an_input_error(pipeline):
    pipeline.view_control = None
    with pytest.raises(InputError, match="no view_control/"):
        pipeline(picture(size=48), orbit(2), pictures(2), **FEW)
