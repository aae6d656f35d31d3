"""Tables of a toy model beside baselines."""

import dataclasses
import itertools
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import InputError
from generators.gan.folder import save_generator
from lightning_modules.evaluate import evaluate
from lightning_modules.evaluation.comparison import comparison_figure
from lightning_modules.evaluation.planning import plan_evaluation
from lightning_modules.evaluation.settings import (
    BaselineSettings,
    EvaluationRequest,
    PublishedRow,
    PublishedTable,
    RowSettings,
    ScoringSettings,
)
from lightning_modules.evaluation.subjects import SubjectSettings, find_subjects
from lightning_modules.evaluation.tables import MEMORY, SECONDS
from lightning_modules.sampling.settings import Sampling
from portraits.predictions import Predictions
from portraits.segmentation import check_segmentation, foreground_masks, over_white
from tests.baselines.toys import write_folder
from tests.generators.inversion.test_pivotal import varied
from tests.lightning_modules.evaluation.results import assert_same_results, signal_of, start_in_child

QUICK = {"tuning": {"style_steps": 2, "tune_steps": 1, "perceptual_weight": 0.0}}
PEOPLE = Path(__file__).parents[2] / "data/people"


@pytest.fixture(scope="module")
def gans(tmp_path_factory):
    """A folder with toy generators of both kinds."""
    folder = tmp_path_factory.mktemp("gans")
    for kind in ("eg3d", "panohead"):
        save_generator(varied(kind), folder / kind, "toy")
    return folder


@pytest.fixture
def request_of(capture, model, gans, tmp_path):
    """A function that builds the request of a table of the toy model and GAN inversions."""

    def build(out="out", rows=None, **options):
        row = RowSettings(
            str(model),
            SubjectSettings(str(capture), views=2),
            sampling=Sampling(steps=1),
            scoring=ScoringSettings(metrics=["PSNR", "SSIM"]),
        )
        baselines = [
            BaselineSettings("eg3d_pti", str(gans / "eg3d"), QUICK),
            BaselineSettings("panohead_pti", str(gans / "panohead"), {**QUICK, "frame": "own"}),
        ]
        options = {"baselines": baselines, "device": "cpu", **options}
        return EvaluationRequest(row, rows=rows or {}, out=str(tmp_path / out), **options)

    return build


def table(out):
    return {row["name"]: row for row in json.loads((out / "table.json").read_text())["rows"]}


def test_systems_share_subjects_cameras_and_truths(request_of, tmp_path):
    rows = {"novel": {}, "reconstruction": {"subjects.protocol": "reconstruction", "subjects.views": 1}}
    published = PublishedTable("Table 9", [PublishedRow("EG3D-PTI", {"SSIM": 0.5}, "novel_view")], 256)
    plan = plan_evaluation(request_of(rows=rows, published=[published]))
    names = ["novel", "reconstruction"]
    names += [f"{system}, {row}" for row in names for system in ("EG3D-PTI", "PanoHead-PTI")]
    assert [row.name for row in plan.rows] == names
    assert evaluate(plan)
    made = {row.name: Predictions.load(row.predictions.folder) for row in plan.rows}
    for name, predictions in made.items():
        ours = made[name.rpartition(", ")[2]]
        assert [view.name for view in predictions.views] == [view.name for view in ours.views]
        assert predictions.protocol == ours.protocol
        np.testing.assert_array_equal(predictions.cameras(), ours.cameras())
        for view, own in zip(predictions.views, ours.views, strict=True):
            for kind in ("reference", "truth", "condition"):
                pair = (predictions.folder / view.files[kind], ours.folder / own.files[kind])
                np.testing.assert_array_equal(*(Image.open(path) for path in pair))
            side = 16 if "PTI" not in name else 64
            assert Image.open(predictions.folder / view.image).size == (side, side)
    rows = table(tmp_path / "out")
    assert all(rows[name]["resolution"] == 16 for name in names)
    assert any("native resolution 64x64" in note for note in rows["EG3D-PTI, novel"]["notes"])
    assert "EG3D-PTI[l2]" in " ".join(rows["EG3D-PTI, novel"]["notes"])
    for name in names:
        assert rows[name]["values"][SECONDS]["mean"] > 0
        assert 0.01 < rows[name]["values"][MEMORY]["mean"] < 100
    for picture in ("dots", "novel.systems", "reconstruction.systems"):
        assert Image.open(tmp_path / "out" / f"{picture}.png").width > 200


