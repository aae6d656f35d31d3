"""Occlusion masks of a head of known shape."""

import math
from types import SimpleNamespace

import pytest
import torch

from generators.volume import rays
from lightning_modules.networks.noise_prior import Proxies
from lightning_modules.sampling.visibility import occluded
from portraits.cameras import PIVOT, label_from_angles

SIDE, RADIUS = 32, 0.3


class Ball:
    """In place of S: a ball around `PIVOT`, with exact depths."""

    def encode(self, portraits):
        return SimpleNamespace(people=len(portraits))

    def proxies(self, canonical, cameras):  # noqa: ARG002
        cast = rays(cameras.flatten(0, 1), SIDE)
        offset = cast.origins - torch.tensor(PIVOT, dtype=torch.float32)
        along = (offset * cast.directions).sum(-1)
        root = along.square() - offset.square().sum(-1) + RADIUS**2
        depth = torch.where(root > 0, -along - root.clamp_min(0).sqrt(), 3.2)
        shape = (*cameras.shape[:2], SIDE, SIDE)
        return Proxies(
            torch.zeros(*shape[:2], 3, 64, 64), depth.reshape(shape), (root > 0).float().reshape(shape)
        )


def occluded_at(seen_yaws, yaw):
    """Masks (SIDE, SIDE) at `yaw` degrees: the part of the ball occluded at all `seen_yaws`, and the ball."""
    labels = [torch.from_numpy(label_from_angles(math.radians(y), 0.0)) for y in (*seen_yaws, yaw)]
    seen, camera = torch.stack(labels[:-1])[None], labels[-1][None, None]
    portraits = torch.zeros(1, len(seen_yaws), 3, 64, 64)
    found = occluded(Ball(), portraits, seen, camera)
    ball = Ball().proxies(None, camera).alpha[0, 0].bool()
    return found[0, 0].view(SIDE, 2, SIDE, 2)[:, 0, :, 0], ball


def test_nothing_is_occluded_from_the_portraits_camera():
    assert not occluded_at([10], 10)[0].any()


def test_far_half_is_occluded_from_the_side():
    found, ball = occluded_at([0], 90)
    portrait, camera = (torch.from_numpy(label_from_angles(math.radians(yaw), 0.0)) for yaw in (0, 90))
    depth = Ball().proxies(None, camera[None, None]).depth.view(1, -1, 1)
    points = rays(camera[None], SIDE).points(depth)[0, :, 0]
    normals = points - torch.tensor(PIVOT, dtype=torch.float32)
    facing = ((portrait[[3, 7, 11]] - points) * normals).sum(-1).view(SIDE, SIDE) > 0
    assert found[ball & ~facing].float().mean() > 0.8  # a rim is within the depth tolerance
    assert (
        found[ball & facing].float().mean() < 0.12
    )  # at the silhouette, depths of ball and background are interpolated
    assert not (found & ~ball).any()
    mirrored, _ = occluded_at([0], -90)
    assert torch.equal(mirrored, found.flip(1))


@pytest.mark.parametrize("yaw", [30, 60, 90])
def test_occlusion_grows_with_yaw_and_shrinks_with_portraits(yaw):
    found, _ = occluded_at([0], yaw)
    assert found.sum() >= occluded_at([0], yaw - 25)[0].sum()
    both, _ = occluded_at([0, yaw + 20], yaw)
    assert (found | ~both).all()
    assert both.sum() < found.sum() or found.sum() == 0
