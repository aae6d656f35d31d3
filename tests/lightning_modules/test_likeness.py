"""Scores of generated views: faces, identity, yaw, sharpness, and confidence intervals over people."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core.workers import Worker
from lightning_modules.ablations import read_frames
from lightning_modules.likeness import (
    Likeness,
    RowScores,
    as_json,
    estimate,
    neighbour_difference,
    read_masks,
    table,
)
from portraits.cameras import angles
from portraits.pixels import to_pixels
from shards.builder import build
from shards.schema import Sample
from tests.faces import rendered_heads
from tests.shards.fake_source import FakeSource


def test_confidence_interval_is_over_people():
    rng = np.random.default_rng(0)
    people = rng.normal(0, 1, (200, 1)) + np.zeros((200, 4))
    few, many = estimate(people[:20]), estimate(people)
    assert many.mean == pytest.approx(people.mean())
    assert many.count == 800
    assert many.low < people.mean() < many.high
    # a person's four views are equal, so the interval is that of 200 samples
    assert many.high - many.low == pytest.approx(2 * 1.96 / np.sqrt(200), rel=0.15)
    assert few.high - few.low > 2 * (many.high - many.low)


def test_nan_scores_are_left_out():
    values = np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, 5.0]])
    assert estimate(values).mean == 3
    assert estimate(values).count == 3
    assert estimate(values, median=True).mean == 3
    assert np.isnan(estimate(np.full((2, 2), np.nan)).mean)
    assert np.isnan(estimate(values[:1]).low)


def test_table_leaves_missing_scores_empty():
    rows = {
        "x": RowScores({"faces": np.ones((2, 2))}, {}),
        "y": RowScores({"PSNR": np.ones((1, 1)), "faces": np.zeros((1, 1))}, {}),
    }
    assert table(rows)[0] == "| | PSNR | faces |"
    assert table(rows)[2:] == ["| x |  | 1 (1 to 1) |", "| y | 1 | 0 |"]
    assert as_json(rows)["y"]["PSNR"] == {"mean": 1.0, "low": None, "high": None, "count": 1}


def test_neighbour_difference_is_cyclic():
    levels = torch.tensor([0.0, 10.0, 30.0]).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    assert neighbour_difference(levels / 127.5 - 1) == pytest.approx((10 + 20 + 30) / 3)


@pytest.fixture(scope="module")
def crowd():
    """Three people, each with a portrait and two other views."""
    heads = rendered_heads()
    images = torch.stack([to_pixels(np.array(head.image)) for head in heads]).unflatten(0, (3, 3))
    cameras = torch.from_numpy(np.stack([head.label for head in heads])).unflatten(0, (3, 3))
    return {"reference": images[:, 1:2], "target": images[:, [0, 2]], "camera": cameras[:, [0, 2]]}


@pytest.fixture(scope="module")
def likeness(crowd):
    return Likeness(crowd)


def means(scores: RowScores) -> dict[str, float]:
    return {name: value.mean for name, value in scores.estimates().items()}


def test_ground_truth_is_re_identified_and_has_no_psnr(likeness, crowd):
    found = means(likeness.score(crowd["target"]))
    assert not {"PSNR", "SSIM", likeness.identity.label} & found.keys()
    assert found["sharpness"] == 1
    assert found["faces"] == 1
    assert found["re-identified"] == 1
    assert found["yaw error"] < 10
    own = f"{likeness.identity.label} to the portrait"
    strangers = Likeness(crowd | {"reference": crowd["reference"].roll(1, 0)})
    assert found[own] > means(strangers.score(crowd["target"]))[own] + 0.02  # dlib has the smallest margin


def test_returned_portrait_is_the_person_at_another_yaw(likeness, crowd):
    found = means(likeness.score(crowd["reference"].expand_as(crowd["target"]).contiguous()))
    assert found[f"{likeness.identity.label} to the portrait"] == pytest.approx(1, abs=1e-4)
    assert found["re-identified"] == 1
    assert found["yaw error"] > 20
    assert found["PSNR"] < 25
    assert found["LPIPS[efficientnet-lite0]"] > 0.05
    assert found["DISTS[efficientnet-lite0]"] > 0.05
    assert found[likeness.turn.label] > 0.1
    assert "KID[efficientnet-lite0]" in found


def test_other_people_are_not_re_identified(likeness, crowd):
    own, strange = (means(likeness.score(crowd["target"].roll(turn, 0) * 0.99)) for turn in (0, 1))
    label = likeness.identity.label
    assert strange["re-identified"] == 0
    assert own["re-identified"] == 1
    assert strange[label] < own[label]
    assert strange[f"{label} to the portrait"] < own[f"{label} to the portrait"]


def test_views_without_a_face_score_zero(likeness, crowd):
    found = means(likeness.score(torch.zeros_like(crowd["target"])))
    assert found["faces"] == found["re-identified"] == found["sharpness"] == 0
    assert np.isnan(found["yaw error"])


def test_sharpness_is_measured_inside_the_mask(crowd):
    mask = torch.zeros(3, 2, 128, 128)
    mask[..., 40:90, 40:90] = 1
    blurred = crowd["target"].clone()
    blurred[..., 40:90, 40:90] = blur(crowd["target"])[..., 40:90, 40:90]
    masked, whole = (means(Likeness(batch).score(blurred)) for batch in (crowd | {"mask": mask}, crowd))
    assert masked["sharpness"] < 0.7
    assert whole["sharpness"] > masked["sharpness"] + 0.1


def blur(images: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(images.flatten(0, 1), 7, stride=1, padding=3).unflatten(0, images.shape[:2])


@pytest.mark.parametrize("masks", [True, False])
def test_masks_match_the_views(tmp_path, masks):
    build(Masked(2, 1, views=7, size=16, masks=masks), tmp_path / "built", 0)
    batch = read_frames(str(tmp_path / "built"), 2, 2, 16)
    found = read_masks(str(tmp_path / "built"), batch)
    assert ("mask" in batch) == masks
    if not masks:
        assert found is None
        return
    assert found.shape == (2, 2, 16, 16)
    yaw = angles(batch["camera"].flatten(0, 1).numpy())[:, 0]
    wanted = np.round((yaw + 1) / 2 * 6)  # a mask's white row is its view's number
    assert found.flatten(0, 1).sum((1, 2)).tolist() == [16] * 4
    assert found.flatten(0, 1).sum(2).argmax(1).tolist() == wanted.tolist()


class Masked(FakeSource):
    """Frames whose masks have one white row, the view's number."""

    def __init__(self, *arguments: int, masks: bool, **options: int) -> None:
        super().__init__(*arguments, **options)
        self.masked = masks

    def capture(self, unit: tuple[str, int], *worker: Worker) -> list[Sample]:
        rows = np.zeros((7, 16, 16), np.uint8)
        rows[np.arange(7), np.arange(7)] = 255
        return [replace(s, masks=rows if self.masked else None) for s in super().capture(unit, *worker)]
