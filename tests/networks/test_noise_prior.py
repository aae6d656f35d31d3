"""The noise prior S: reference fusion, cameras, ray chunks, gradients, folders, invalid input."""

import math

import pytest
import torch
from torch import Tensor

from core.errors import InputError
from core.model_folders import load_model, save_model
from lightning_modules.networks.noise_prior import Canonical, NoisePrior
from lightning_modules.networks.noise_prior_parts import look_up
from portraits.cameras import label_from_angles
from tests.networks.toy import toy_prior

BUDGET = 5_000_000  # bytes of the small scale's weights in half precision


@pytest.fixture(scope="module")
def prior() -> NoisePrior:
    return toy_prior()


def portraits(people: int, references: int) -> Tensor:
    draw = torch.Generator().manual_seed(references)
    return torch.rand(people, references, 3, 16, 16, generator=draw) * 2 - 1


def cameras(people: int, views: int) -> Tensor:
    yaws = torch.linspace(-0.6, 0.7, people * views).tolist()
    labels = [torch.from_numpy(label_from_angles(yaw, 0.1 - yaw / 4)) for yaw in yaws]
    return torch.stack(labels).unflatten(0, (people, views))


@torch.no_grad()
def test_proxies_are_images_in_range_and_differ_by_camera(prior: NoisePrior) -> None:
    images = prior(portraits(2, 1), cameras(2, 3))
    assert images.shape == (2, 3, 3, 16, 16)
    assert images.abs().max() <= 1
    assert images.std(dim=1).max() > 1e-3


@torch.no_grad()
def test_depth_and_alpha_are_in_range(prior: NoisePrior) -> None:
    proxies = prior.proxies(prior.encode(portraits(1, 1)), cameras(1, 2))
    assert proxies.depth.shape == proxies.alpha.shape == (1, 2, 8, 8)
    assert proxies.depth.min() > 2.7 - 0.45
    assert proxies.depth.max() < 2.7 + 0.45 * 1.3
    assert proxies.alpha.min() >= 0
    assert proxies.alpha.max() <= 1


@torch.no_grad()
def test_reference_order_does_not_matter(prior: NoisePrior) -> None:
    seen = portraits(2, 3)
    wanted = cameras(2, 1)
    shuffled = prior(seen[:, [2, 0, 1]], wanted)
    assert torch.allclose(prior(seen, wanted), shuffled, atol=1e-5)
    assert not torch.allclose(prior(seen[:, :1], wanted), shuffled, atol=1e-4)


@torch.no_grad()
def test_duplicate_references_change_nothing(prior: NoisePrior) -> None:
    one = portraits(2, 1)
    wanted = cameras(2, 2)
    assert torch.allclose(prior(one, wanted), prior(one.expand(-1, 4, -1, -1, -1), wanted), atol=1e-5)


@torch.no_grad()
def test_people_in_a_batch_are_independent(prior: NoisePrior) -> None:
    seen, wanted = portraits(3, 2), cameras(3, 2)
    alone = prior(seen[1:2], wanted[1:2])
    assert torch.allclose(prior(seen, wanted)[1:2], alone, atol=1e-5)


@torch.no_grad()
def test_feature_in_the_volume_appears_on_its_side_of_the_image(prior: NoisePrior) -> None:
    volume = torch.zeros(1, 4, 8, 8, 8)
    volume[..., 6, 4, 5] = 1.0  # x = 0.17, y = 0.06, z = 0.28 in the world
    empty = Canonical(torch.zeros_like(volume), torch.zeros(1, 4, 6, 12))
    bump = Canonical(volume, empty.surroundings)
    front = torch.from_numpy(label_from_angles(0.0, 0.0)).view(1, 1, 25)
    change = (prior.proxies(bump, front).alpha - prior.proxies(empty, front).alpha).abs()[0, 0]
    # world +x is on the right of a frontal image
    assert change[:, 4:].sum() > 10 * change[:, :4].sum()


