import numpy as np
import pytest
from PIL import Image

from core.errors import InputError
from lightning_modules.evaluation.settings import ScoringSettings
from lightning_modules.evaluation.unpack import Unpacking, main, unpack
from portraits.camera_files import write_cameras
from portraits.cameras import angles, label_from_angles
from portraits.predictions import Predictions
from portraits.video import write_video
from tests.lightning_modules.evaluation.scoring import score

SHADES = (40, 120, 200)


def flat(shade, side=256):
    return Image.new("RGB", (side, side), (shade,) * 3)


def shade(path):
    return int(np.asarray(Image.open(path))[..., 0].mean())


@pytest.fixture
def videos(tmp_path):
    """Videos of three frames of two people, their portraits, and three conditions."""
    for folder in ("videos", "portraits", "conditions"):
        (tmp_path / folder).mkdir()
    for name in ("ann", "bob"):
        write_video(tmp_path / "videos" / f"{name}.mp4", [flat(shade) for shade in SHADES], 10)
        flat(90).save(tmp_path / "portraits" / f"{name}.png")
    for number, value in enumerate(SHADES):
        flat(value + 10).save(tmp_path / "conditions" / f"{number:07d}.png")
    return tmp_path


def request(folder, kind, out="out", **more):
    return Unpacking(kind, str(folder / "videos"), str(folder / out), **more)


def test_unpack_released_videos_with_conditions(videos):
    places = {name: str(videos / name) for name in ("portraits", "conditions")}
    made = unpack(request(videos, "diffportrait3d", **places))
    assert made == Predictions.load(videos / "out")
    assert made.system == "diffportrait3d"
    assert [view.name for view in made.views[:3]] == ["ann/000", "ann/001", "ann/002"]
    for view, expected in zip(made.views, SHADES * 2, strict=True):
        assert abs(shade(made.folder / view.image) - expected) < 4
        assert shade(made.folder / view.condition) == expected + 10
        assert shade(made.folder / view.reference) == 90
        assert view.camera is None


def test_unpack_eg3d_videos_with_orbit_cameras(videos):
    made = unpack(request(videos, "eg3d", system="EG3D-PTI"))
    yaw, pitch = np.degrees(angles(made.cameras()[:3])).T
    assert made.system == "EG3D-PTI"
    np.testing.assert_allclose(yaw, 20.05 * np.sin(2 * np.pi * np.arange(3) / 3), atol=0.01)
    assert pitch[0] < 0 < pitch[1]


def test_unpack_goae_folders(videos):
    for name in ("ann", "bob"):
        (videos / "videos" / name).mkdir()
        (videos / "videos" / f"{name}.mp4").rename(videos / "videos" / name / "video.mp4")
        flat(70).save(videos / "videos" / name / "rec_img.jpg")
    assert list(unpack(request(videos, "goae")).subjects()) == ["ann", "bob"]
    places = {"portraits": str(videos / "portraits"), "protocol": "reconstruction"}
    made = unpack(request(videos, "goae", "again", **places))
    assert [view.name for view in made.views] == ["ann/same-view", "bob/same-view"]
    assert [shade(made.folder / view.image) for view in made.views] == [70, 70]
    assert [shade(made.folder / view.truth) for view in made.views] == [90, 90]
    first, _ = score(made, ScoringSettings(metrics=["PSNR"])).views
    assert first.scores["PSNR"] == pytest.approx(22.11, abs=0.01)


def test_unpack_triplanenet_files(tmp_path):
    (tmp_path / "videos").mkdir()
    for view, value in {"same-view": 80, "original": 90, "-0.3": 100, "0.3": 110}.items():
        flat(value).save(tmp_path / "videos" / f"my_face_{view}.png")
    made = unpack(request(tmp_path, "triplanenet"))
    found = {view.view: view for view in made.views}
    assert set(found) == {"yaw-0.3", "yaw0.3"}
    assert angles(np.array(found["yaw0.3"].camera))[0] == pytest.approx(0.3, abs=1e-5)
    assert shade(made.folder / found["yaw0.3"].reference) == 90
    assert len(score(made, ScoringSettings(metrics=["POSE[mtcnn-5]"])).views) == 2
    again = unpack(request(tmp_path, "triplanenet", "again", protocol="wild"))
    (view,) = again.views
    assert (view.view, again.protocol) == ("same-view", "wild")
    assert shade(again.folder / view.truth) == 90


def test_reconstruction_needs_portraits_and_a_supporting_kind(tmp_path):
    (tmp_path / "videos/ann").mkdir(parents=True)
    flat(70).save(tmp_path / "videos/ann/rec_img.jpg")
    with pytest.raises(InputError, match="ann: --portraits DIR has no portrait"):
        unpack(request(tmp_path, "goae", protocol="wild"))
    with pytest.raises(InputError, match="zero123 writes new views only"):
        unpack(request(tmp_path, "zero123", protocol="reconstruction"))


def test_unpack_zero123_files(tmp_path):
    (tmp_path / "videos" / "ann").mkdir(parents=True)
    flat(80).save(tmp_path / "videos" / "ann" / "10_-20.png")
    made = unpack(request(tmp_path, "zero123"))
    np.testing.assert_allclose(np.degrees(angles(made.cameras()[0])), (-20, -10), atol=1e-3)


