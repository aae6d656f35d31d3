"""A generator's people as a data source, at toy width."""

import hashlib
import pickle
from multiprocessing import get_context
from time import sleep

import numpy as np
import pytest

from core.errors import InputError
from generators.gan.folder import save_generator
from generators.gan.options import GeneratorOptions
from portraits.alignment.head import HeadFrame
from portraits.cameras import angles, project
from portraits.geometry import STANDARD_LANDMARKS
from shards.build import main
from shards.builder import build
from shards.conditions import RenderedConditions
from shards.manifest import Manifest
from shards.schema import Sample
from shards.skips import Skip
from shards.sources.generated import EG3DGenerator, PanoHeadGenerator
from tests.faces import FlatRenderer
from tests.generators.test_generated import NoFaceDetector
from tests.generators.toy_generators import toy_generator
from tests.shards.fake_source import FakeSource

TINY = {"identities": 5, "views": 3, "size": 16, "faces": False, "frame": "own", "batch": 2}


class FlatEG3D(EG3DGenerator):
    _renderer = FlatRenderer()


class FlatPanoHead(PanoHeadGenerator):
    _renderer = FlatRenderer()


class FlatConditions(RenderedConditions, FakeSource):
    """A source with rendered conditions."""

    def __init__(self, conditions):
        self.conditions = conditions

    def portraits(self, unit, worker):  # noqa: ARG002
        return []


@pytest.fixture(params=[FlatEG3D, FlatPanoHead])
def source(request, tmp_path):
    kind = request.param.kind
    save_generator(toy_generator(kind), tmp_path / kind, "toy")
    return request.param(str(tmp_path / kind), **TINY)


def frames(source):
    return [sample for unit in source.units() for sample in source.capture(unit)]


def test_frames_are_deterministic_with_all_views(source):
    assert pickle.loads(pickle.dumps(source)).settings == source.settings
    first, again = frames(source), frames(source)
    assert len({sample.key for sample in first}) == 5
    for sample, twin in zip(first, again, strict=True):
        np.testing.assert_array_equal(sample.views, twin.views)
        assert sample.views.shape == (3, 16, 16, 3)
        assert (sample.masks is None) == (source.kind == "eg3d")
    assert (first[0].views != first[1].views).any()


def test_person_does_not_depend_on_the_batch(source):
    """Up to one grey level: sums over a batch may be rounded differently."""
    others = type(source)(source.options.folder, **{**TINY, "batch": 5})
    ours, theirs = ({sample.key: sample for sample in frames(s)} for s in (source, others))
    for key, sample in ours.items():
        np.testing.assert_allclose(sample.views.astype(int), theirs[key].views.astype(int), atol=1)
        np.testing.assert_array_equal(sample.cameras, theirs[key].cameras)


def test_cameras_cover_the_yaw_range_evenly(source):
    wide = type(source)(source.options.folder, **{**TINY, "views": 41, "max_yaw": 180.0})
    yaw, pitch = np.degrees(angles(wide.cameras(3))).T
    assert abs(yaw[0]) <= 20
    np.testing.assert_array_equal(np.histogram(yaw[1:], 8, (-180, 180))[0], 5)
    assert np.abs(pitch).max() <= 20.01
    assert np.abs(np.degrees(angles(source.cameras(3)))).max() <= 75.01


def test_processes_and_conditions_follow_the_device(tmp_path, monkeypatch):
    folder = str(tmp_path / "gan")
    save_generator(toy_generator("eg3d"), tmp_path / "gan", "toy")
    source = EG3DGenerator(folder, **TINY, device="cpu", conditions=GeneratorOptions(folder, faces=False))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert source.processes is None
    assert source.renderer().device.type == "cpu"
    assert EG3DGenerator(folder, **TINY).processes == 4
    assert EG3DGenerator(folder, **TINY, device="cuda:1").processes == 1
    assert FlatConditions("synthetic").processes is None
    assert FlatConditions(f"eg3d:{folder}").processes == 4


def test_angles_outside_the_training_range_give_a_warning(source, caplog):
    source.units()
    assert not caplog.records
    type(source)(source.options.folder, **{**TINY, "max_yaw": 150.0, "max_pitch": 65.0}).units()
    assert "--max_yaw 150 --max_pitch 65 reach outside the range of its training images" in caplog.text


def test_people_without_a_detected_head_are_skipped(tmp_path):
    save_generator(toy_generator("panohead"), tmp_path / "gan", "toy")
    source = FlatPanoHead(str(tmp_path / "gan"), **{**TINY, "frame": "each"})
    source.head().__dict__["_detector"] = NoFaceDetector()
    results = source.capture(source.units()[0])
    assert [type(result) for result in results] == [Skip, Skip]
    assert "too few views see the face" in results[0].reason


