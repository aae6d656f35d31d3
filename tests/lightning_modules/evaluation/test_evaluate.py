import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import yaml

from core.errors import InputError
from lightning_modules.evaluate import (
    Evaluation,
    changed_settings,
    evaluate,
    main,
    make_parser,
    parse_part,
    plan,
)
from lightning_modules.evaluation.sampling import Made
from lightning_modules.evaluation.scoring import Scoring
from lightning_modules.evaluation.subjects import Subjects
from lightning_modules.sampling.settings import Sampling

CONFIGS = sorted((Path(__file__).parents[3] / "configs/evaluate").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_table_can_be_asked_for(path):
    parser = make_parser()
    chosen = parser.instantiate(parser.parse_args(["--config", str(path)])).as_dict()
    chosen.pop("config")
    evaluation = Evaluation(**chosen)
    jobs = plan(evaluation)
    assert len(jobs) == max(len(yaml.safe_load(path.read_text()).get("rows", {})), 1)
    assert evaluation.title
    for made, scoring, _ in jobs.values():
        assert isinstance(made, Made)
        assert isinstance(scoring, Scoring)


def test_predictions_of_anybody(predictions, tmp_path, capsys):
    main(
        [
            "--predictions",
            f"[{predictions.folder}]",
            "--scoring.metrics",
            "[PSNR,SSIM]",
            "--out",
            str(tmp_path / "out"),
        ]
    )
    content = json.loads((tmp_path / "out/table.json").read_text())
    assert [row["name"] for row in content["rows"]] == ["peer"]
    assert set(content["rows"][0]["values"]) == {"PSNR", "SSIM"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "table.md",
        "table.csv",
        "table.json",
        "yaw.png",
        "peer.csv",
        "peer.worst.png",
    }
    assert "| peer | novel_view | 16 | 3 | 6 |" in capsys.readouterr().out


def test_any_system_has_a_row_and_files_of_its_own(predictions, tmp_path):
    folders = []
    for number, system in enumerate(("peer", "peer", "lab/net", "table")):
        folders.append(shutil.copytree(predictions.folder, tmp_path / f"copy{number}"))
        dataclasses.replace(predictions, folder=folders[-1], system=system).save()
    before = {path for folder in folders for path in folder.rglob("*")}
    wanted = f"[{','.join(map(str, folders))}]"
    main(["--predictions", wanted, "--scoring.metrics", "[PSNR]", f"--out={tmp_path / 'out'}"])
    content = json.loads((tmp_path / "out/table.json").read_text())
    names = ["peer", "peer 2", "lab-net", "table 2"]
    assert [row["name"] for row in content["rows"]] == names
    assert all((tmp_path / "out" / f"{name}.csv").is_file() for name in names)
    assert (tmp_path / "out/table.csv").read_text().startswith("system,")
    assert before == {path for folder in folders for path in folder.rglob("*")}


def test_a_system_that_no_file_can_be_called_after_is_refused_first(predictions, tmp_path):
    dataclasses.replace(predictions, system="..").save()
    with pytest.raises(InputError, match=r"row '\.\.': its name is a file's"):
        main(["--predictions", f"[{predictions.folder}]", f"--out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_published_rows_stand_beside_and_are_marked(predictions, tmp_path, capsys):
    config = {
        "title": "Ours beside theirs",
        "published": [
            {
                "name": "theirs",
                "values": {"PSNR": 31.5},
                "resolution": 256,
                "source": "Table 9",
                "protocol": "wild",
            }
        ],
    }
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(config))
    more = [
        "--predictions",
        f"[{predictions.folder}]",
        "--scoring.metrics",
        "[PSNR]",
        f"--out={tmp_path / 'out'}",
    ]
    main([f"--config={tmp_path / 'table.yaml'}", *more])
    assert "| theirs (published: Table 9) | wild | 256 |  |  | 31.5 |" in capsys.readouterr().out
    mine, theirs = json.loads((tmp_path / "out/table.json").read_text())["rows"]
    assert mine["published"] is None
    assert theirs["published"] == "Table 9"


def test_rows_share_predictions_and_one_may_be_the_other_s_truth(capture, model, tmp_path):
    evaluation = Evaluation(
        made=Made(str(model), Subjects(str(capture), views=1), sampling=Sampling(steps=1)),
        scoring=Scoring(metrics=["PSNR"]),
        rows={
            "plain": {},
            "enlarged": {"scoring.size": 32},
            "beside plain": {"truth_from": "plain"},
            "untrained": {"made.reference_network": "untrained"},
        },
        out=str(tmp_path),
    )
    evaluate(evaluation)
    content = json.loads((tmp_path / "table.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert len(list(tmp_path.glob("samples-*"))) == 2
    assert rows["enlarged"]["resolution"] == 32
    assert rows["beside plain"]["values"]["PSNR"]["mean"] is None  # infinite: they are the same images
    assert rows["plain"]["values"]["PSNR"]["mean"] > 0


@pytest.mark.slow
def test_w_and_b_shows_the_table(predictions, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = f"--out={tmp_path / 'out'}"
    main(["--predictions", f"[{predictions.folder}]", "--scoring.metrics", "[PSNR]", out, "--wandb", "true"])
    kept = {path.suffix for path in (tmp_path / "out/wandb").rglob("media/*/evaluate/**/*") if path.is_file()}
    assert kept == {".json", ".png"}


def test_parts_are_not_scored_as_if_they_were_all(capture, model, tmp_path, capsys):
    evaluation = Evaluation(
        made=Made(str(model), Subjects(str(capture), views=1), sampling=Sampling(steps=1)),
        scoring=Scoring(metrics=["PSNR"]),
        out=str(tmp_path),
        part="0/2",
    )
    assert evaluate(evaluation) is None
    assert not (tmp_path / "table.md").exists()
    assert "are missing still" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": {"made.sampling.stepz": 3}}, "row 'a': there is no setting made.sampling.stepz"),
        ({"a": {"made.sampling.steps": "many"}}, "row 'a'"),
        ({"a": {"truth_from": "b"}}, "truth_from 'b' is no row above it"),
        ({"a/b": {}}, "without slashes"),
        ({"..": {}}, "without slashes"),
        ({"": {}}, "without slashes"),
        ({"table": {}}, "row 'table': table, yaw are files of the table itself"),
        ({"x" * 300: {}}, "of 200 bytes at most"),
    ],
)
def test_rows_that_cannot_be_are_one_line(rows, message):
    with pytest.raises(InputError, match=message):
        plan(Evaluation(rows=rows))


def test_changes_are_of_one_row():
    evaluation = Evaluation()
    changed = changed_settings(evaluation, {"made.subjects.seed": 3, "scoring.background": "remove"}, "x")
    assert changed.made == dataclasses.replace(evaluation.made, subjects=Subjects(seed=3))
    assert changed.scoring == Scoring(background="remove")


@pytest.mark.parametrize("part", ["1", "2/2", "a/b", "1/"])
def test_parts_that_are_none(part):
    with pytest.raises(InputError, match="give i/n"):
        parse_part(part)