def test_shorter_video_is_refused(videos):
    write_video(videos / "videos" / "bob.mp4", [flat(shade) for shade in SHADES[:2]], 10)
    message = "1 of 2 subjects do not have all 3 views: bob 2; partial"
    with pytest.raises(InputError, match=message):
        unpack(request(videos, "eg3d"))
    assert not (videos / "out").exists()


def save(folder, *names):
    for name in names:
        (folder / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        flat(70).save(folder / "videos" / name)


def test_subjects_with_missing_views_are_counted(tmp_path):
    save(tmp_path, "a/0_-20.png", "a/0_0.png", "a/0_20.png", "b/0_0.png")
    with pytest.raises(InputError, match="1 of 2 subjects do not have all 3 views: b 1"):
        unpack(request(tmp_path, "zero123"))
    save(tmp_path, "b/0_-20.png", "b/0_20.png")
    assert len(unpack(request(tmp_path, "zero123")).views) == 6
    save(tmp_path, "c/input.png")
    with pytest.raises(InputError, match="1 of 3 subjects in it have no results: c; partial"):
        unpack(request(tmp_path, "zero123", "again"))


def test_triplanenet_originals_without_results_are_counted(tmp_path):
    save(tmp_path, "a_original.png", "a_0.3.png", "a_same-view.png", "b_original.png", "b_0.3.png")
    assert len(unpack(request(tmp_path, "triplanenet")).views) == 2
    with pytest.raises(InputError, match="1 of 2 subjects in it have no results: b; partial"):
        unpack(request(tmp_path, "triplanenet", "again", protocol="wild"))
    save(tmp_path, "c_original.png")
    with pytest.raises(InputError, match="1 of 3 subjects in it have no results: c; partial"):
        unpack(request(tmp_path, "triplanenet", "again"))


def test_goae_folders_without_results_are_counted(tmp_path):
    save(tmp_path, "a/rec_img.jpg", "b/input.jpg")
    with pytest.raises(InputError, match="1 of 2 subjects in it have no results: b; partial"):
        unpack(request(tmp_path, "goae", protocol="wild"))


def test_portraits_and_results_must_match(videos):
    (videos / "portraits" / "bob.png").unlink()
    with pytest.raises(InputError, match="have no portrait in it: bob"):
        unpack(request(videos, "eg3d", portraits=str(videos / "portraits")))
    assert not (videos / "out").exists()
    for name in ("bob", "cem"):
        flat(90).save(videos / "portraits" / f"{name}.png")
    with pytest.raises(InputError, match="1 of 3 portraits have no results in it: cem; partial"):
        unpack(request(videos, "eg3d", portraits=str(videos / "portraits")))
    (videos / "conditions" / "0000002.png").unlink()
    with pytest.raises(InputError, match="2 conditions for 3 cameras"):
        unpack(request(videos, "diffportrait3d", conditions=str(videos / "conditions")))


def test_two_portraits_of_one_subject_are_refused(videos):
    flat(10).save(videos / "portraits" / "ann.webp")
    with pytest.raises(InputError, match=r"ann\.png and ann\.webp are both portraits of ann"):
        unpack(request(videos, "eg3d", portraits=str(videos / "portraits")))
    assert not (videos / "out").exists()


@pytest.mark.parametrize("place", ["nowhere", "portraits/ann.png"])
def test_conditions_that_are_no_folder_are_an_input_error(videos, place):
    with pytest.raises(InputError, match=f"{place}: there is no such folder of conditions"):
        unpack(request(videos, "eg3d", conditions=str(videos / place)))


def test_command_takes_files_of_cameras(videos):
    labels = [label_from_angles(yaw, 0.0) for yaw in (-0.3, 0.0, 0.3)]
    write_cameras(labels[:1], videos / "a.json")
    write_cameras(labels[1:], videos / "b.json")
    files = [str(videos / "a.json"), str(videos / "b.json")]
    main(["panohead", str(videos / "videos"), str(videos / "out"), "--cameras", *files])
    np.testing.assert_allclose(Predictions.load(videos / "out").cameras()[:3], labels)


def test_truths_match_the_views(videos):
    for name in ("ann", "bob"):
        (videos / "truths" / name).mkdir(parents=True)
        for number, value in enumerate(SHADES):
            flat(value + 5).save(videos / "truths" / name / f"{number:03d}.png")
    made = unpack(request(videos, "eg3d", truths=str(videos / "truths")))
    assert [shade(made.folder / view.truth) for view in made.views[:3]] == [shade + 5 for shade in SHADES]
    flat(5).save(videos / "truths" / "bob" / "003.png")
    with pytest.raises(InputError, match=r"1 of 7 truths have no result in it: bob/003.png"):
        unpack(request(videos, "eg3d", "again", truths=str(videos / "truths")))


def test_unpack_command_prints_counts(videos, capsys):
    main(["eg3d", str(videos / "videos"), str(videos / "out")])
    assert "2 subjects, 6 views" in capsys.readouterr().out
    (videos / "videos" / "cut.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match=r"cut.mp4: cannot be read as a video"):
        main(["eg3d", str(videos / "videos"), str(videos / "again")])


def test_folder_without_results_is_an_input_error(tmp_path):
    (tmp_path / "videos").mkdir()
    with pytest.raises(InputError, match="no file in it is named like a result of triplanenet"):
        unpack(request(tmp_path, "triplanenet"))
    with pytest.raises(InputError, match=r"there are no \*.mp4"):
        unpack(request(tmp_path, "eg3d"))
    with pytest.raises(InputError, match="--cameras FILE"):
        unpack(request(tmp_path, "panohead"))
