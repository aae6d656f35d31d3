"""Presets: settings in one YAML, and how commands and the pipeline take them."""

import pytest

from core.errors import InputError
from lightning_modules.evaluate import parse_request as parse_evaluation
from lightning_modules.evaluation.planning import change_settings, row_changes
from lightning_modules.evaluation.settings import RowSettings
from lightning_modules.sampling.call_options import sampling_settings
from lightning_modules.sampling.presets import preset, read_presets
from lightning_modules.sampling.settings import Sampling
from lightning_modules.synthesize import parse_request

ASKED = ["--model=m", "--out=o"]


def test_paper_preset_equals_the_defaults():
    paper = Sampling(**preset("paper"))
    assert (paper.solver, paper.steps, paper.guidance, paper.eta) == ("ddim", 100, 3.0, 0.0)
    assert Sampling(**preset("paper") | {"solver": None}) == Sampling()


def test_documented_presets_exist():
    presets = {name: Sampling(**values) for name, values in read_presets().items()}
    assert {"paper", "released", "fast", "preview", "lcm"} <= presets.keys()
    assert 4 <= presets["lcm"].steps <= 8
    assert presets["lcm"].solver == "lcm"


@pytest.mark.parametrize(
    "arguments", [["--preset", "fast"], ["--preset=paper", "--preset=fast"], ["--pres", "fast"]]
)
def test_flags_override_a_preset_in_any_order(arguments):
    fast = preset("fast")
    request = parse_request([*ASKED, *arguments])
    assert request.sampling(None) == Sampling(**fast)
    for given in ([*arguments, "--steps", "7"], ["--steps", "7", *arguments]):
        assert parse_request([*ASKED, *given]).sampling(None) == Sampling(**fast | {"steps": 7})
    assert parse_request([*ASKED, *arguments, "--steps=100"]).steps == 100
    assert parse_request(ASKED).sampling(None) == Sampling()


def test_evaluate_accepts_presets(tmp_path):
    request = parse_evaluation(["--preset", "fast", "--sampling.steps=9"])
    assert request.row.sampling == Sampling(**preset("fast") | {"steps": 9})
    assert parse_evaluation(["--sampling.steps=9"]).row.sampling == Sampling(steps=9)
    (tmp_path / "table.yaml").write_text("preset: fast\nsampling: {guidance: 2.0}\n")
    request = parse_evaluation([f"--config={tmp_path / 'table.yaml'}"])
    assert request.row.sampling == Sampling(**preset("fast") | {"guidance": 2.0})


def test_rows_of_a_table_accept_presets():
    fast = {f"sampling.{name}": value for name, value in preset("fast").items()}
    assert row_changes({"preset": "fast"}) == fast
    changes = row_changes({"sampling.steps": 9, "preset": "fast", "truth_from": "other"})
    assert changes == fast | {"sampling.steps": 9}
    assert change_settings(RowSettings(), changes, "row").sampling == Sampling(
        **preset("fast") | {"steps": 9}
    )


def test_pipeline_accepts_presets():
    assert sampling_settings({"preset": "fast"}) == Sampling(**preset("fast"))
    changed = sampling_settings({"num_inference_steps": 9, "preset": "fast"})
    assert changed == Sampling(**preset("fast") | {"steps": 9})


def test_unknown_preset_is_an_input_error():
    with pytest.raises(InputError, match="preset 'faster': choose from paper"):
        parse_request([*ASKED, "--preset", "faster"])
    with pytest.raises(InputError, match="preset 'faster': choose from paper"):
        parse_evaluation(["--preset", "faster"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {stepz: 3}", "a: stepz: no setting of sampling"),
        ("a: {steps: 0}", "a: steps 0: give a whole number"),
        ("a: {eta: much}", "a: "),
        ("a: 3", "a: give settings of sampling"),
    ],
)
def test_damaged_preset_file_is_an_input_error(tmp_path, text, message):
    (tmp_path / "presets.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_presets(tmp_path / "presets.yaml")
