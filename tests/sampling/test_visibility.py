"""What no portrait shows, of a head whose shape is known."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from generators.volume import rays
from lightning_modules.networks.noise_prior import Proxies
from lightning_modules.sampling.visibility import occluded
from portraits.cameras import PIVOT, label_from_angles

SIDE, RADIUS = 32, 0.3


class Ball:
    """In S's place: a ball about the point that cameras look at, rendered exactly."""

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


def missing(seen_yaws, yaw):
    """Where a ball seen at a yaw, degrees, was seen from none of others; and where the ball is."""
    labels = [torch.from_numpy(label_from_angles(math.radians(y), 0.0)) for y in (*seen_yaws, yaw)]
    seen, camera = torch.stack(labels[:-1])[None], labels[-1][None, None]
    portraits = torch.zeros(1, len(seen_yaws), 3, 64, 64)
    found = occluded(Ball(), portraits, seen, camera)
    ball = Ball().proxies(None, camera).alpha[0, 0].bool()
    return found[0, 0].view(SIDE, 2, SIDE, 2)[:, 0, :, 0], ball


def test_from_the_same_camera_nothing_is_hidden():
    assert not missing([10], 10)[0].any()


def test_from_the_side_the_far_half_is_hidden():
    """At 90 degrees a portrait shows half of what is seen, the half towards its camera."""
    found, ball = missing([0], 90)
    share = found.sum().item() / ball.sum().item()
    assert 0.4 < share < 0.6  # a near camera sees less than half of the ball, and `BEHIND` forgives some
    assert not (found & ~ball).any()
    columns = torch.nonzero(found)[:, 1]
    middle = np.mean(columns.numpy())
    assert middle > SIDE / 2  # a camera at the head's left sees the back of the head on its right
    mirrored, _ = missing([0], -90)
    assert torch.equal(mirrored, found.flip(1))


@pytest.mark.parametrize("yaw", [30, 60, 90])
def test_more_hides_as_the_head_turns_and_less_with_more_portraits(yaw):
    found, _ = missing([0], yaw)
    assert found.sum() >= missing([0], yaw - 25)[0].sum()
    both, _ = missing([0, yaw + 20], yaw)
    assert (found | ~both).all()
    assert both.sum() < found.sum() or found.sum() == 0