def test_rendering_uses_the_measured_head_frame(tmp_path, monkeypatch):
    """Rendering uses the frame measured on each person; labels are in EG3D's frame."""
    save_generator(toy_generator("panohead"), tmp_path / "gan", "toy")
    source = FlatPanoHead(str(tmp_path / "gan"), **{**TINY, "frame": "each"})
    moved = HeadFrame(1.1, np.eye(3), np.array([0.0, 0.01, 0.2]))
    seen = []
    monkeypatch.setattr(type(source.head()), "frame_of", lambda *_: moved)
    real = type(source.head()).each_view

    def recorded(self, people, cameras, size):
        seen.append(cameras)
        return real(self, people, cameras, size)

    monkeypatch.setattr(type(source.head()), "each_view", recorded)
    sample = source.capture(source.units()[0])[0]
    assert isinstance(sample, Sample)
    where = moved.world(STANDARD_LANDMARKS)
    for label, used in zip(sample.cameras, seen[-1][0].cpu().numpy(), strict=True):
        np.testing.assert_allclose(project(where, used), project(STANDARD_LANDMARKS, label), atol=1e-5)
    np.testing.assert_allclose(sample.cameras, source.cameras(source.units()[0].identities[0]))


def shard_digests(folder):
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.tar")}
    assert found
    return found


@pytest.mark.slow
def test_killed_build_resumes_to_equal_shards(tmp_path):
    """Spawned processes have their own generators; finished units are kept."""
    save_generator(toy_generator("panohead"), tmp_path / "gan", "toy")
    settings = {**TINY, "identities": 30, "batch": 1}
    build(FlatPanoHead(str(tmp_path / "gan"), **settings), tmp_path / "one", processes=0)
    source = FlatPanoHead(str(tmp_path / "gan"), **settings)
    killed = get_context("spawn").Process(target=build, args=(source, tmp_path / "two", 2))
    killed.start()
    units = tmp_path / "two.partial" / "units"
    while not list(units.glob("*.tar")):
        assert killed.is_alive()
        sleep(0.01)
    killed.kill()
    killed.join()
    left = {path: path.stat().st_mtime_ns for path in units.glob("*.tar")}
    assert 0 < len(left) < len(source.units())
    build(source, tmp_path / "two", processes=2)
    assert shard_digests(tmp_path / "one") == shard_digests(tmp_path / "two")


def test_build_command_resumes_to_equal_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("shards.conditions.open_renderer", lambda *_: FlatRenderer())
    save_generator(toy_generator("panohead"), tmp_path / "gan", "toy")
    options = ["panohead", "--generator", str(tmp_path / "gan"), "--identities", "4", "--views", "2"]
    options += ["--size", "16", "--faces", "false", "--frame", "own", "--processes", "0"]
    digests = []
    for name in ("a", "b"):
        out = tmp_path / name
        if name == "b":
            capture, calls = PanoHeadGenerator.capture, []

            def failing(self, unit, worker, capture=capture, calls=calls):
                calls.append(unit)
                if len(calls) == 2:
                    raise KeyboardInterrupt
                return capture(self, unit, worker)

            monkeypatch.setattr(PanoHeadGenerator, "capture", failing)
            with pytest.raises(KeyboardInterrupt):
                main([*options, "--out", str(out), "--batch", "2"])
            monkeypatch.setattr(PanoHeadGenerator, "capture", capture)
        main([*options, "--out", str(out), "--batch", "2"])
        digests.append(shard_digests(out))
    assert digests[0] == digests[1]
    assert Manifest.load(tmp_path / "a").source == "panohead"


def test_options_are_read_from_yaml(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("shards.conditions.open_renderer", lambda *_: FlatRenderer())
    save_generator(toy_generator("panohead"), tmp_path / "gan", "toy")
    config = tmp_path / "panohead.yaml"
    config.write_text(
        f"generator: {tmp_path / 'gan'}\nidentities: 2\nviews: 2\nsize: 16\nfaces: false\nframe: own\n"
    )
    main(["panohead", "--config", str(config), "--processes", "0", "--out", str(tmp_path / "out")])
    settings = Manifest.load(tmp_path / "out").settings
    assert (settings["views"], settings["frame"], settings["max_yaw"]) == (2, "own", 75.0)
    config.write_text("generator: [\n")
    for broken in (config, tmp_path / "none.yaml"):
        with pytest.raises(SystemExit, match="2"):
            main(["panohead", "--config", str(broken), "--out", str(tmp_path / "b")])
        assert "config" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"identities": 0}, "--identities 0: give 1 or more"),
        ({"max_yaw": 200.0}, "up to 180"),
        ({"val_share": 0.9, "test_share": 0.2}, "leave people for training"),
        ({"conditions": "eg3d:nowhere"}, "nowhere is not a generator folder"),
        ({"truncation": -1.0}, "truncation must be from 0"),
        ({"device": "cuda:99"}, "--device cuda:99: no such device"),
        ({"device": "gpu"}, "--device gpu: no such device"),
    ],
)
def test_invalid_settings_are_input_errors(settings, message, tmp_path):
    save_generator(toy_generator("eg3d"), tmp_path / "gan", "toy")
    with pytest.raises(InputError, match=message):
        EG3DGenerator(str(tmp_path / "gan"), **settings)


def test_generator_of_the_other_kind_is_refused(tmp_path):
    save_generator(toy_generator("eg3d"), tmp_path / "gan", "toy")
    with pytest.raises(InputError, match="the generator in that folder is eg3d"):
        PanoHeadGenerator(str(tmp_path / "gan"))
