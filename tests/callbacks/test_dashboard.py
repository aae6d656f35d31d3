"""The dashboard picture, drawn from a run's own files."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from callbacks.dashboard import (
    WIDTH,
    dashboard,
    draw_panel,
    find_run,
    newest,
    panel_title,
    read_log,
    sections,
)
from callbacks.dashboard import main as draw
from core.errors import InputError
from lightning_modules.evaluation.directions import higher_is_better
from lightning_modules.evaluation.plots import new_figure
from portraits.video import write_video

COLUMNS = ("step", "epoch", "train/loss", "val/loss", "val/novel_view/LPIPS", "val/novel_view/POSE_failures")


@pytest.fixture
def run(tmp_path):
    """The folder of a run of 40 steps with two validations."""
    folder = tmp_path / "stage2/version_3"
    (folder / "evaluation").mkdir(parents=True)
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({"step": step, "epoch": 0, "train/loss": 1 / (step + 1)} for step in range(40))
        for step, loss, lpips in ((19, 0.5, 3.0), (39, 0.25, 4.5)):
            values = {"val/loss": loss, "val/novel_view/LPIPS": lpips, "val/novel_view/POSE_failures": 1}
            writer.writerow({"step": step, "epoch": 0, **values})
    red = Image.new("RGB", (64, 32), "red")
    for step in (19, 39):
        red.save(folder / f"evaluation/grid-{step:07d}.png")
    write_video(folder / "evaluation/orbit-0000039.mp4", [red.resize((32, 32))] * 3, 8)
    return folder


def test_curves_are_grouped_by_protocol(run):
    curves = read_log(run / "metrics.csv")
    assert curves["val/novel_view/LPIPS"] == [(19, 3.0), (39, 4.5)]
    assert sections(curves) == {
        "train": ["train/loss"],
        "val": ["val/loss"],
        "val/novel_view": ["val/novel_view/LPIPS"],
    }


def test_panel_titles_show_the_best_value_of_metrics_with_a_direction():
    curve = [(19, 3.0), (39, 4.5)]
    assert panel_title("val/novel_view/LPIPS", curve) == ("LPIPS  min 3", (19, 3.0))
    assert panel_title("val/reference_gain", curve) == ("reference_gain  max 4.5", (39, 4.5))
    assert panel_title("train/data_wait", curve) == ("data_wait  4.5", None)


def test_page_shows_the_newest_grid_and_orbit(run, tmp_path):
    assert newest(run / "evaluation", "grid").name == "grid-0000039.png"
    out = dashboard(str(tmp_path), str(tmp_path / "docs/page.jpg"))
    page = Image.open(out)
    assert page.width == WIDTH
    colours = page.getcolors(1 << 24)
    reds = sum(count for count, (r, g, b) in colours if r > 200 and g < 60 and b < 60)
    assert reds > 64 * 32 + 3 * 256 * 200  # the grid, and the frames of the orbit


def test_newest_run_below_a_folder_is_drawn(run, tmp_path, capsys):
    assert find_run(tmp_path) == run
    draw([str(tmp_path)])
    assert capsys.readouterr().out.strip() == str(run / "dashboard.png")


def test_folder_without_a_run_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"no metrics.csv in it or below"):
        dashboard(str(tmp_path))
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="not a log of Lightning's CSVLogger"):
        dashboard(str(tmp_path))


def test_incomplete_last_line_of_the_log_is_ignored(run):
    log = run / "metrics.csv"
    whole = read_log(log)
    for cut in ("59,0,-", "59,0,0.", "5"):
        with log.open("a") as file:
            file.write(cut)
        assert read_log(log) == whole
        log.write_text(log.read_text()[: -len(cut)])
    with log.open("a") as file:
        file.write("59,0,-\n")
    with pytest.raises(InputError, match=r"not a log of Lightning's CSVLogger \(could not convert"):
        dashboard(str(run))


def test_log_of_nan_alone_is_an_input_error(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,epoch,train/loss\n0,0,nan\n1,0,inf\n2,0,\n")
    with pytest.raises(InputError, match="no finite value is logged yet, of 1 names"):
        dashboard(str(tmp_path))


def test_unknown_picture_format_is_refused_before_drawing(run, monkeypatch):
    monkeypatch.setattr("callbacks.dashboard.draw_page", None)
    with pytest.raises(InputError, match=r"x.pdfx: names of pictures end in .png"):
        dashboard(str(run), str(run / "x.pdfx"))


def test_failed_save_keeps_the_old_page(run, monkeypatch):
    page = dashboard(str(run))
    before = page.read_bytes()

    save = Image.Image.save

    def full_disk(image, file, **options):
        save(image, file, **options)
        Path(file).write_bytes(Path(file).read_bytes()[:100])
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        dashboard(str(run))
    assert page.read_bytes() == before


def test_partial_files_are_not_the_newest(tmp_path):
    (tmp_path / ".samples-0000009.png.partial").touch()
    assert newest(tmp_path, "*") is None


def test_long_curves_have_a_running_mean_and_short_ones_a_marker():
    ramp = [(step, float(step)) for step in range(40)]
    axes = [new_figure(300, 200).subplots() for _ in range(4)]
    draw_panel(axes[0], "train/loss", ramp)
    draw_panel(axes[1], "train/loss", ramp[:5])
    draw_panel(axes[2], "train/data_wait", ramp)
    draw_panel(axes[3], "train/data_wait", ramp[:5])
    titles = [plot.get_title(loc="left") for plot in axes]
    assert titles == ["loss  mean min 7", "loss  min 0", "data_wait  mean 32", "data_wait  4"]
    raw, mean = (line.get_xydata() for line in axes[0].lines)
    assert raw.tolist() == [[step, step] for step in range(40)]
    assert mean.tolist() == [[step, step - 7] for step in range(14, 40)]
    ring = axes[1].lines[-1]
    assert ring.get_xydata().tolist() == [[0, 0]]
    assert ring.get_fillstyle() == "none"
    assert len(axes[3].lines) == 1


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("val/loss", False),
        ("val/loss_without_reference", None),
        ("val/condition_gain", True),
        ("val/novel_view/SSIM", True),
        ("train/perceptual[efficientnet-lite0]", False),
        ("train/images_per_second", None),
        ("val/evaluation_seconds", None),
    ],
)
def test_direction_of_logged_names(name, better):
    assert higher_is_better(name) is better
