"""Solvers, guidance intervals, cached features and decoders: what runs, and which results are unchanged."""

from collections import Counter

import pytest
import torch
from diffusers import AutoencoderTiny, DPMSolverMultistepScheduler, LCMScheduler, UniPCMultistepScheduler

from core.errors import InputError
from core.seeding import torch_generator
from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.denoiser import DeepFeatures, Denoiser, outer_layers
from lightning_modules.networks.preview import PreviewDecoder, fit_decoder, load_decoder
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.networks.view_control import view_control
from lightning_modules.sampling.ddim import portrait_bank
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.schedulers import sampled_timesteps, scheduler_for
from lightning_modules.sampling.settings import Sampling
from lightning_modules.sampling.starting_noise import partly_noised
from tests.networks.toy import noise, prompt, sd15_unet, shake, toy_model, toy_scheduler, toy_unet, toy_vae
from tests.sampling.sampled import sample

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SOLVERS = ["ddim", "unipc", "dpm++"]


@pytest.fixture(scope="module")
def denoiser():
    unet = toy_unet()
    control = shake(view_control(unet, downsampling=4))
    cross_view = shake(CrossView.from_unet(unet, heads=4, middle="unconditional"))
    return Denoiser(unet, prompt(), control, cross_view).eval()


@pytest.fixture(scope="module")
def reference(denoiser):
    return shake(AppearanceReference.from_unet(denoiser.unet)).eval()


@pytest.fixture(scope="module")
def given(denoiser, reference):
    """Inputs of two portraits of two views each, with F_ref at a fixed timestep."""
    bank = portrait_bank(denoiser, reference, noise(2, 1, 4, 8, 8, seed=1), timestep=0)
    return {"views": 2, "bank": bank, "condition": noise(4, 3, 32, 32, seed=2)}


@pytest.fixture
def counted():
    """A function that counts the calls of F's first and innermost layers, of F_cam and of F_ref."""
    hooks = []

    def count(denoiser, reference=None):
        calls = Counter()
        watched = {"F": denoiser.unet.conv_in, "deep": denoiser.unet.mid_block.resnets[0]}
        if denoiser.control is not None:
            watched["F_cam"] = denoiser.control.conv_in
        if reference is not None:
            watched["F_ref"] = reference
        for name, module in watched.items():
            hooks.append(module.register_forward_hook(lambda *_, name=name: calls.update([name])))
        return calls

    yield count
    for hook in hooks:
        hook.remove()


# Solvers


