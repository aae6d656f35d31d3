"""Inversion of people's portraits: the command, resuming, and the predictions that it writes."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from core.errors import IncompleteError, InputError
from generators.gan.folder import save_generator
from generators.gan.options import GeneratorOptions
from generators.gan.renderer import GeneratedHead
from generators.inversion.pivotal import Inversion, Tuning
from generators.inversion.portraits import Portrait, read_portraits, views_at
from generators.inversion.run import Job, invert_portraits, system_name
from generators.invert import invert, main
from lightning_modules.evaluate import main as evaluate
from portraits.camera_files import write_cameras
from portraits.cameras import angles
from portraits.contact_sheet import MARGIN
from portraits.geometry import STANDARD_LANDMARKS
from portraits.predictions import Predictions, View
from tests.engines import REASON, GivesUp
from tests.faces import DotDetector
from tests.generators.inversion.test_pivotal import QUICK, cameras, varied
from tests.generators.test_generated import paint


@pytest.fixture
def folder(tmp_path):
    save_generator(varied("eg3d"), tmp_path / "gan", "toy")
    return tmp_path / "gan"


VIEWS = cameras(-0.4, 0.4)
COLOURS = {"ada": (200, 120, 90), "ben": (40, 80, 160), "cyd": (90, 200, 60)}


def people(*names, views=VIEWS):
    return [
        Portrait(name, Image.new("RGB", (48, 48), COLOURS[name]), cameras(0.1)[0], views_at(name, views))
        for name in names or ("ada", "ben")
    ]


def job_of(folder, **changes):
    return Job(GeneratorOptions(str(folder)), **{"tuning": QUICK, "size": 32, **changes})


def test_inversion_resumes_and_writes_predictions(folder, tmp_path, monkeypatch):
    job = job_of(folder)
    out = tmp_path / "out"
    fit, names = Inversion.fit, []

    def failing(self, portrait, camera, name="", quiet=False):
        names.append(name)
        if len(names) == 2:
            raise KeyboardInterrupt
        return fit(self, portrait, camera, name, quiet)

    monkeypatch.setattr(Inversion, "fit", failing)
    with pytest.raises(KeyboardInterrupt):
        invert_portraits(people(), job, out, ["cpu"])
    assert (out / "ada").is_dir()
    assert not (out / "ben").exists()
    assert not (out / "manifest.json").exists()
    invert_portraits(people(), job, out, ["cpu"])
    assert names == ["ada", "ben", "ben"]
    read = Predictions.load(out)
    assert [view.name for view in read.views] == [
        "ada/view_000",
        "ada/view_001",
        "ben/view_000",
        "ben/view_001",
    ]
    np.testing.assert_allclose(read.cameras()[:2], VIEWS)
    np.testing.assert_allclose(read.views[0].reference_camera, cameras(0.1)[0])
    assert Image.open(out / "ben" / "view_001.png").size == (32, 32)
    assert set(read.settings["distances"]["ada"]) == {"start", "style", "tuned"}
    sheet = Image.open(out / "sheet.jpg")
    for line, name in enumerate(("ada", "ben")):
        shade = sheet.getpixel((MARGIN + 96, MARGIN + line * (192 + 2 * MARGIN) + 96))
        np.testing.assert_allclose(shade, COLOURS[name], atol=6)
    with pytest.raises(InputError, match="written with other settings"):
        invert_portraits(people(), job_of(folder, size=16), out, ["cpu"])


def test_people_are_added_and_changed_ones_refused(folder, tmp_path):
    out = tmp_path / "out"
    invert_portraits(people("ben"), job_of(folder), out, ["cpu"])
    invert_portraits(people("cyd", "ada"), job_of(folder), out, ["cpu"])
    assert list(Predictions.load(out).subjects()) == ["cyd", "ada", "ben"]
    assert Image.open(out / "sheet.jpg").height == MARGIN + 3 * (192 + 2 * MARGIN)
    stranger = dataclasses.replace(people("ada")[0], image=Image.new("RGB", (48, 48)))
    for others in ([stranger], people("ada", views=cameras(0.0, 0.1))):
        with pytest.raises(InputError, match="ada has another portrait, camera, views or truths"):
            invert_portraits(others, job_of(folder), out, ["cpu"])


def test_portraits_given_up_are_reported_and_others_kept(folder, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(IncompleteError, match=f"^1 of 2 portraits could not be inverted: ada: {REASON}"):
        invert_portraits(people(), job_of(folder), out, ["cpu"], GivesUp([0]))
    assert (out / "ben").is_dir()
    assert not (out / "manifest.json").exists()
    invert_portraits(people(), job_of(folder), out, ["cpu"])
    assert list(Predictions.load(out).subjects()) == ["ada", "ben"]


def test_portrait_fingerprint_depends_on_its_files(tmp_path):
    person = people("ada")[0]
    found = {person.fingerprint()}
    for kind in ("truth", "condition", "mask"):
        for level in (0, 255):
            Image.new("RGB", (8, 8), (level,) * 3).save(tmp_path / "held.png")
            views = [dataclasses.replace(view, **{kind: str(tmp_path / "held.png")}) for view in person.views]
            found.add(dataclasses.replace(person, views=tuple(views)).fingerprint())
    assert len(found) == 7


def test_inversions_are_moved_to_a_url(folder, tmp_path, store, uploads, monkeypatch):
    (tmp_path / "photos").mkdir()
    for person in people():
        person.image.save(tmp_path / "photos" / f"{person.name}.png")
    write_cameras(cameras(0.1, 0.1), tmp_path / "own.json")
    write_cameras(VIEWS, tmp_path / "views.json")

    def run(out, **where):
        own, views, photos = (str(tmp_path / name) for name in ("own.json", "views.json", "photos"))
        invert(str(folder), out, [views], None, photos, own, None, 32, tuning=QUICK, device="cpu", **where)

    run(str(tmp_path / "here"))
    local = {path.relative_to(tmp_path / "here").as_posix() for path in (tmp_path / "here").rglob("*.*")}
    at_url = {"out": "memory://bucket/inverted", "staging": str(tmp_path / "work")}
    uploads.room = 2
    with pytest.raises(InputError, match="memory://bucket/inverted: cannot be written"):
        run(**at_url)
    monkeypatch.setattr(Inversion, "fit", lambda *_: pytest.fail("inverted again"))
    uploads.room = 1000
    run(**at_url)
    assert {name.removeprefix("/bucket/inverted/") for name in store.find("/bucket/inverted")} == local
    assert uploads.paths[-1] == "/bucket/inverted/manifest.json"
    assert not any((tmp_path / "work").iterdir())
    with pytest.raises(InputError, match="memory://bucket/inverted exists already: choose another --out"):
        run(**at_url)


def test_system_name_has_generator_and_perceptual_network():
    assert system_name("eg3d", QUICK) == "EG3D-PTI[l2]"
    assert system_name("eg3d", Tuning()) == "EG3D-PTI[efficientnet-lite0]"
    assert system_name("panohead", Tuning(perceptual="vgg16")) == "PanoHead-PTI[vgg16]"


@pytest.mark.slow
def test_several_processes_match_one(folder, tmp_path):
    everybody = people("ada", "ben", "cyd")
    for name, devices in (("one", ["cpu"]), ("two", ["cpu", "cpu"])):
        invert_portraits(everybody, job_of(folder), tmp_path / name, devices)
    names = [view.image for view in Predictions.load(tmp_path / "two").views]
    assert len(names) == 6
    for name in names:
        np.testing.assert_array_equal(*(Image.open(tmp_path / which / name) for which in ("one", "two")))


def test_cameras_of_photos_are_estimated_on_their_crop(tmp_path, monkeypatch):
    monkeypatch.setattr("generators.inversion.portraits.FaceDetector", DotDetector)
    own = cameras(-0.3, 0.2)
    paths = [tmp_path / f"{name}.png" for name in ("ada", "ben")]
    for label, path in zip(own, paths, strict=True):
        paint(label, STANDARD_LANDMARKS).save(path)
    found, _ = read_portraits(paths, None, VIEWS)
    for portrait, label in zip(found, own, strict=True):
        assert portrait.image.size == (512, 512)
        assert np.degrees(np.abs(angles(portrait.camera) - angles(label))).max() < 4
        np.testing.assert_array_equal(portrait.cameras, VIEWS)


@pytest.fixture
def others(folder, tmp_path):
    """Another system's predictions of two of the generator's people: always the average person."""
    head = GeneratedHead(GeneratorOptions(str(folder), truncation=1.0, faces=False))
    average = GeneratedHead(GeneratorOptions(str(folder), truncation=0.0, faces=False))
    made, views = tmp_path / "others", []
    own, labels = cameras(0.15), cameras(-0.5, 0.4)
    for number, name in enumerate(("ada", "ben")):
        (made / name).mkdir(parents=True)
        Image.fromarray(head.render(number, own, 64).images[0]).save(made / name / "reference.png")
        images = zip(
            head.render(number, labels, 64).images, average.render(0, labels, 64).images, strict=True
        )
        for view, (truth, thought) in enumerate(images):
            Image.fromarray(truth).save(made / name / f"{view:03d}.truth.png")
            Image.fromarray(thought).save(made / name / f"{view:03d}.png")
            files = {"reference": f"{name}/reference.png", "truth": f"{name}/{view:03d}.truth.png"}
            known = {"camera": labels[view].tolist(), "reference_camera": own[0].tolist()}
            views.append(View(name, f"{view:03d}", **files, **known))
    Predictions(made, "averages", "novel_view", tuple(views)).save()
    return made


def test_inverting_predictions_keeps_views_and_truths(folder, others, tmp_path):
    """The inversion gives the same views, and is at least 6 dB nearer to the truths."""
    out = tmp_path / "out"
    tuning = ["--tuning.style_steps", "40", "--tuning.tune_steps", "20", "--tuning.style_rate", "0.05"]
    tuning += ["--tuning.tune_rate", "0.002", "--tuning.perceptual_weight", "0"]
    main(["--generator", str(folder), "--predictions", str(others), "--out", str(out), *tuning])
    ours, theirs = Predictions.load(out), Predictions.load(others)
    assert ours.protocol == "novel_view"
    assert [view.name for view in ours.views] == [view.name for view in theirs.views]
    np.testing.assert_array_equal(ours.cameras(), theirs.cameras())
    for own, other in zip(ours.views, theirs.views, strict=True):
        np.testing.assert_array_equal(Image.open(out / own.truth), Image.open(others / other.truth))
    tables = tmp_path / "tables"
    given = ["--predictions", f"[{others},{out}]", "--scoring.metrics", "[PSNR]", "--out", str(tables)]
    evaluate([*given, "--device", "cpu"])
    rows = json.loads((tables / "table.json").read_text())["rows"]
    scores = {row["name"]: row["values"]["PSNR"]["mean"] for row in rows}
    assert scores["EG3D-PTI[l2]"] > scores["averages"] + 6
    height = MARGIN + 2 * (2 * (192 + MARGIN) + MARGIN)
    assert Image.open(out / "sheet.jpg").size == (MARGIN + 3 * (192 + MARGIN), height)


def test_files_outside_a_predictions_folder_are_refused(folder, others, tmp_path):
    (tmp_path / "secret.png").write_bytes((others / "ada/reference.png").read_bytes())
    (others / "link.png").symlink_to(tmp_path / "secret.png")
    manifest = json.loads((others / "manifest.json").read_text())
    given = ["--generator", str(folder), "--predictions", str(others)]
    for outside in (str(tmp_path / "secret.png"), "../secret.png", "link.png"):
        for kind in ("truth", "reference", "condition", "mask"):
            changed = [{**manifest["views"][0], kind: outside}, *manifest["views"][1:]]
            (others / "manifest.json").write_text(json.dumps({**manifest, "views": changed}))
            with pytest.raises(InputError, match="outside"):
                main([*given, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_predictions_without_cameras_are_refused(folder, others, tmp_path):
    manifest = json.loads((others / "manifest.json").read_text())
    given = ["--generator", str(folder), "--predictions", str(others), "--out", str(tmp_path / "out")]
    with pytest.raises(InputError, match="already has portraits and cameras"):
        main([*given, "--portrait", "x.png"])
    for view in manifest["views"]:
        del view["reference_camera"]
    (others / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        InputError, match=r"reference.png: no face is found.*: references without a camera in the manifest"
    ):
        main(given)
    for view in manifest["views"]:
        del view["camera"]
    (others / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="ada has views without a camera or a reference"):
        main(given)
    assert not (tmp_path / "out").exists()


def test_invert_command_writes_predictions(folder, tmp_path, capsys):
    for person in people():
        person.image.save(tmp_path / f"{person.name}.png")
    write_cameras(cameras(0.1, 0.1), tmp_path / "own.json")
    write_cameras(cameras(-0.3, 0.0, 0.3), tmp_path / "cameras.json")
    arguments = ["--generator", str(folder), "--out", str(tmp_path / "out")]
    arguments += ["--portrait", str(tmp_path / "ada.png"), str(tmp_path / "ben.png")]
    arguments += [
        "--cameras",
        str(tmp_path / "cameras.json"),
        "--portrait_cameras",
        str(tmp_path / "own.json"),
    ]
    arguments += ["--tuning.style_steps", "2", "--tuning.tune_steps", "1", "--tuning.perceptual_weight", "0"]
    main(arguments)
    assert "6 views of 2 people" in capsys.readouterr().out
    assert len(Predictions.load(tmp_path / "out").views) == 6
    recipe = json.loads((tmp_path / "out" / "inversion.json").read_text())
    assert recipe["tuning"]["style_steps"] == 2


def test_unusable_photos_are_named_and_the_others_are_inverted(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("generators.inversion.portraits.FaceDetector", DotDetector)
    photos = tmp_path / "photos"
    photos.mkdir()
    face = paint(cameras(0.1)[0], STANDARD_LANDMARKS)
    face.save(photos / "ada.png")
    face.resize((12, 12)).save(photos / "tiny.png")
    Image.effect_noise((64, 64), 20).save(photos / "nobody.png")
    (photos / "cut.jpg").write_bytes(b"\xff\xd8 no")
    write_cameras(cameras(0.0), tmp_path / "cameras.json")
    arguments = ["--generator", str(folder), "--out", str(tmp_path / "out"), "--portraits", str(photos)]
    arguments += ["--cameras", str(tmp_path / "cameras.json"), "--tuning.perceptual_weight", "0"]
    arguments += ["--tuning.style_steps", "1", "--tuning.tune_steps", "1"]
    with pytest.raises(IncompleteError, match=r"^3 photos could not be used") as error:
        main(arguments)
    for line in ("cut.jpg: cannot be read", "nobody.png: no face is found", "tiny.png: 12x12 pixels are too"):
        assert line in str(error.value)
    assert "1 views of 1 people" in capsys.readouterr().out
    assert [view.name for view in Predictions.load(tmp_path / "out").views] == ["ada/view_000"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the people"),
        (["--portrait", "{tmp}/none.png"], "there is no such file"),
        (["--portrait", "{tmp}/ada.png", "{tmp}/other/ada.png"], "portraits named ada"),
        (["--portrait", "{tmp}/truths.png"], "portraits named truths"),
        (["--portrait", "{tmp}/ada.png"], "ada.png: the image is empty.*: give other photos, or"),
        (["--portrait", "{tmp}/ada.png", "--portrait_cameras", "{tmp}/two.json"], "2 labels for 1 portraits"),
        (
            ["--portrait", "{tmp}/wide.png", "--portrait_cameras", "{tmp}/cameras.json"],
            "portraits with given cameras are squares",
        ),
        (["--portrait", "{tmp}/ada.png", "--size", "-1"], "--size -1"),
        (["--portrait", "{tmp}/ada.png", "--devices", "0"], "--devices 0: give 1 or more"),
        (["--portrait", "{tmp}/ada.png", "--device", "mps"], "--device mps: PyTorch"),
        (["--portrait", "{tmp}/ada.png", "--tuning.tune_rate", "0"], "rates are positive"),
    ],
)
def test_invalid_arguments_are_input_errors(arguments, message, folder, tmp_path):
    (tmp_path / "other").mkdir()
    for place in (tmp_path / "ada.png", tmp_path / "other" / "ada.png"):
        Image.new("RGB", (64, 64)).save(place)
    Image.new("RGB", (64, 32)).save(tmp_path / "wide.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "truths.png")
    write_cameras(cameras(0.0), tmp_path / "cameras.json")
    write_cameras(cameras(0.0, 0.1), tmp_path / "two.json")
    given = ["--generator", str(folder), "--out", str(tmp_path / "out")]
    given += ["--cameras", str(tmp_path / "cameras.json")]
    given += [argument.format(tmp=tmp_path) for argument in arguments]
    with pytest.raises(InputError, match=message):
        main(given)
    assert not (tmp_path / "out").exists()
