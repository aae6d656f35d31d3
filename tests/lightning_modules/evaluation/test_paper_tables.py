"""The paper's tables end to end: the shipped model and toy versions of all five baselines, on the built-in
people."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from PIL import Image

from generators.gan.folder import save_generator
from lightning_modules.evaluate import main
from lightning_modules.evaluation.tables import MEMORY, SECONDS
from lightning_modules.networks.portrait import save_portrait_model
from tests.baselines.toys import write_folder
from tests.generators.inversion.test_pivotal import varied
from tests.lightning_modules.evaluation.results import assert_same_results, signal_of, start_in_child
from tests.networks.toy import toy_model

ROOT = Path(__file__).parents[3]
PEOPLE = ROOT / "tests/data/people"
TUNING = {"tuning": {"style_steps": 2, "tune_steps": 1, "perceptual_weight": 0.0}}
TABLES = {
    "table1": ("eg3d_pti", "panohead_pti", "triplanenet", "goae"),
    "table1_wild": ("eg3d_pti", "panohead_pti", "triplanenet", "goae"),
    "table3": ("zero123",),
}
SETTINGS = {"eg3d_pti": TUNING, "panohead_pti": {**TUNING, "frame": "own"}, "zero123": {"steps": 2}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of toy weights for every kind of baseline, and of a toy model."""
    place = tmp_path_factory.mktemp("weights")
    found = {kind: write_folder(kind, place / kind) for kind in ("triplanenet", "goae", "zero123")}
    for kind in ("eg3d", "panohead"):
        save_generator(varied(kind), place / kind, "toy")
        found[f"{kind}_pti"] = place / kind
    found["model"] = place / "model"
    save_portrait_model(toy_model(image_size=64), str(found["model"]))
    return found


def arguments_of(table, folders, out):
    baselines = [
        {"kind": kind, "folder": str(folders[kind]), "settings": SETTINGS.get(kind, {})}
        for kind in TABLES[table]
    ]
    return [
        f"--config={ROOT}/configs/evaluate/{table}.yaml",
        f"--model={folders['model']}",
        f"--subjects.shards={PEOPLE}",
        "--subjects.split=val",
        "--subjects.frames=4",
        "--subjects.views=2",
        "--batch=2",
        "--sampling.steps=2",
        "--scoring.metrics=[PSNR,SSIM]",
        f"--baselines={json.dumps(baselines)}",
        f"--out={out}",
        "--device=cpu",
    ]


def finished(out):
    """The number of subjects whose folders are complete."""
    return sum(".partial" not in str(path) for path in out.glob("*/*/cost.json"))


MOMENTS = {
    "while a subject is written": lambda out: any(out.glob("*/*.partial")),
    "between subjects": lambda out: finished(out) >= 3,
    "while another system predicts": lambda out: finished(out) >= 10,
    "while views are scored": lambda out: (out / ".table.lock").exists(),
    "while the report is written": lambda out: (out / "table.md").exists(),
}
KILLS = {
    "table1": ("while a subject is written", "while another system predicts", "while views are scored"),
    "table1_wild": ("between subjects", "while another system predicts", "while the report is written"),
    "table3": ("while a subject is written", "between subjects", "while the report is written"),
}


def kill_when(moment, arguments, out):
    """Run the command in a child process, kill it once `moment(out)` holds, and return its final signal."""
    child = start_in_child(lambda: main(arguments))
    try:
        while not moment(out) and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.002)
    finally:
        os.kill(child, signal.SIGKILL)
        ended_by = signal_of(child)
    return ended_by


def rows_of(out):
    rows = json.loads((out / "table.json").read_text())["rows"]
    return {row["name"]: row for row in rows if row["published"] is None}


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("table", TABLES)
def test_paper_table_resumes_to_equal_results_after_kills(table, folders, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    main(arguments_of(table, folders, whole))
    rows = rows_of(whole)
    ours = 1 if table == "table1_wild" else 2
    assert len(rows) == ours * (1 + len(TABLES[table]))
    assert all({"SSIM", SECONDS, MEMORY} <= row["values"].keys() for row in rows.values())
    assert Image.open(whole / "dots.png").width > 300
    assert len(list(whole.glob("*systems.png"))) == ours

    arguments = arguments_of(table, folders, parts)
    for name in KILLS[table]:
        assert kill_when(MOMENTS[name], arguments, parts) == signal.SIGKILL, name
    main(arguments)
    assert_same_results(whole, parts)
