"""Pivotal tuning, shown to work on renders of a toy generator whose people differ as a trained one's do."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from shards.camera_files import write_cameras
from shards.cameras import label_from_angles
from shards.errors import InputError
from shards.inversion.pivotal import Inversion, Tuning, noise_patterns, noise_structure
from shards.inversion.run import Job, Portrait, invert_portraits
from shards.invert import main
from shards.predictions import Predictions
from shards.renderers.gan.folder import save_generator
from shards.renderers.gan.options import GeneratorOptions
from tests.renderers.toy_generators import toy_generator

QUICK = Tuning(style_steps=3, tune_steps=2, perceptual_weight=0.0)


def varied(kind):
    """A toy with the recipe's weights, the mapping's at a trained generator's scale (1 / its rate), so that
    latents make different people."""
    generator = toy_generator(kind)
    for layer in (generator.backbone.mapping.fc0, generator.backbone.mapping.fc1):
        layer.weight.data *= 100
    return generator


def cameras(*yaws):
    return np.stack([label_from_angles(yaw, 0.05) for yaw in yaws])


@pytest.mark.parametrize("kind", ["eg3d", "panohead"])
def test_a_render_is_found_again_and_seen_from_elsewhere(kind):
    """The distance falls a hundredfold, and views from 40 degrees away are ten times nearer to the truth than
    the average person's."""
    generator = varied(kind)
    labels = torch.from_numpy(cameras(0.2, -0.5)).unsqueeze(0)
    z = torch.randn(1, 6, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        truth = generator.views(generator.identity(generator.styles(z, labels[0, :1])), labels).image[0]
    before = {name: x.clone() for name, x in generator.state_dict().items()}
    tuning = Tuning(60, 40, style_rate=0.05, tune_rate=0.002, perceptual_weight=0.0)
    inversion = Inversion(generator, tuning)
    found = inversion.fit(truth[0], labels[0, 0], quiet=True)
    start, style, tuned = found.distances.values()
    assert style < start / 5
    assert tuned < start / 50
    assert tuned < style
    average, _ = inversion.style_statistics()
    with torch.no_grad():
        of_average = generator.views(generator.identity(average.expand(-1, 6, -1)), labels).image[0, 1]
        elsewhere = found.generator.views(found.generator.identity(found.styles), labels).image[0, 1]
    error, usual = ((x - truth[1]).square().mean() for x in (elsewhere, of_average))
    assert error < usual / 10
    assert all(torch.equal(x, before[name]) for name, x in generator.state_dict().items())


def test_the_perceptual_distance_counts():
    generator = varied("eg3d")
    target = torch.zeros(1, 3, 64, 64)
    image = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    plain = Inversion(generator, QUICK).loss(image, target)
    both = Inversion(generator, Tuning(1, 1)).loss(image, target)
    assert both > plain + 0.01


def test_noise_stays_noise():
    """White noise has no structure to speak of, a ramp has; fitted patterns stay normalised."""
    white, ramp = torch.randn(32, 32), torch.linspace(-1.7, 1.7, 32).expand(32, 32)
    assert noise_structure([ramp]) > 100 * noise_structure([white])
    generator = varied("eg3d")
    target = torch.zeros(3, 64, 64)
    found = Inversion(generator, QUICK).fit(target, torch.from_numpy(cameras(0.0)[0]), quiet=True)
    for noise, own in zip(noise_patterns(found.generator), noise_patterns(generator), strict=True):
        assert noise.mean().abs() < 1e-5
        assert noise.square().mean() == pytest.approx(1, abs=1e-4)
        assert not torch.equal(noise, own)


@pytest.fixture
def folder(tmp_path):
    save_generator(varied("eg3d"), tmp_path / "gan", "toy")
    return tmp_path / "gan"


def people():
    colours = {"ada": (200, 120, 90), "ben": (40, 80, 160)}
    return [Portrait(name, Image.new("RGB", (48, 48), c), cameras(0.1)[0]) for name, c in colours.items()]


def test_portraits_are_resumed_and_can_be_scored(folder, tmp_path, monkeypatch):
    job = Job(GeneratorOptions("eg3d", str(folder)), QUICK, cameras(-0.4, 0.4), size=32)
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
    np.testing.assert_allclose(read.cameras()[:2], job.cameras)
    assert Image.open(out / "ben" / "view_001.png").size == (32, 32)
    assert set(read.settings["distances"]["ada"]) == {"start", "style", "tuned"}
    assert Image.open(out / "sheet.jpg").width == 3 * 192
    other = Job(job.options, QUICK, cameras(0.0), size=32)
    with pytest.raises(InputError, match="begun with other settings or cameras"):
        invert_portraits(people(), other, out, ["cpu"])


def test_the_command(folder, tmp_path, capsys):
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
    assert "3 views of 2 portraits" in capsys.readouterr().out
    assert len(Predictions.load(tmp_path / "out").views) == 6
    recipe = json.loads((tmp_path / "out" / "inversion.json").read_text())
    assert recipe["tuning"]["style_steps"] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give the people"),
        (["--portrait", "{tmp}/none.png"], "there is no such file"),
        (["--portrait", "{tmp}/ada.png", "{tmp}/other/ada.png"], "portraits named ada"),
        (["--portrait", "{tmp}/ada.png"], "no face is found in .*ada.png"),
        (["--portrait", "{tmp}/ada.png", "--portrait_cameras", "{tmp}/two.json"], "2 labels for 1 portraits"),
        (
            ["--portrait", "{tmp}/wide.png", "--portrait_cameras", "{tmp}/cameras.json"],
            "portraits are squares",
        ),
        (["--portrait", "{tmp}/ada.png", "--size", "-1"], "--size -1"),
        (["--portrait", "{tmp}/ada.png", "--devices", "9"], "this machine has"),
        (["--portrait", "{tmp}/ada.png", "--tuning.tune_rate", "0"], "rates are positive"),
    ],
)
def test_mistakes_end_in_one_line(arguments, said, folder, tmp_path):
    (tmp_path / "other").mkdir()
    for place in (tmp_path / "ada.png", tmp_path / "other" / "ada.png"):
        Image.new("RGB", (64, 64)).save(place)
    Image.new("RGB", (64, 32)).save(tmp_path / "wide.png")
    write_cameras(cameras(0.0), tmp_path / "cameras.json")
    write_cameras(cameras(0.0, 0.1), tmp_path / "two.json")
    given = ["--generator", str(folder), "--out", str(tmp_path / "out")]
    given += ["--cameras", str(tmp_path / "cameras.json")]
    given += [argument.format(tmp=tmp_path) for argument in arguments]
    with pytest.raises(InputError, match=said):
        main(given)
    assert not (tmp_path / "out").exists()
