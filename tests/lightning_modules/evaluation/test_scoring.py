import dataclasses

import numpy as np
import pytest
from PIL import Image

from core.errors import InputError
from lightning_modules.evaluation.figures import worst_sheet, yaw_figure
from lightning_modules.evaluation.scoring import ViewScore
from lightning_modules.evaluation.settings import (
    PublishedRow,
    PublishedTable,
    ScoringSettings,
)
from lightning_modules.evaluation.statistics import interval, means_by_yaw, worst
from lightning_modules.evaluation.tables import (
    columns,
    csv_table,
    json_table,
    markdown,
    measured_row,
    published_rows,
    view_table,
)
from portraits.contact_sheet import CAPTION, MARGIN
from portraits.predictions import View
from tests.lightning_modules.evaluation.scoring import score

TEN_LEVELS = 20 * np.log10(25.5)
PIXELS = ScoringSettings(metrics=["PSNR"])


def test_views_are_scored_with_their_yaw(predictions):
    scores = score(predictions, PIXELS)
    assert [view.view.name for view in scores.views] == [view.name for view in predictions.views]
    for view in scores.views:
        assert view.scores["PSNR"] == pytest.approx(TEN_LEVELS, abs=1e-4)
        assert abs(view.yaw) == pytest.approx(np.degrees(0.5), abs=1e-3)
        assert view.native == 16
    assert scores.size == 16
    assert scores.notes == []


def test_scoring_size_is_noted(predictions):
    scores = score(predictions, dataclasses.replace(PIXELS, size=32))
    assert scores.notes == ["6 of 16x16 pixels, scored at 32x32"]
    assert scores.views[0].scores["PSNR"] == pytest.approx(TEN_LEVELS, abs=0.5)


def test_removed_background_is_white_in_prediction_and_truth(predictions):
    kept = score(predictions, PIXELS).views[0].scores["PSNR"]
    removed = score(predictions, dataclasses.replace(PIXELS, background="remove")).views[0].scores["PSNR"]
    assert removed == pytest.approx(kept + 10 * np.log10(2), abs=1e-3)


def test_removing_backgrounds_needs_every_mask(predictions):
    views = (dataclasses.replace(predictions.views[0], mask=None), *predictions.views[1:])
    without = dataclasses.replace(predictions, views=views)
    with pytest.raises(InputError, match="1 of 6 have none: ann/0"):
        score(without, dataclasses.replace(PIXELS, background="remove"))


def test_non_square_images_are_counted(predictions):
    Image.new("RGB", (16, 12)).save(predictions.folder / "ann/0.png")
    with pytest.raises(InputError, match=r"1 images are not square \(ann/0.png 16x12\)"):
        score(predictions, PIXELS)


def test_mixed_sizes_need_a_scoring_size(predictions):
    path = predictions.folder / "ann/0.png"
    Image.open(path).resize((32, 32)).save(path)
    with pytest.raises(InputError, match=r"several sizes \(5 of 16x16, 1 of 32x32\): --scoring.size"):
        score(predictions, PIXELS)
    scores = score(predictions, dataclasses.replace(PIXELS, size=16))
    assert scores.notes == ["5 of 16x16, 1 of 32x32 pixels, scored at 16x16"]
    assert [view.native for view in scores.views] == [32, 16, 16, 16, 16, 16]


@pytest.mark.parametrize("kind", ["truth", "reference", "condition", "camera"])
@pytest.mark.parametrize("subjects", [["bob"], ["bob", "cem"]])
def test_inputs_must_be_given_for_all_views_or_none(predictions, kind, subjects):
    whole = [
        dataclasses.replace(view, reference=view.truth, condition=view.truth) for view in predictions.views
    ]
    views = [
        dataclasses.replace(view, **{kind: None}) if view.subject in subjects else view for view in whole
    ]
    score(dataclasses.replace(predictions, views=tuple(whole)), PIXELS)
    message = f"{2 * len(subjects)} of 6 views have no {kind}: bob/0, bob/1"
    with pytest.raises(InputError, match=message):
        score(dataclasses.replace(predictions, views=tuple(views)), PIXELS)


def test_single_missing_truth_is_refused(predictions):
    views = (dataclasses.replace(predictions.views[0], truth=None), *predictions.views[1:])
    with pytest.raises(InputError, match="1 of 6 views have no truth: ann/0;"):
        score(dataclasses.replace(predictions, views=views), PIXELS)


def test_non_square_inputs_are_counted(predictions):
    for name in ("ann/0.truth.png", "bob/1.mask.png"):
        Image.new("RGB", (16, 12)).save(predictions.folder / name)
    with pytest.raises(InputError, match=r"2 images are not square \(ann/0.truth.png 16x12, bob/1.mask.png"):
        score(predictions, PIXELS)


