import pytest
import torch

from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.networks.view_control import view_control
from lightning_modules.sampling.ddim import ddim, portrait_bank, sample
from shards.errors import InputError
from tests.networks.toy import noise, prompt, shake, toy_scheduler, toy_unet

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
def slow_twin(denoiser, start, bank_at, condition, views, steps, guidance):
    """DDIM written out in double precision."""
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


def test_equals_the_slow_twin(denoiser, reference):
    start, condition = noise(4, 4, 8, 8), noise(4, 3, 32, 32, seed=2)
    bank = portrait_bank(denoiser, reference, noise(2, 1, 4, 8, 8, seed=1))
    ours = sample(denoiser, toy_scheduler(), start, views=2, bank=bank, condition=condition, steps=4)
    torch.testing.assert_close(ours, slow_twin(denoiser, start, bank, condition, 2, 4, 3.0), **CLOSE)


def test_the_released_grid():
    assert ddim(toy_scheduler(), 50).timesteps[[0, -1]].tolist() == [981, 1]
    assert ddim(toy_scheduler(), 100).timesteps[[0, -1]].tolist() == [991, 1]


def test_a_fixed_timestep_computes_the_bank_once_and_changes_nothing(denoiser, reference):
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


def test_runs_nothing_that_is_thrown_away(denoiser, reference):
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


def test_bank_alone_is_enough(denoiser, reference):
    bank = portrait_bank(denoiser, reference, noise(1, 1, 4, 8, 8))
    stage1 = Denoiser(denoiser.unet, prompt())
    out = sample(stage1, toy_scheduler(), noise(3, 4, 8, 8), views=3, bank=bank, steps=2)
    assert out.shape == (3, 4, 8, 8)
    assert out.isfinite().all()


def test_the_same_seed_gives_the_same_latents(denoiser, reference):
    bank = portrait_bank(denoiser, reference, noise(1, 1, 4, 8, 8))

    def run(seed):
        step_noise = lambda timestep: noise(1, 4, 8, 8, seed=seed + timestep)  # noqa: E731
        settings = {"bank": bank, "steps": 3, "eta": 0.5, "step_noise": step_noise}
        return sample(denoiser, toy_scheduler(), noise(1, 4, 8, 8), **settings)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_components_are_left_as_they_were(denoiser):
    schedule = toy_scheduler()
    kept = {name: x.clone() for name, x in denoiser.state_dict().items()}
    timesteps = schedule.timesteps.clone()
    sample(denoiser, schedule, noise(1, 4, 8, 8), steps=2)
    assert torch.equal(schedule.timesteps, timesteps)
    assert all(torch.equal(x, kept[name]) for name, x in denoiser.state_dict().items())


def test_bfloat16_stays_near_float32(denoiser, reference):
    bank = portrait_bank(denoiser, reference, noise(1, 1, 4, 8, 8))
    full = sample(denoiser, toy_scheduler(), noise(2, 4, 8, 8), views=2, bank=bank, steps=4)
    half, small = denoiser.to(torch.bfloat16), reference.to(torch.bfloat16)
    bank = portrait_bank(half, small, noise(1, 1, 4, 8, 8))
    low = sample(half, toy_scheduler(), noise(2, 4, 8, 8), views=2, bank=bank, steps=4)
    assert low.dtype == torch.float32
    # 8 bits of mantissa: 0.4% for each operation, and guidance 3 triples the difference of two passes.
    assert (low - full).norm() / full.norm() < 0.05


@pytest.mark.parametrize("steps", [0, 501])
def test_steps_out_of_range_are_one_line(denoiser, steps):
    with pytest.raises(InputError, match="sampling steps"):
        sample(denoiser, toy_scheduler(), noise(1, 4, 8, 8), steps=steps)


def test_settings_that_do_not_fit_are_one_line(denoiser, reference):
    start = noise(2, 4, 8, 8)
    with pytest.raises(InputError, match="give step_noise"):
        sample(denoiser, toy_scheduler(), start, eta=0.5)
    with pytest.raises(InputError, match="F_cam"):
        sample(Denoiser(denoiser.unet, prompt()), toy_scheduler(), start, condition=noise(2, 3, 32, 32))
    with pytest.raises(InputError, match="one for each view"):
        sample(denoiser, toy_scheduler(), start, condition=noise(1, 3, 32, 32), steps=1)
    bank = portrait_bank(denoiser, reference, noise(2, 1, 4, 8, 8))
    with pytest.raises(InputError, match="bank of 2 portraits"):
        sample(denoiser, toy_scheduler(), start, views=2, bank=bank)


def test_half_precision_on_a_cpu_is_one_line(denoiser):
    with pytest.raises(InputError, match="float16"):
        sample(denoiser.half(), toy_scheduler(), noise(1, 4, 8, 8), steps=1)
