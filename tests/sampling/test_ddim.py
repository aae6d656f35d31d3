import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    IPNDMScheduler,
    LCMScheduler,
    PNDMScheduler,
    RePaintScheduler,
    UniPCMultistepScheduler,
)

from core.errors import InputError
from core.seeding import torch_generator
from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.networks.view_control import view_control
from lightning_modules.sampling.ddim import portrait_bank
from lightning_modules.sampling.schedulers import ddim_scheduler, sampled_timesteps, scheduler_for
from lightning_modules.sampling.settings import Sampling
from lightning_modules.sampling.starting_noise import partly_noised
from tests.networks.toy import noise, prompt, shake, toy_scheduler, toy_unet
from tests.sampling.sampled import sample

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def denoiser():
    unet = toy_unet()
    control = shake(view_control(unet, downsampling=4))
    cross_view = shake(CrossView.from_unet(unet, heads=4))
    return Denoiser(unet, prompt(), control, cross_view).eval()


@pytest.fixture
def reference(denoiser):
    return shake(AppearanceReference.from_unet(denoiser.unet)).eval()


@torch.no_grad()
def plain_ddim(denoiser, start, bank_at, condition, views, steps, guidance):
    """Guided DDIM in its simplest form, in double precision."""
    alphas = toy_scheduler().alphas_cumprod.double()
    x, grid = start.double(), [1 + i * (1000 // steps) for i in range(steps)]
    for i in reversed(range(steps)):
        t = torch.full((len(x),), grid[i])
        conditional = denoiser(x.float(), t, bank_at(grid[i]), condition, views=views)
        unconditional = denoiser(x.float(), t, views=views)
        epsilon = (unconditional + guidance * (conditional - unconditional)).double()
        now, before = alphas[grid[i]], alphas[grid[i - 1]] if i else alphas[0]
        clean = (x - (1 - now).sqrt() * epsilon) / now.sqrt()
        x = before.sqrt() * clean + (1 - before).sqrt() * epsilon
    return x.float()


def test_sample_matches_a_plain_ddim_loop(denoiser, reference):
    start, condition = noise(4, 4, 8, 8), noise(4, 3, 32, 32, seed=2)
    bank = portrait_bank(denoiser, reference, noise(2, 1, 4, 8, 8, seed=1))
    ours = sample(denoiser, toy_scheduler(), start, views=2, bank=bank, condition=condition, steps=4)
    torch.testing.assert_close(ours, plain_ddim(denoiser, start, bank, condition, 2, 4, 3.0), **CLOSE)


def test_timesteps_match_the_release():
    assert ddim_scheduler(toy_scheduler(), 50).timesteps[[0, -1]].tolist() == [981, 1]
    assert ddim_scheduler(toy_scheduler(), 100).timesteps[[0, -1]].tolist() == [991, 1]


def test_bank_at_a_fixed_timestep_is_computed_once(denoiser, reference):
    start, portraits = noise(4, 4, 8, 8), noise(2, 2, 4, 8, 8, seed=1)
    calls = []
    reference.register_forward_hook(lambda *_: calls.append(1))
    once = portrait_bank(denoiser, reference, portraits, timestep=0)
    cached = sample(denoiser, toy_scheduler(), start, views=2, bank=once, steps=5)
    assert len(calls) == 1
    every = portrait_bank(denoiser, reference, portraits)
    recomputed = sample(denoiser, toy_scheduler(), start, views=2, bank=lambda _: every(0), steps=5)
    assert len(calls) == 6
    torch.testing.assert_close(cached, recomputed, **CLOSE)


def test_each_network_runs_only_as_often_as_needed(denoiser, reference):
    counts = {"f": 0, "f_cam": 0, "hint": 0, "f_ref": 0}
    control = denoiser.control

    def count(name):
        return lambda *_: counts.update({name: counts[name] + 1})

    denoiser.unet.conv_in.register_forward_hook(count("f"))
    control.conv_in.register_forward_hook(count("f_cam"))
    control.controlnet_cond_embedding.register_forward_hook(count("hint"))
    reference.register_forward_hook(count("f_ref"))
    bank = portrait_bank(denoiser, reference, noise(1, 1, 4, 8, 8))
    arguments = {"views": 2, "bank": bank, "condition": noise(2, 3, 32, 32), "steps": 3}
    sample(denoiser, toy_scheduler(), noise(2, 4, 8, 8), **arguments)
    assert counts == {"f": 6, "f_cam": 3, "hint": 1, "f_ref": 3}
    sample(denoiser, toy_scheduler(), noise(2, 4, 8, 8), **arguments, guidance=1.0)
    assert counts == {"f": 9, "f_cam": 6, "hint": 2, "f_ref": 6}


def test_sample_with_a_bank_alone_matches_a_plain_loop(denoiser, reference):
    stage1 = Denoiser(denoiser.unet, prompt())
    start, bank = noise(3, 4, 8, 8), portrait_bank(stage1, reference, noise(1, 1, 4, 8, 8, seed=1))
    ours = sample(stage1, toy_scheduler(), start, views=3, bank=bank, steps=2)
    torch.testing.assert_close(ours, plain_ddim(stage1, start, bank, None, 3, 2, 3.0), **CLOSE)


STOCHASTIC = {
    "DDIM with eta": (toy_scheduler, {"eta": 0.5}),
    "EulerAncestral": (EulerAncestralDiscreteScheduler, {}),
    "LCM": (LCMScheduler, {}),
    "SDE-DPM-Solver++": (lambda **c: DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", **c), {}),
}


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_schedulers_draw_noise_per_item(denoiser, reference, name):
    """An item's result does not depend on the batch: there is no cross-view attention here."""
    kind, options = STOCHASTIC[name]
    schedule = kind() if kind is toy_scheduler else kind(beta_schedule="scaled_linear")
    alone = Denoiser(denoiser.unet, prompt())
    start = noise(3, 4, 8, 8)
    bank = portrait_bank(alone, reference, noise(1, 1, 4, 8, 8))

    def run(items, seed=0):
        generators = [torch_generator("test", seed, item) for item in items]
        settings = {"views": len(items), "bank": bank, "steps": 3, "generators": generators, **options}
        return sample(alone, schedule, start[items], **settings)

    whole = run([0, 1, 2])
    torch.testing.assert_close(run([2]), whole[2:], rtol=1e-3, atol=1e-3)
    assert torch.equal(run([0, 1, 2]), whole)
    assert not torch.allclose(run([0, 1, 2], seed=1), whole, atol=1e-2)
    with pytest.raises(InputError, match="give generators"):
        sample(alone, schedule, start, **options)
    with pytest.raises(InputError, match="2 generators for 3 latents"):
        sample(alone, schedule, start, generators=[torch_generator(0), torch_generator(1)], **options)


@pytest.mark.parametrize(
    ("steps", "expected"), [(4, [999.0, 666.0, 333.0, 0.0]), (5, [999.0, 749.25, 499.5, 249.75, 0.0])]
)
def test_fractional_timesteps_are_not_rounded(denoiser, steps, expected):
    schedule = EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="linspace")
    seen = []
    denoiser.unet.time_proj.register_forward_hook(lambda _, given, __: seen.extend(given[0].tolist()))
    bare = Denoiser(denoiser.unet, prompt())
    sample(bare, schedule, noise(1, 4, 8, 8), steps=steps, guidance=1.0, generators=[torch_generator(0)])
    assert seen == pytest.approx(expected)


@pytest.mark.parametrize(
    "kind", [DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler, UniPCMultistepScheduler]
)
def test_schedulers_recover_partly_noised_latents(kind):
    """With the true noise as the prediction, every scheduler recovers the clean latents."""
    own = {"clip_sample": False} if kind is DDIMScheduler else {}
    schedule = kind(beta_schedule="scaled_linear", **own)
    clean, epsilon = noise(2, 4, 8, 8), noise(2, 4, 8, 8, seed=1)
    start = partly_noised(clean, epsilon, schedule, Sampling(10, strength=0.5))
    scheduler = scheduler_for(schedule, Sampling(10))
    latents, timesteps = start, sampled_timesteps(scheduler, 0.5)
    assert len(timesteps) == {HeunDiscreteScheduler: 9}.get(kind, 5)
    for timestep in timesteps:
        latents = scheduler.step(epsilon, timestep, latents).prev_sample
    assert (latents - clean).norm() / clean.norm() < 0.05


def test_unsupported_schedulers_are_input_errors(denoiser):
    flow = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(InputError, match="FlowMatchEulerDiscreteScheduler: it does not support F"):
        sample(denoiser, flow, noise(1, 4, 8, 8))
    velocity = EulerDiscreteScheduler(prediction_type="v_prediction")
    with pytest.raises(InputError, match="EulerDiscreteScheduler: it does not support F's predictions"):
        sample(denoiser, velocity, noise(1, 4, 8, 8))
    for kind in (DDIMInverseScheduler, EDMEulerScheduler, IPNDMScheduler, RePaintScheduler):
        with pytest.raises(InputError, match=f"{kind.__name__}: it does not support F's predictions"):
            sample(denoiser, kind(), noise(1, 4, 8, 8))
    with pytest.raises(InputError, match="PNDMScheduler: its Runge-Kutta steps"):
        sample(denoiser, PNDMScheduler(), noise(1, 4, 8, 8))
    with pytest.raises(InputError, match="LCMScheduler: "):
        sample(denoiser, LCMScheduler(), noise(1, 4, 8, 8), steps=60)


def test_sample_does_not_mutate_its_components(denoiser):
    schedule = toy_scheduler()
    kept = {name: x.clone() for name, x in denoiser.state_dict().items()}
    timesteps = schedule.timesteps.clone()
    sample(denoiser, schedule, noise(1, 4, 8, 8), steps=2)
    assert torch.equal(schedule.timesteps, timesteps)
    assert all(torch.equal(x, kept[name]) for name, x in denoiser.state_dict().items())


def test_bfloat16_sampling_is_close_to_float32(denoiser, reference):
    bank = portrait_bank(denoiser, reference, noise(1, 1, 4, 8, 8))
    full = sample(denoiser, toy_scheduler(), noise(2, 4, 8, 8), views=2, bank=bank, steps=4)
    half, small = denoiser.to(torch.bfloat16), reference.to(torch.bfloat16)
    bank = portrait_bank(half, small, noise(1, 1, 4, 8, 8))
    low = sample(half, toy_scheduler(), noise(2, 4, 8, 8), views=2, bank=bank, steps=4)
    assert low.dtype == torch.float32
    # 8 bits of mantissa: 0.4% for each operation, and guidance 3 triples the difference of the two passes
    assert (low - full).norm() / full.norm() < 0.05


@pytest.mark.parametrize("steps", [0, 501])
def test_steps_out_of_range_are_an_input_error(denoiser, steps):
    with pytest.raises(InputError, match=f"steps 0: give|{steps} sampling steps"):
        sample(denoiser, toy_scheduler(), noise(1, 4, 8, 8), steps=steps)


def test_mismatched_inputs_are_input_errors(denoiser, reference):
    start = noise(2, 4, 8, 8)
    with pytest.raises(InputError, match="2 latents are not a multiple of 3 views"):
        sample(denoiser, toy_scheduler(), start, views=3)
    with pytest.raises(InputError, match="F_cam"):
        sample(Denoiser(denoiser.unet, prompt()), toy_scheduler(), start, condition=noise(2, 3, 32, 32))
    with pytest.raises(InputError, match="one for each view"):
        sample(denoiser, toy_scheduler(), start, condition=noise(1, 3, 32, 32), steps=1)
    bank = portrait_bank(denoiser, reference, noise(2, 1, 4, 8, 8))
    with pytest.raises(InputError, match="bank of 2 portraits"):
        sample(denoiser, toy_scheduler(), start, views=2, bank=bank)


def test_float16_on_a_cpu_is_an_input_error(denoiser):
    with pytest.raises(InputError, match="float16"):
        sample(denoiser.half(), toy_scheduler(), noise(1, 4, 8, 8), steps=1)
