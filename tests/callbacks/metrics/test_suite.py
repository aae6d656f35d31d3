"""All metrics at once, and over several processes."""

import pytest
import torch
import torch.multiprocessing
from torch import distributed

from callbacks.metrics import FID, KID, LPIPS, POSE, PSNR, SSIM, MetricSuite
from callbacks.metrics.suite import parse
from shards.errors import InputError
from tests.callbacks.metrics.conftest import damaged

LITE = "[efficientnet-lite0]"
NAMES = ["PSNR", "SSIM", f"LPIPS{LITE}", "POSE", f"FID{LITE}", f"KID{LITE}"]


@pytest.mark.filterwarnings("ignore:FID")
def test_it_gives_what_the_metrics_give(people):
    truth = people.views[0, :3]
    images = damaged(truth, "noise", 0.05)
    suite = MetricSuite(NAMES)
    scores = [suite.update(images[:2], truth[:2]), suite.update(images[2:], truth[2:])]
    results = suite.compute()
    for metric in (PSNR(), SSIM(), LPIPS("efficientnet-lite0"), POSE()):
        metric.update(images, truth)
        for name, value in metric.results().items():
            assert results[name] == pytest.approx(value, rel=1e-4), name
        for column in metric.columns:
            assert torch.cat([some[column] for some in scores]).shape == (3,)
    for metric in (FID("efficientnet-lite0"), KID("efficientnet-lite0")):
        metric.update(truth, True)
        metric.update(images, False)
        assert results[metric.label] == pytest.approx(float(metric.compute()), rel=1e-3)
    assert set(suite.directions) <= set(results) | {
        f"POSE[label]{ending}" for ending in ("", "_yaw_degrees", "_pitch_degrees", "_roll_degrees")
    }
    suite.reset()
    assert suite.compute() == {}


def test_without_a_truth_only_what_can_be_compared_is(people):
    suite = MetricSuite(["PSNR", "POSE"])
    images, cameras = people.views[0, :2], people.cameras[0, :2]
    assert set(suite.update(images, pose=images)) == set(POSE().columns)
    assert "POSE[label]" in suite.update(images, cameras=cameras)
    assert "PSNR" not in suite.compute()


def test_images_of_another_size_are_refused(people):
    with pytest.raises(InputError, match="differ"):
        MetricSuite(["PSNR"]).update(people.views[0], people.views[0, :, :, :32, :32])


@pytest.mark.parametrize("name", ["FOO", "PSNR[vgg16]", "lpips", "LPIPS["])
def test_what_is_no_metric_is_one_line(name):
    with pytest.raises(InputError):
        parse(name)


def _score_in_process(rank, rendezvous, images, truth, shared):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    metrics = [PSNR(), LPIPS("efficientnet-lite0"), KID("efficientnet-lite0")]
    mine = slice(0, 3) if rank == 0 else slice(3, None)
    for metric in metrics[:2]:
        metric.update(images[mine], truth[mine])
    metrics[2].update(images[mine], False)
    metrics[2].update(truth[mine], True)
    shared[rank] = torch.stack([metric.compute().float() for metric in metrics])
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_what_one_gives(people, tmp_path):
    truth = people.views[0]
    images = damaged(truth, "noise", 0.1)
    shared = torch.full((2, 3), torch.nan).share_memory_()
    arguments = (str(tmp_path / "rendezvous"), images, truth, shared)
    torch.multiprocessing.spawn(_score_in_process, arguments, nprocs=2)
    one = [PSNR(), LPIPS("efficientnet-lite0"), KID("efficientnet-lite0")]
    for metric in one[:2]:
        metric.update(images, truth)
    one[2].update(images, False)
    one[2].update(truth, True)
    expected = torch.stack([metric.compute().float() for metric in one])
    torch.testing.assert_close(shared, expected.expand(2, 3), rtol=1e-4, atol=1e-5)