@pytest.mark.parametrize(
    ("solver", "kind", "options"),
    [
        ("unipc", UniPCMultistepScheduler, {}),
        ("dpm++", DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    ],
)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_solver_matches_diffusers_scheduler_on_the_models_noise_schedule(
    denoiser, given, solver, kind, options, spacing
):
    start = noise(4, 4, 8, 8)
    ours = sample(denoiser, toy_scheduler(), start, **given, steps=5, solver=solver, spacing=spacing)
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    scheduler = kind(**config, **options, timestep_spacing=spacing)
    scheduler.set_timesteps(5)
    x, hint = start, denoiser.embed_condition(given["condition"])
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            times = timestep.expand(4)
            conditional = denoiser(x, times, given["bank"], hint=hint, views=2)
            unconditional = denoiser(x, times, views=2)
            epsilon = unconditional + 3 * (conditional - unconditional)
            x = scheduler.step(epsilon, timestep, x).prev_sample
    torch.testing.assert_close(ours, x, **CLOSE)


def test_ddim_equals_the_default_bit_for_bit(denoiser, given):
    start = noise(4, 4, 8, 8)
    plain = sample(denoiser, toy_scheduler(), start, **given, steps=3)
    assert torch.equal(sample(denoiser, toy_scheduler(), start, **given, steps=3, solver="ddim"), plain)
    trailing = sample(denoiser, toy_scheduler(), start, **given, steps=3, spacing="trailing")
    assert not torch.allclose(trailing, plain, atol=1e-2)


def test_timestep_grids_start_as_documented():
    def first(**settings):
        return int(scheduler_for(toy_scheduler(), Sampling(steps=10, **settings)).timesteps[0])

    for solver in SOLVERS:
        assert first(solver=solver) == 901
        assert first(solver=solver, spacing="trailing") == 999
    assert first(solver="lcm") == 999


@pytest.mark.parametrize("solver", [*SOLVERS, "lcm"])
def test_views_do_not_depend_on_the_rest_of_the_batch(denoiser, reference, solver):
    alone = Denoiser(denoiser.unet, prompt())
    bank = portrait_bank(alone, reference, noise(1, 1, 4, 8, 8), timestep=0)
    start = noise(3, 4, 8, 8)

    def run(items):
        generators = [torch_generator("test", item) for item in items]
        options = {"views": len(items), "bank": bank, "steps": 4, "solver": solver}
        return sample(alone, toy_scheduler(), start[items], generators=generators, **options)

    torch.testing.assert_close(run([2]), run([0, 1, 2])[2:], rtol=1e-3, atol=1e-3)


def test_lcm_noise_depends_on_the_seeds(denoiser):
    alone, start = Denoiser(denoiser.unet, prompt()), noise(1, 4, 8, 8)

    def run(seed):
        return sample(
            alone, toy_scheduler(), start, steps=4, solver="lcm", generators=[torch_generator(seed)]
        )

    assert torch.equal(run(0), run(0))
    assert not torch.allclose(run(0), run(1), atol=1e-2)
    assert isinstance(scheduler_for(toy_scheduler(), Sampling(steps=4, solver="lcm")), LCMScheduler)
    with pytest.raises(InputError, match="60 sampling steps: LCMScheduler"):
        sample(alone, toy_scheduler(), start, steps=60, solver="lcm")
    with pytest.raises(InputError, match="UniPCMultistepScheduler has no eta"):
        sample(alone, toy_scheduler(), start, steps=4, solver="unipc", eta=0.5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_half_noised_clean_latents_are_recovered(solver):
    settings = Sampling(steps=10, solver=solver, strength=0.5)
    clean, epsilon = noise(2, 4, 8, 8), noise(2, 4, 8, 8, seed=1)
    latents = partly_noised(clean, epsilon, toy_scheduler(), settings)
    scheduler = scheduler_for(toy_scheduler(), settings)
    for timestep in sampled_timesteps(scheduler, 0.5):
        latents = scheduler.step(epsilon, timestep, latents).prev_sample
    assert (latents - clean).norm() / clean.norm() < 0.05


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_reports_its_predicted_clean_latents(denoiser, given, solver):
    seen = []

    def watch(_step, _timestep, latents, clean):
        seen.append(clean)
        return latents, False

    start = noise(4, 4, 8, 8)
    end = sample(denoiser, toy_scheduler(), start, **given, steps=8, solver=solver, on_step_end=watch)
    torch.testing.assert_close(seen[-1], end, rtol=0, atol=0.2 * end.std().item())
    assert (seen[0] - end).norm() > 2 * (seen[-1] - end).norm()


# Guidance


def test_unconditional_pass_runs_only_within_the_guidance_interval(counted, denoiser, given):
    calls, start = counted(denoiser), noise(4, 4, 8, 8)

    def run(**settings):
        calls.clear()
        return sample(denoiser, toy_scheduler(), start, **given, steps=5, **settings)

    plain = run()  # at 801, 601, 401, 201, 1
    assert calls == {"F": 10, "deep": 10, "F_cam": 5}
    between = run(guidance_low=201, guidance_high=601)
    assert calls == {"F": 8, "deep": 8, "F_cam": 5}
    assert not torch.allclose(between, plain, atol=1e-2)
    assert torch.equal(run(guidance_low=0, guidance_high=801), plain)
    nowhere = run(guidance_low=900, guidance_high=1000)
    assert calls["F"] == 5
    assert torch.equal(nowhere, run(guidance=1.0))


@pytest.mark.parametrize("middle", ["always", "unconditional", "never"])
def test_one_batch_matches_two_passes(counted, middle, reference):
    unet = toy_unet()
    cross_view = shake(CrossView.from_unet(unet, heads=4, middle=middle))
    denoiser = Denoiser(unet, prompt(), shake(view_control(unet, downsampling=4)), cross_view).eval()
    bank = portrait_bank(denoiser, reference, noise(2, 2, 4, 8, 8, seed=1), timestep=0)
    given = {"views": 2, "bank": bank, "condition": noise(4, 3, 32, 32, seed=2), "steps": 3}
    calls, start = counted(denoiser), noise(4, 4, 8, 8)
    two = sample(denoiser, toy_scheduler(), start, **given)
    assert calls == {"F": 6, "deep": 6, "F_cam": 3}
    calls.clear()
    one = sample(denoiser, toy_scheduler(), start, **given, one_batch=True)
    assert calls == {"F": 3, "deep": 3, "F_cam": 3}
    torch.testing.assert_close(one, two, **CLOSE)


# Features that are kept


@pytest.mark.parametrize("make", [toy_unet, sd15_unet])
def test_cached_features_give_the_same_prediction_for_the_same_input(counted, make):
    unet = make()
    denoiser = Denoiser(
        unet, prompt(), shake(view_control(unet, 4)), shake(CrossView.from_unet(unet, heads=4))
    )
    bank = portrait_bank(
        denoiser, shake(AppearanceReference.from_unet(unet)), noise(1, 1, 4, 8, 8), timestep=0
    )
    hint, latents = denoiser.embed_condition(noise(2, 3, 32, 32)), noise(2, 4, 8, 8)
    kept, calls = DeepFeatures(), counted(denoiser)

    def predict(timestep, **options):
        return denoiser(latents, torch.full((2,), timestep), bank, hint=hint, views=2, **options)

    with torch.no_grad():
        plain, filled = predict(501), predict(501, deep=kept)
        calls.clear()
        again, later = predict(501, deep=kept), predict(481, deep=kept)
        assert calls == {"F": 2}
        exact = predict(481)
    assert torch.equal(filled, plain)
    assert torch.equal(again, plain)
    assert not torch.equal(later, plain)
    assert not torch.equal(later, exact)
    assert outer_layers(unet) == unet.config.layers_per_block + 1


@pytest.mark.parametrize(("one_batch", "passes"), [(False, 2), (True, 1)])
def test_deep_layers_run_at_every_nth_step(counted, denoiser, given, one_batch, passes):
    calls = counted(denoiser)
    options = {"steps": 7, "deep_every": 3, "one_batch": one_batch}
    sample(denoiser, toy_scheduler(), noise(4, 4, 8, 8), **given, **options)
    assert calls == {"F": 7 * passes, "deep": 3 * passes, "F_cam": 3}


def test_features_cached_for_few_steps_change_little(denoiser, given):
    def run(**settings):
        return sample(
            denoiser, toy_scheduler(), noise(4, 4, 8, 8), **given, steps=20, one_batch=True, **settings
        )

    plain, kept, rarely = run(), run(deep_every=3), run(deep_every=20)
    assert 0 < (kept - plain).norm() < 0.5 * (rarely - plain).norm()


def test_cached_features_are_separate_for_each_window(denoiser, given):
    """Two windows that share nothing are two paths, with kept features as without."""
    bank = given["bank"]
    first = type(bank)({name: (k[:1], v[:1]) for name, (k, v) in bank.items()})
    start, condition = noise(4, 4, 8, 8), given["condition"]

    def run(rows, views, **settings):
        options = {"views": views, "bank": first, "condition": condition[rows], "steps": 4, "deep_every": 2}
        return sample(denoiser, toy_scheduler(), start[rows], **options, **settings)

    together = run(slice(0, 4), 4, window=2, overlap=0)
    torch.testing.assert_close(together[:2], run(slice(0, 2), 2), **CLOSE)
    torch.testing.assert_close(together[2:], run(slice(2, 4), 2), **CLOSE)


def test_guidance_starting_between_full_steps_runs_all_layers(counted, denoiser, given):
    calls = counted(denoiser)
    sample(denoiser, toy_scheduler(), noise(4, 4, 8, 8), **given, steps=5, deep_every=5, guidance_high=601)
    assert calls == {"F": 5 + 4, "deep": 2, "F_cam": 1}


def test_f_ref_at_a_fixed_timestep_runs_once(counted):
    model = toy_model()
    pipeline = DiffPortrait3DPipeline.of(model)
    pipeline.register_to_config(reference_timestep="current")
    calls = counted(pipeline.denoiser, model.reference)
    asked = {"references": noise(1, 1, 3, 16, 16), "conditions": noise(1, 2, 3, 16, 16), "seeds": [0]}

    def run(**settings):
        calls.clear()
        return pipeline.views(**asked, sampling=Sampling(steps=4, noise="random", **settings))

    current = run()
    assert calls["F_ref"] == 4
    fixed = run(reference_timestep=0)
    assert calls["F_ref"] == 1
    assert not torch.allclose(fixed, current, atol=1e-4)
    kept = run(deep_every=2)
    assert calls["F_ref"] == 2
    assert kept.isfinite().all()
    pipeline.register_to_config(reference_timestep="zero")
    assert torch.equal(run(), fixed)


# Decoders


def test_fitted_decoder_is_the_least_squares_solution():
    truth = PreviewDecoder(4, upsampling=4)
    with torch.no_grad():
        latents = noise(6, 4, 8, 8)
        images = truth.decode(latents).sample
    pairs = [(latents[:2], images[:2]), (latents[2:], images[2:])]
    found = fit_decoder(pairs, upsampling=4)
    other = noise(1, 4, 8, 8, seed=9)
    close = {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(found.decode(other).sample, truth.decode(other).sample, **close)
    with pytest.raises(InputError, match="no images to fit"):
        fit_decoder([], upsampling=4)


def test_small_decoder_is_used_if_requested(tmp_path):
    model = toy_model()
    pipeline = DiffPortrait3DPipeline.of(model)
    latents = noise(3, 4, 4, 4)
    with pytest.raises(InputError, match="the model has no preview_decoder/; fit-preview makes one"):
        pipeline.decode(latents, decoder="preview")
    pipeline.preview_decoder = PreviewDecoder(4, upsampling=4).eval()
    with torch.no_grad():
        expected = pipeline.preview_decoder.decode(latents).sample.clamp(-1, 1)
    torch.testing.assert_close(pipeline.decode(latents, chunk=2, decoder="preview"), expected)
    pipeline.save_pretrained(tmp_path / "model")
    again = DiffPortrait3DPipeline.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(again.decode(latents, decoder="preview"), expected)
    asked = {"references": noise(1, 1, 3, 16, 16), "conditions": noise(1, 2, 3, 16, 16), "seeds": [0]}
    views = again.views(**asked, sampling=Sampling(steps=1, noise="random", decoder="preview"))
    assert not torch.allclose(views, again.views(**asked, sampling=Sampling(steps=1, noise="random")))


def test_autoencoder_tiny_matches_diffusers(tmp_path):
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    ).eval()
    tiny.save_pretrained(tmp_path / "taesd")
    pipeline, latents = DiffPortrait3DPipeline.of(toy_model()), noise(2, 4, 4, 4)
    with torch.no_grad():
        expected = tiny.decode(latents / tiny.config.scaling_factor).sample.clamp(-1, 1)
    torch.testing.assert_close(pipeline.decode(latents, decoder=str(tmp_path / "taesd")), expected)
    with pytest.raises(InputError, match="there is no such folder"):
        pipeline.decode(latents, decoder=str(tmp_path / "nowhere"))
    toy_vae().save_pretrained(tmp_path / "vae")
    with pytest.raises(InputError, match="it holds AutoencoderKL, not PreviewDecoder or AutoencoderTiny"):
        load_decoder(tmp_path / "vae")


# Values out of range


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solver": "euler"}, "solver 'euler': choose from ddim, unipc, dpm"),
        ({"spacing": None}, "spacing None: choose from leading"),
        ({"guidance_low": 700, "guidance_high": 300}, "guidance_low 700 is above guidance_high 300"),
        ({"deep_every": 0}, "deep_every 0: give a whole number, 1 or more"),
        ({"reference_timestep": 1000}, "reference_timestep 1000: give 0 to 999"),
    ],
)
def test_values_out_of_range_are_input_errors(change, message):
    with pytest.raises(InputError, match=message):
        Sampling(**change)