def test_real_photos_are_found_recursively_and_must_be_square(predictions, tmp_path):
    bare = dataclasses.replace(
        predictions, views=tuple(View(view.subject, view.view) for view in predictions.views)
    )
    real = tmp_path / "real"
    for number in range(3):
        (real / f"{number}000").mkdir(parents=True)
        levels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(levels).save(real / f"{number}000/0000{number}.png")
    scoring = ScoringSettings(metrics=["KID[efficientnet-lite0]"], real=str(real))
    assert np.isfinite(score(bare, scoring).sets["KID[efficientnet-lite0]"])
    Image.new("RGB", (20, 30)).save(real / "2000/00002.png")
    with pytest.raises(InputError, match=r"1 images are not square \(2000/00002.png 20x30\)"):
        score(bare, scoring)


def test_set_metrics_need_real_images(predictions):
    bare = tuple(View(view.subject, view.view) for view in predictions.views)
    with pytest.raises(InputError, match="6 predictions and 0 real images"):
        score(
            dataclasses.replace(predictions, views=bare), ScoringSettings(metrics=["KID[efficientnet-lite0]"])
        )


def test_faceless_views_are_nan_and_counted(predictions):
    scores = score(predictions, ScoringSettings(metrics=["POSE[mtcnn-5]"]))
    assert scores.failures["POSE[mtcnn-5]_failures"] == 6
    assert any("POSE[mtcnn-5]: 6 of 6 views could not be scored, 6 of them" in note for note in scores.notes)
    assert all(np.isnan(view.scores["POSE[mtcnn-5]"]) for view in scores.views)
    rows = [measured_row("x", scores)]
    assert "POSE[mtcnn-5]_yaw_degrees" in markdown("x", rows)
    assert "POSE[mtcnn-5]_roll_degrees" not in markdown("x", rows)
    assert "POSE[mtcnn-5]_roll_degrees" in csv_table(rows)
    assert "nan" in markdown("x", [measured_row("x", scores)])


def test_faceless_references_and_few_images_are_noted(predictions):
    views = tuple(dataclasses.replace(view, reference=view.truth) for view in predictions.views)
    scores = score(
        dataclasses.replace(predictions, views=views),
        ScoringSettings(metrics=["POSE[mtcnn-5]", "FID[efficientnet-lite0]"]),
    )
    assert "no face was found in 6 of 6 references: ann/0.truth.png, ann/1.truth.png" in scores.notes[-2]
    assert "FID[efficientnet-lite0] over 6 images is biased upwards" in scores.notes[-1]


def fake(values, subjects=None, yaw=0.0):
    names = subjects or [str(number) for number in range(len(values))]
    return [
        ViewScore(View(subject, str(number)), yaw, 0.0, 16, {"PSNR": value})
        for number, (subject, value) in enumerate(zip(names, values, strict=True))
    ]


def test_intervals_cover_the_mean_and_cluster_by_subject():
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(40):
        estimate = interval(fake(rng.normal(3, 1, 40).tolist()), "PSNR", seed)
        inside += estimate.low <= 3 <= estimate.high
    assert inside >= 34
    values = rng.normal(3, 1, 10).repeat(4).tolist()
    people = np.arange(10).repeat(4).astype(str).tolist()
    alone, together = interval(fake(values), "PSNR", 0), interval(fake(values, people), "PSNR", 0)
    assert together.high - together.low > 1.5 * (alone.high - alone.low)
    assert together.mean == pytest.approx(alone.mean)


def test_nan_scores_are_not_in_the_mean():
    estimate = interval(fake([1.0, np.nan, 3.0]), "PSNR", 0)
    assert estimate.mean == 2.0
    assert estimate.count == 2
    assert interval(fake([np.nan]), "PSNR", 0).count == 0


def test_means_by_yaw():
    views = fake([1.0, 3.0], yaw=-40.0) + fake([5.0], yaw=10.0) + fake([7.0], yaw=np.nan)
    assert means_by_yaw(views, "PSNR") == [(-37.5, 2.0, 2), (7.5, 5.0, 1)]


def test_tables_and_figures_show_the_scores(predictions):
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(predictions.folder / "bob/1.png")
    scores = score(predictions, PIXELS)
    assert worst(scores, "PSNR", 1)[0].view.name == "bob/1"
    values = {"PSNR": 20.0, "LPIPS": 0.25}
    table = PublishedTable(
        "Table 9", [PublishedRow("theirs", values), PublishedRow("x", values, "wild")], 256
    )
    theirs, wild = published_rows([table], "novel_view")
    assert wild.protocol == "wild"
    rows = [measured_row("ours", scores), theirs]
    assert columns(rows) == ["LPIPS", "PSNR"]
    text = markdown("A table", rows)
    assert "| theirs (published: Table 9) | novel_view | 256 |  |  | 0.25 | 20 |" in text
    assert "PSNR ↑" in text
    assert "published" not in text.splitlines()[4]
    assert csv_table(rows).count("\n") == 1 + 1 + 2
    assert view_table(scores).splitlines()[1].startswith("ann,0,-28.6479,0,16,")
    assert "NaN" not in json_table("A table", rows, {"ours": scores})
    assert yaw_figure({"ours": scores}, ["PSNR"]).width > 0
    sheet = worst_sheet(scores, "PSNR", 2)
    first, prediction = MARGIN + CAPTION + MARGIN + 64, MARGIN + (128 + MARGIN) + 64
    assert sheet.getpixel((prediction, first)) == (90, 90, 90)
