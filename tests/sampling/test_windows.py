from copy import deepcopy
from itertools import pairwise

import pytest
import torch

from core.errors import InputError
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.sampling.ddim import portrait_bank
from lightning_modules.sampling.windows import windows
from tests.networks.toy import noise, toy_model
from tests.sampling.sampled import sample


@pytest.mark.parametrize("overlap", [0, 1, 4, 7])
@pytest.mark.parametrize("views", [1, 2, 7, 8, 9, 12, 24, 97])
def test_windows_cover_all_views_with_weights_of_sum_one(views, overlap):
    plan = windows(views, 8, overlap)
    total = torch.zeros(views)
    for window in plan:
        assert window.stop - window.start == min(views, 8)
        assert (window.weights > 0).all()
        total[window.views] += window.weights
    torch.testing.assert_close(total, torch.ones(views))
    assert plan[0].start == 0
    assert plan[-1].stop == views
    assert all(one.stop - other.start >= overlap for one, other in pairwise(plan))


def test_overlapping_windows_blend_linearly():
    first, second = windows(12, 8, 4)
    torch.testing.assert_close(first.weights, torch.tensor([1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]))
    torch.testing.assert_close(second.weights, first.weights.flip(0))


def test_default_overlap_is_half_a_window():
    assert [w.views for w in windows(24, 8)] == [w.views for w in windows(24, 8, 4)]
    assert [w.views for w in windows(3, 1)] == [slice(0, 1), slice(1, 2), slice(2, 3)]


def test_single_window_has_unit_weights():
    (window,) = windows(5, 8, 4)
    assert torch.equal(window.weights, torch.ones(5))


@pytest.mark.parametrize(("views", "window", "overlap"), [(0, 8, 4), (8, 0, 0), (8, 4, 4), (8, 4, -1)])
def test_invalid_window_settings_are_input_errors(views, window, overlap):
    with pytest.raises(InputError, match="window"):
        windows(views, window, overlap)


@torch.no_grad()
def test_windows_change_nothing_without_cross_view():
    """Without cross-view attention, overlapping windows predict the same and their blend equals them."""
    model = toy_model()
    denoiser = Denoiser(model.backbone.unet, model.backbone.empty_prompt, model.control)
    bank = portrait_bank(denoiser, model.reference, noise(2, 1, 4, 4, 4), timestep=0)
    options = {"views": 9, "bank": bank, "condition": noise(18, 3, 16, 16, seed=1), "steps": 3}
    start = noise(18, 4, 4, 4, seed=2)
    whole = sample(denoiser, model.backbone.scheduler, start, **options)
    parts = sample(denoiser, model.backbone.scheduler, start, **options, window=4, overlap=2)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_cross_view_attends_within_a_window():
    """Two windows without overlap are two separate trajectories."""
    model = toy_model()
    denoiser = model.denoiser()
    bank = portrait_bank(denoiser, model.reference, noise(1, 1, 4, 4, 4), timestep=0)
    condition, start = noise(6, 3, 16, 16, seed=1), noise(6, 4, 4, 4, seed=2)

    def run(rows, **options):
        return sample(
            denoiser,
            model.backbone.scheduler,
            start[rows],
            bank=bank,
            condition=condition[rows],
            steps=2,
            **options,
        )

    together = run(slice(0, 6), views=6, window=3, overlap=0)
    torch.testing.assert_close(together[:3], run(slice(0, 3), views=3), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together[3:], run(slice(3, 6), views=3), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together, run(slice(0, 6), views=6), atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("timestep", [0, None])
def test_replicas_share_windows_and_change_nothing(timestep):
    model = toy_model()
    denoiser = model.denoiser()
    copies = [deepcopy(denoiser) for _ in range(2)]
    calls = [[] for _ in range(3)]
    for seen, copy in zip(calls, (denoiser, *copies), strict=True):
        copy.unet.conv_in.register_forward_hook(lambda *_, seen=seen: seen.append(torch.is_grad_enabled()))
    bank = portrait_bank(denoiser, model.reference, noise(2, 1, 4, 4, 4), timestep=timestep)
    options = {"views": 9, "bank": bank, "condition": noise(18, 3, 16, 16, seed=1), "steps": 2}
    options |= {"window": 3, "overlap": 1}
    start = noise(18, 4, 4, 4, seed=2)
    alone = sample(denoiser, model.backbone.scheduler, start, **options)
    assert list(map(len, calls)) == [16, 0, 0]  # 4 windows, 2 steps, 2 passes
    shared = sample(denoiser, model.backbone.scheduler, start, **options, replicas=copies)
    torch.testing.assert_close(shared, alone, rtol=1e-3, atol=1e-3)  # memory alignment changes the rounding
    assert list(map(len, calls)) == [16 + 8, 4, 4]
    assert not any(map(any, calls))
