"""The paper's tables end to end: the shipped model and all five baselines, with weights by recipe at toy
width, on the built-in people."""

import json
from pathlib import Path

import pytest
from PIL import Image

from generators.gan.folder import save_generator
from lightning_modules.evaluate import main
from lightning_modules.evaluation import sampling
from lightning_modules.evaluation.tables import MEMORY, SECONDS
from tests.baselines.toys import write_folder
from tests.generators.inversion.test_invert import varied

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
    """A folder of weights for every kind of baseline."""
    place = tmp_path_factory.mktemp("weights")
    found = {kind: write_folder(kind, place / kind) for kind in ("triplanenet", "goae", "zero123")}
    for kind in ("eg3d", "panohead"):
        save_generator(varied(kind), place / kind, "toy")
        found[f"{kind}_pti"] = place / kind
    return found


def run(table, folders, out):
    baselines = [
        {"kind": kind, "folder": str(folders[kind]), "settings": SETTINGS.get(kind, {})}
        for kind in TABLES[table]
    ]
    arguments = [f"--config={ROOT}/configs/evaluate/{table}.yaml", f"--model={ROOT}/checkpoints/mini"]
    arguments += [f"--subjects.shards={PEOPLE}", "--subjects.views=3", "--batch=2"]
    arguments += ["--sampling.steps=2", "--scoring.metrics=[PSNR,SSIM]"]
    main([*arguments, f"--baselines={json.dumps(baselines)}", f"--out={out}", "--device=cpu"])


def rows_of(out):
    rows = json.loads((out / "table.json").read_text())["rows"]
    return {row["name"]: row for row in rows if row["published"] is None}


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_made_of_all_systems_and_killed_and_resumed_it_is_the_same(
    table, folders, tmp_path, monkeypatch
):
    run(table, folders, tmp_path / "whole")
    rows = rows_of(tmp_path / "whole")
    ours = 1 if table == "table1_wild" else 2
    assert len(rows) == ours * (1 + len(TABLES[table]))
    assert all({"SSIM", SECONDS, MEMORY} <= row["values"].keys() for row in rows.values())
    assert Image.open(tmp_path / "whole" / "dots.png").width > 300
    sheets = list((tmp_path / "whole").glob("*systems.png"))
    assert len(sheets) == ours

    write, count = sampling.write_subject, []

    def killed(*arguments):
        count.append(1)
        if len(count) % 2 == 0:
            raise KeyboardInterrupt
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "write_subject", killed)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                run(table, folders, tmp_path / "parts")
    run(table, folders, tmp_path / "parts")
    images = sorted((tmp_path / "whole").glob("*/*/*.png"))
    assert images
    for path in images:
        assert path.read_bytes() == (tmp_path / "parts" / path.relative_to(tmp_path / "whole")).read_bytes()
    for name, row in rows_of(tmp_path / "parts").items():
        for metric in ("PSNR", "SSIM"):
            assert row["values"][metric] == rows[name]["values"][metric]
