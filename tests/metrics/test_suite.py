"""All metrics at once, and over several processes."""

import pytest
import torch
import torch.multiprocessing
from torch import distributed

from core.errors import InputError
from metrics import FID, KID, LPIPS, POSE, PSNR, SSIM, MetricSuite
from metrics.suite import higher_is_better, parse
from tests.metrics.conftest import distorted

LITE = "[efficientnet-lite0]"
NAMES = ["PSNR", "SSIM", f"LPIPS{LITE}", "POSE[mtcnn-5]", f"FID{LITE}", f"KID{LITE}"]


@pytest.mark.filterwarnings("ignore:FID")
def test_suite_matches_the_single_metrics(people):
    truth = people.views[0, :3]
    images = distorted(truth, "noise", 0.05)
    suite = MetricSuite(NAMES)
    scores = [suite.update(images[:2], truth[:2]), suite.update(images[2:], truth[2:])]
    results = suite.compute()
    for metric in (PSNR(), SSIM(), LPIPS("efficientnet-lite0"), POSE("mtcnn-5")):
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
        f"POSE[mtcnn-5-label]{ending}" for ending in ("", "_yaw_degrees", "_pitch_degrees", "_roll_degrees")
    }
    suite.reset()
    assert suite.compute() == {}


def test_without_ground_truth_only_pose_is_scored(people):
    suite = MetricSuite(["PSNR", "POSE[mtcnn-5]"])
    images, cameras = people.views[0, :2], people.cameras[0, :2]
    assert set(suite.update(images, pose=images)) == set(POSE("mtcnn-5").columns)
    assert "POSE[mtcnn-5-label]" in suite.update(images, cameras=cameras)
    assert "PSNR" not in suite.compute()


def test_size_mismatch_is_refused(people):
    with pytest.raises(InputError, match="differ"):
        MetricSuite(["PSNR"]).update(people.views[0], people.views[0, :, :, :32, :32])


def test_parse_accepts_a_file_as_weights():
    assert parse("ID[arcface=/models/w600k_r50.onnx]") == ("ID", "arcface=/models/w600k_r50.onnx")
    with pytest.raises(InputError, match=r"arcface: /nowhere/r100\.onnx does not exist"):
        MetricSuite(["ID[arcface=/nowhere/r100.onnx]"])


@pytest.mark.parametrize("name", ["FOO", "PSNR[vgg16]", "lpips", "LPIPS["])
def test_unknown_metric_is_an_input_error(name):
    with pytest.raises(InputError):
        parse(name)


RANK_NAMES = [*NAMES, f"DISTS{LITE}"]


def _suite_results(images, truth, cameras):
    suite = MetricSuite(RANK_NAMES)
    suite.update(images, truth, cameras=cameras)
    return torch.tensor([value for _, value in sorted(suite.compute().items())])


def _score_in_process(rank, rendezvous, images, truth, cameras, shared):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    # rank 0 has one image, too few for FID on its own: only the ranks' sum is enough
    mine = slice(0, 1) if rank == 0 else slice(1, None)
    shared[rank] = _suite_results(images[mine], truth[mine], cameras[mine])
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:FID")
def test_two_processes_match_one(people, tmp_path):
    truth, cameras = people.views[0, :4], people.cameras[0, :4]
    images = distorted(truth, "noise", 0.1)
    images[2] = 0
    expected = _suite_results(images, truth, cameras)
    assert len(expected) > len(RANK_NAMES)
    shared = torch.zeros(2, len(expected)).share_memory_()
    arguments = (str(tmp_path / "rendezvous"), images, truth, cameras, shared)
    torch.multiprocessing.spawn(_score_in_process, arguments, nprocs=2)
    torch.testing.assert_close(shared, expected.expand(2, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("PSNR", True),
        (f"LPIPS{LITE}", False),
        ("POSE[label]_yaw_degrees", False),
        ("POSE_failures", False),
        ("ID[sface]_by_camera", False),
        ("ID_failures_of_truth", False),
        ("ID[dlib]", True),
        ("loss", None),
        ("IDENTITY", None),
    ],
)
def test_higher_is_better_from_the_name(name, better):
    assert higher_is_better(name) is better


def test_empty_suite_is_an_input_error():
    with pytest.raises(InputError, match="the list is empty"):
        MetricSuite([])
