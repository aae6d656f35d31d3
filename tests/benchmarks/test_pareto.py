"""The rows, the table and the picture of benchmarks.pareto."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.pareto import Point, benchmark, draw, named_scores, rows_to_measure, table
from core.errors import InputError
from lightning_modules.likeness import RowScores
from lightning_modules.sampling.presets import preset, read_presets
from lightning_modules.sampling.settings import Sampling


def point(seconds, lpips=0.2, identity=0.5):
    return Point(seconds, {"PSNR": 20.0, "LPIPS": lpips, "ID": identity, "yaw error": 5.0})


def test_paper_row_is_first_and_lora_presets_are_left_out():
    rows = rows_to_measure("configs/sampling/pareto.yaml")
    assert next(iter(rows.items())) == ("paper", Sampling(**preset("paper")))
    assert {"released", "fast", "preview"} <= rows.keys()
    assert "lcm" not in rows
    assert rows.keys() == (read_presets() | read_presets("configs/sampling/pareto.yaml")).keys() - {"lcm"}
    assert rows_to_measure(None).keys() == read_presets().keys() - {"lcm"}


def test_table_compares_with_the_paper():
    lines = table({"paper": point(4.0), "fast": point(0.5, 0.202, 0.49)}).splitlines()
    assert lines[2] == "| paper | 1.0x | 4.00 | 20.00 | 0.2000 | 0.5000 | 5.0 | +0.0% | +0.0% |"
    assert lines[3] == "| fast | 8.0x | 0.50 | 20.00 | 0.2020 | 0.4900 | 5.0 | +1.0% | -2.0% |"


def test_scores_are_found_by_any_network():
    views = {
        "PSNR": 1.0,
        "LPIPS[efficientnet-lite0]": 2.0,
        "ID[sface] to the portrait": 9.0,
        "ID[sface]": 3.0,
    }
    views |= {"yaw error": 4.0, "SSIM": 5.0}
    found = named_scores(RowScores({name: np.full((2, 2), x) for name, x in views.items()}, {}))
    assert found == {"PSNR": 1.0, "LPIPS": 2.0, "ID": 3.0, "yaw error": 4.0}


def test_picture_is_drawn(tmp_path):
    draw({"paper": point(4.0), "fast": point(0.5)}, ["paper", "fast"], tmp_path / "pareto.png")
    assert Image.open(tmp_path / "pareto.png").width > 800


def test_values_out_of_range_are_an_input_error():
    with pytest.raises(InputError, match="--people 1 --views 2: give 2 people or more"):
        benchmark(people=1, views=2)