def kill_at_save(monkeypatch, number):
    """Kill this process by SIGKILL when half of its image `number` is written."""
    save, numbers = Image.Image.save, itertools.count()

    def killed(image, file, *arguments, **options):
        save(image, file, *arguments, **options)
        if next(numbers) == number:
            os.truncate(file, Path(file).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(Image.Image, "save", killed)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_killed_table_resumes_to_equal_results(request_of, tmp_path, monkeypatch):
    baseline = [BaselineSettings("triplanenet", str(write_folder("triplanenet", tmp_path / "weights")))]
    assert evaluate(plan_evaluation(request_of("whole", baselines=baseline)))
    request = request_of("parts", baselines=baseline)
    for number in (3, 9, 25):  # in the first subject, in the second, in the other system
        with monkeypatch.context() as patch:
            kill_at_save(patch, number)
            child = start_in_child(lambda: evaluate(plan_evaluation(request)))
        assert signal_of(child) == signal.SIGKILL
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").rglob("views.json")}
    assert len([path for path in written if ".partial" not in str(path)]) == 4
    assert evaluate(plan_evaluation(request))
    assert all(path.stat().st_mtime_ns == time for path, time in written.items() if path.exists())
    assert_same_results(tmp_path / "whole", tmp_path / "parts")


def test_baseline_folder_depends_on_its_settings(request_of, gans, tmp_path):
    def folders(**changes):
        return [row.predictions.folder for row in plan_evaluation(request_of(**changes)).rows]

    def baseline(**changes):
        return [dataclasses.replace(BaselineSettings("eg3d_pti", str(gans / "eg3d"), QUICK), **changes)]

    usual = folders(baselines=baseline())
    assert folders(baselines=baseline(), rows={"a": {"scoring.size": 12}}) == usual
    others = [
        folders(baselines=baseline(settings={"tuning": {**QUICK["tuning"], "style_steps": 3}})),
        folders(baselines=baseline(), rows={"a": {"subjects.seed": 1}}),
        folders(baselines=baseline(), rows={"a": {"subjects.views": 1}}),
    ]
    generator = varied("eg3d")
    generator.decoder.net[0].bias.data += 1
    save_generator(generator, tmp_path / "other", "toy")
    others.append(folders(baselines=baseline(folder=str(tmp_path / "other"))))
    assert len({usual[1], *(other[1] for other in others)}) == 5


def test_rows_of_equal_subjects_share_a_baseline(request_of):
    rows = {"random": {}, "more steps": {"sampling.steps": 2}, "moved": {"alignment": "moved"}}
    plan = plan_evaluation(request_of(rows=rows))
    assert [row.name for row in plan.rows] == [*rows, "EG3D-PTI", "PanoHead-PTI"]


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        (BaselineSettings("pti", "nowhere"), "pti: there is no such baseline"),
        (BaselineSettings("eg3d_pti", "nowhere"), "nowhere is not a generator folder"),
        (BaselineSettings("eg3d_pti", "{gans}/panohead"), "the generator in that folder is panohead"),
        (BaselineSettings("eg3d_pti", "{gans}/eg3d", {"steps": 1}), "steps: Unexpected keyword argument"),
    ],
)
def test_invalid_baselines_are_input_errors_at_planning(baseline, message, request_of, gans, tmp_path):
    baseline = dataclasses.replace(baseline, folder=baseline.folder.format(gans=gans))
    with pytest.raises(InputError, match=message):
        plan_evaluation(request_of(baselines=[baseline]))
    assert not (tmp_path / "out").exists()


def test_removed_backgrounds_are_white_outside_the_masks():
    """By the shards' masks: white outside, unchanged inside; conditions are kept."""
    kept, removed = (
        find_subjects(SubjectSettings(str(PEOPLE), background=background))
        for background in ("keep", "remove")
    )
    assert removed.masks_from is None
    for with_background, without in zip(kept.read(kept.keys), removed.read(removed.keys), strict=True):
        np.testing.assert_array_equal(with_background.conditions, without.conditions)
        for masks, before, after in (
            (without.masks, with_background.truths, without.truths),
            (without.reference_masks, with_background.references, without.references),
        ):
            assert (after[masks == 0] == 255).all()
            np.testing.assert_array_equal(after[masks == 255], before[masks == 255])
            assert 0.1 < (masks == 0).mean() < 0.9


def test_segmentation_masks_match_rendered_masks():
    """The intersection over union is above 0.9."""
    try:
        check_segmentation()
    except InputError as error:
        pytest.skip(str(error))
    subjects = find_subjects(SubjectSettings(str(PEOPLE)))
    for subject in subjects.read(subjects.keys):
        found, masks = foreground_masks(subject.truths) > 127, subject.masks > 127
        assert (found & masks).sum() / (found | masks).sum() > 0.9
    whole = over_white(subject.truths, np.full(subject.masks.shape, 255, np.uint8))
    np.testing.assert_array_equal(whole, subject.truths)


def test_comparison_figure_of_published_rows_alone(request_of):
    published = PublishedTable("Table 9", [PublishedRow("theirs", {"SSIM": 0.5})])
    plan = plan_evaluation(request_of(baselines=[], published=[published]))
    assert comparison_figure(plan.published).height > 50
    assert comparison_figure([dataclasses.replace(plan.published[0], published=None)]) is None
