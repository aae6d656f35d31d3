"""Choice, naming, fetching and verification of the metrics' weights."""

import dataclasses

import pytest
import torch
from torch import nn

from core.errors import InputError
from metrics.catalogue import CATALOGUE, choose, metric_name, notice, published
from metrics.fetch import fetch
from metrics.fetch import main as fetch_main
from metrics.suite import MetricSuite, available


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine without any published weights."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "home/hub"))
    monkeypatch.setenv("DIFFPORTRAIT3D_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path


@pytest.mark.usefixtures("bare")
def test_standard_weights_are_chosen_when_available(publish):
    assert choose("LPIPS") == "efficientnet-lite0"
    publish("alexnet", nn.Linear(2, 2))
    assert choose("LPIPS") == "alexnet"
    assert choose("DISTS") == "efficientnet-lite0"
    assert choose("POSE") == "mtcnn-5"
    line = notice([("LPIPS", "alexnet"), ("DISTS", "efficientnet-lite0")])
    assert "\n" not in line
    assert "standard weights for LPIPS; stand-ins in DISTS[efficientnet-lite0]" in line
    assert "make metric-weights" in line


def test_metric_names_carry_their_weights():
    assert metric_name("LPIPS", "alexnet") == "LPIPS"
    assert metric_name("FID", "efficientnet-lite0") == "FID[efficientnet-lite0]"
    assert metric_name("ID", "dlib") == "ID[dlib]"
    assert metric_name("ID", "arcface=/models/w600k_r50.onnx") == "ID[arcface-w600k_r50]"
    assert metric_name("POSE", "mediapipe-468") == "POSE"
    assert metric_name("POSE", "mtcnn-5") == "POSE[mtcnn-5]"
    assert metric_name("PSNR", None) == "PSNR"


@pytest.mark.usefixtures("bare")
def test_metric_without_weights_is_left_out_with_a_notice(monkeypatch):
    lacking = dataclasses.replace(CATALOGUE["dlib"], packages=("no_such_package",))
    monkeypatch.setitem(CATALOGUE, "dlib", lacking)
    assert "ID" not in available()
    line = MetricSuite().notice
    assert "left out: ID has no weights on this machine" in line
    assert "which has no_such_package" in line


@pytest.mark.usefixtures("bare")
def test_notice_names_the_weights_in_use(publish):
    assert MetricSuite(["PSNR"]).notice == "metrics: none of them needs downloaded weights"
    assert "stand-ins in LPIPS[efficientnet-lite0]; `python" in MetricSuite(["LPIPS"]).notice
    publish("alexnet", nn.Linear(2, 2))
    line = MetricSuite(["LPIPS[efficientnet-lite0]", "POSE[dlib-68]"]).notice
    assert line.startswith("metrics: other weights in LPIPS[efficientnet-lite0]; stand-ins in POSE[dlib-68]")


def test_checksum_mismatch_is_refused(publish):
    publish("alexnet", nn.Linear(2, 2))
    weights = published("alexnet")
    assert set(weights.tensors()) == {"weight", "bias"}
    weights.path.write_bytes(b"something else")
    with pytest.raises(InputError, match="is not the published file"):
        weights.tensors()


def test_fetch_from_a_mirror_verifies_checksums(bare, publish):
    publish("alexnet", nn.Linear(2, 2))
    weights = published("alexnet")
    mirror = bare / "mirror"
    mirror.mkdir()
    weights.path.rename(mirror / weights.path.name)
    assert "downloaded" in fetch("alexnet", weights, str(mirror))
    assert ": exists" in fetch("alexnet", weights, None)
    (mirror / weights.path.name).write_bytes(b"cut off")
    weights.path.unlink()
    with pytest.raises(InputError, match="is not the published file"):
        fetch("alexnet", weights, str(mirror))
    assert not list(weights.path.parent.iterdir())


def test_fetch_command_names_every_failed_download(bare):
    with pytest.raises(
        InputError, match=r"7 files could not be downloaded: alexnet: .*vgg16: .*sface: .*dense landmarks: "
    ):
        fetch_main(["--mirror", (bare / "nowhere").as_uri()])