@pytest.mark.parametrize("drawn", [False, True])
@torch.no_grad()
def test_ray_chunks_change_nothing(prior: NoisePrior, drawn: bool) -> None:
    canonical = prior.encode(portraits(2, 1))

    def rendered(chunk: int) -> Tensor:
        draw = torch.Generator().manual_seed(1) if drawn else None
        return prior.proxies(canonical, cameras(2, 2), draw, chunk).images

    assert torch.allclose(rendered(0), rendered(5), atol=1e-6)


def test_gradients_reach_every_parameter() -> None:
    prior = toy_prior()
    draws = [torch.Generator().manual_seed(seed) for seed in range(2)]
    proxies = prior.proxies(prior.encode(portraits(2, 1)), cameras(2, 2), draws)
    weights = torch.randn(proxies.images.shape, generator=torch.Generator().manual_seed(1))
    (proxies.images * weights).sum().backward()
    idle = [n for n, p in prior.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert not idle


def test_surroundings_are_sampled_by_direction() -> None:
    maps = torch.zeros(1, 1, 4, 8)
    maps[0, 0, :, 6] = 1.0
    angle = (6.5 - 4) / 8 * 2 * math.pi
    right = torch.tensor([math.sin(angle), 0.0, -math.cos(angle)])
    up, ahead = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, -1.0])
    seen = look_up(maps, torch.stack([right, ahead]).unsqueeze(0)).flatten()
    assert torch.allclose(seen, torch.tensor([1.0, 0.0]), atol=1e-5)
    maps = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 1, 4, 8)
    assert torch.allclose(
        look_up(maps, torch.stack([up, -up]).unsqueeze(0)).flatten(), torch.tensor([0.0, 3.0])
    )


def test_surroundings_are_continuous_behind_the_head() -> None:
    maps = torch.rand(1, 2, 4, 8, generator=torch.Generator().manual_seed(0))
    behind = torch.tensor([[1e-4, 0.1, 1.0], [-1e-4, 0.1, 1.0]])
    left, right = look_up(maps, behind.unsqueeze(0))[0]
    assert torch.allclose(left, right, atol=1e-3)


@torch.no_grad()
def test_prior_folder_round_trip(prior: NoisePrior, tmp_path) -> None:
    save_model(prior, tmp_path / "noise_prior")
    again = load_model(NoisePrior, tmp_path / "noise_prior")
    assert torch.equal(again(portraits(1, 2), cameras(1, 2)), prior(portraits(1, 2), cameras(1, 2)))


@torch.no_grad()
def test_bfloat16_is_close_to_float32(prior: NoisePrior) -> None:
    half = toy_prior().to(torch.bfloat16)
    seen = half(portraits(1, 1).bfloat16(), cameras(1, 2))
    assert (seen - prior(portraits(1, 1), cameras(1, 2))).abs().mean() < 0.03


def test_default_prior_is_at_most_5_mb() -> None:
    with torch.device("meta"):
        parameters = sum(p.numel() for p in NoisePrior().parameters())
    assert 2 * parameters <= BUDGET


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 0, 3, 16, 16), (2, 1, 4, 16, 16), (2, 1, 3, 32, 32)])
def test_wrong_portrait_shapes_are_refused(prior: NoisePrior, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="portraits have shape"):
        prior.encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 16), (2, 3, 16), (3, 3, 25)])
def test_wrong_camera_shapes_are_refused(prior: NoisePrior, shape: tuple[int, ...]) -> None:
    canonical = Canonical(torch.zeros(2, 4, 8, 8, 8), torch.zeros(2, 4, 6, 12))
    with pytest.raises(InputError, match="cameras have shape"):
        prior.render(canonical, torch.zeros(shape))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lift_side": 2}, "lift_side 2"),
        ({"image_size": 20}, "of 20 pixels"),
        ({"rendering_size": 4}, "to 8"),
        ({"coarse": 2}, "at least 3"),
    ],
)
def test_incompatible_sizes_are_refused(change: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        toy_prior(**change)
