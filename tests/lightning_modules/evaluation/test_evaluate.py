import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import yaml

from core.errors import InputError
from core.files import exclusive
from core.fingerprints import of_file
from lightning_modules.evaluate import evaluate, main, parse_request
from lightning_modules.evaluation.planning import (
    change_settings,
    parse_part,
    plan_evaluation,
)
from lightning_modules.evaluation.sampling import PredictionPlan
from lightning_modules.evaluation.settings import (
    EvaluationRequest,
    PublishedRow,
    PublishedTable,
    RowSettings,
    ScoringSettings,
)
from lightning_modules.evaluation.subjects import SubjectSettings
from lightning_modules.sampling.settings import Sampling
from shards.builder import build
from tests.networks.toy import toy_unet
from tests.sampling.test_loras import made_by_peft
from tests.shards.fake_source import FakeSource

CONFIGS = sorted((Path(__file__).parents[3] / "configs/evaluate").glob("*.yaml"))


@pytest.fixture
def request_of(capture, model, tmp_path):
    """A function that builds the request of a table of the toy model's predictions."""

    def build(rows=None, row=None, **options):
        settings = RowSettings(
            str(model),
            SubjectSettings(str(capture), views=1),
            sampling=Sampling(steps=1),
            scoring=ScoringSettings(metrics=["PSNR"]),
        )
        settings = dataclasses.replace(settings, **(row or {}))
        return EvaluationRequest(settings, rows=rows or {}, **{"out": str(tmp_path), **options})

    return build


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_table_config_can_be_planned(path, tmp_path):
    people = Path(__file__).parents[2] / "data/studio"
    small = [f"--subjects.shards={people}", "--scoring.metrics=[PSNR]", f"--out={tmp_path}"]
    plan = plan_evaluation(parse_request([f"--config={path}", *small]))
    values = yaml.safe_load(path.read_text())
    assert len(plan.rows) == max(len(values.get("rows", {})), 1)
    assert plan.title == values["title"]
    assert all(isinstance(row.predictions, PredictionPlan) for row in plan.rows)
    assert len(plan.published) == len(values["published"][0]["rows"])
    assert all(row.published.endswith("CVPR 2024") and row.values for row in plan.published)
    assert len(plan.remarks) == len(values["published"][0]["differences"]) > 0


def test_predictions_folder_is_scored(predictions, tmp_path, capsys):
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


def test_equal_system_names_get_separate_rows_and_files(predictions, tmp_path):
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


def test_system_name_unusable_as_file_name_is_refused(predictions, tmp_path):
    dataclasses.replace(predictions, system="..").save()
    with pytest.raises(InputError, match=r"row '\.\.': files are named after it"):
        main(["--predictions", f"[{predictions.folder}]", f"--out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_published_rows_are_marked(predictions, tmp_path, capsys):
    config = {
        "title": "Ours beside theirs",
        "published": [
            {
                "source": "Table 9",
                "resolution": 256,
                "rows": [{"name": "theirs", "values": {"PSNR": 31.5}, "protocol": "wild"}],
                "differences": ["over other people"],
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
    printed = capsys.readouterr().out
    assert "| theirs (published: Table 9) | wild | 256 |  |  | 31.5 |" in printed
    assert printed.rstrip().endswith("- Table 9: over other people")
    mine, theirs = json.loads((tmp_path / "out/table.json").read_text())["rows"]
    assert mine["published"] is None
    assert theirs["published"] == "Table 9"


def test_rows_share_predictions_and_can_be_another_rows_truth(request_of, tmp_path):
    rows = {
        "plain": {},
        "enlarged": {"scoring.size": 32},
        "beside plain": {"truth_from": "plain"},
        "untrained": {"reference_network": "untrained"},
    }
    assert evaluate(plan_evaluation(request_of(rows)))
    content = json.loads((tmp_path / "table.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert len(list(tmp_path.glob("samples-*"))) == 2
    assert rows["enlarged"]["resolution"] == 32
    assert rows["beside plain"]["values"]["PSNR"]["mean"] is None  # infinite, for equal images
    assert rows["plain"]["values"]["PSNR"]["mean"] > 0


@pytest.mark.slow
def test_wandb_gets_the_table(predictions, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = f"--out={tmp_path / 'out'}"
    main(["--predictions", f"[{predictions.folder}]", "--scoring.metrics", "[PSNR]", out, "--wandb", "true"])
    kept = {path.suffix for path in (tmp_path / "out/wandb").rglob("media/*/evaluate/**/*") if path.is_file()}
    assert kept == {".json", ".png"}


def test_table_waits_for_all_parts(request_of, tmp_path, capsys):
    assert not evaluate(plan_evaluation(request_of(part="0/2")))
    assert not (tmp_path / "table.md").exists()
    assert "are still missing" in capsys.readouterr().out
    assert evaluate(plan_evaluation(request_of(part="1/2")))
    assert (tmp_path / "table.md").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": {"sampling.stepz": 3}}, "row 'a': .*stepz"),
        ({"a": {"stepz": 3}}, "row 'a': .*stepz"),
        ({"a": {"sampling.steps": "many"}}, "row 'a'"),
        ({"a": {"model": None}}, "row 'a': model needs a value"),
        ({"a": {"truth_from": "b"}}, "truth_from 'b' is not the name of a row above it"),
        ({"a": {}, "b": {"truth_from": "a", "subjects.views": 2}}, "'b' and 'a': their views differ"),
        ({"a/b": {}}, "no slashes"),
        ({"..": {}}, "no slashes"),
        ({"": {}}, "no slashes"),
        ({"table": {}}, "row 'table': table, yaw, dots, systems are the names of the table's own files"),
        ({"x" * 300: {}}, "at most 200 bytes"),
        ({"a": {"model": "nowhere"}}, "nowhere: no such folder, and not a hub id"),
        ({"a": {"sampling.noise": "3d-aware"}}, "has no noise_prior/"),
        ({"a": {"sampling.steps": 1001}}, "1001 sampling steps"),
        ({"a": {"lora": ["none.safetensors"]}}, "--lora none.safetensors: there is no such file"),
        ({"a": {"lora": "none.safetensors"}}, "row 'a': .*lora"),
        ({"a": {"sampling.prompt": "in oil"}}, "has no tokenizer/ and text_encoder/"),
        ({"a": {"precision": "float16"}}, "float16 needs a GPU"),
        ({"a": {"subjects.views": 0}}, "subjects.views 0: give 1 or more"),
        ({"a": {"scoring.metrics": ["LPIPZ"]}}, "LPIPZ"),
        ({"a": {"scoring.size": 10, "scoring.metrics": ["SSIM"]}}, "SSIM needs images of 11x11 pixels"),
        ({"a": {"scoring.size": -3}}, "scoring.size -3: give 1 to 8192"),
        ({"a": {"scoring.real": "nowhere"}}, "nowhere: there is no such folder"),
        ({"a": {"conditions": "others", "renderer": "nobody"}}, "nobody"),
    ],
)
def test_invalid_rows_are_input_errors_before_loading(request_of, rows, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("lightning_modules.evaluation.systems.open_model", None)
    with pytest.raises(InputError, match=message):
        plan_evaluation(request_of(rows))


def test_loras_are_named_below_the_table(request_of, tmp_path):
    file, _ = made_by_peft(tmp_path / "style.safetensors", toy_unet(sample_size=4))
    assert evaluate(plan_evaluation(request_of({"plain": {}, "styled": {"lora": [f"{file}:0.5"]}})))
    plain, styled = json.loads((tmp_path / "table.json").read_text())["rows"]
    note = f"LoRA {file}, weight 0.5 ({of_file(file)})"
    assert note in styled["notes"]
    assert f"- styled: {note}\n" in (tmp_path / "table.md").read_text()
    assert not any("LoRA" in text for text in plain["notes"])
    assert plain["values"]["PSNR"]["mean"] != styled["values"]["PSNR"]["mean"]


def test_loras_are_given_as_to_synthesize(tmp_path):
    given = ["--lora", "one.safetensors", "two.safetensors:0.5", "--sampling.prompt", "in oil"]
    row = parse_request(given).row
    assert row.lora == ["one.safetensors", "two.safetensors:0.5"]
    assert row.sampling.prompt == "in oil"
    assert parse_request([]).row.lora is None
    (tmp_path / "table.yaml").write_text(
        "lora: [one.safetensors]\nrows: {a: {}, b: {lora: [b.safetensors:2]}}\n"
    )
    table = parse_request([f"--config={tmp_path / 'table.yaml'}"])
    changed = change_settings(table.row, table.rows["b"], "b")
    assert (table.row.lora, changed.lora) == (["one.safetensors"], ["b.safetensors:2"])


def test_removing_backgrounds_needs_masks(request_of):
    with pytest.raises(InputError, match=r"not all frames of .* have masks to remove the background with"):
        plan_evaluation(request_of({"a": {"scoring.background": "remove"}}))
    with pytest.raises(InputError, match="its truth is row 'a', which has no masks"):
        plan_evaluation(request_of({"a": {}, "b": {"truth_from": "a", "scoring.background": "remove"}}))


def test_image_size_must_match_the_model(request_of, tmp_path):
    build(FakeSource(3, 1, views=4, size=32), tmp_path / "large", 0)
    with pytest.raises(InputError, match=r"generates images of 16 pixels, and .*large have 32"):
        plan_evaluation(request_of(row={"subjects": SubjectSettings(str(tmp_path / "large"))}))


def test_published_values_must_be_metrics(request_of):
    table = PublishedTable("Table 9", [PublishedRow("x", {"beauty": 1.0})])
    with pytest.raises(InputError, match="published Table 9: x: beauty: not a metric"):
        plan_evaluation(request_of(published=[table]))


def test_change_settings_replaces_nested_fields():
    settings = RowSettings()
    changed = change_settings(settings, {"subjects.seed": 3, "scoring.background": "remove"}, "x")
    assert changed == dataclasses.replace(
        settings, subjects=SubjectSettings(seed=3), scoring=ScoringSettings(background="remove")
    )


@pytest.mark.parametrize("part", ["1", "2/2", "a/b", "1/"])
def test_invalid_parts_are_input_errors(part):
    with pytest.raises(InputError, match="give i/n"):
        parse_part(part)


def test_metrics_are_on_the_cpu_where_the_gpu_lacks_float64(request_of, monkeypatch):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(InputError, match=r"--device mps: PyTorch .* this machine has cpu"):
        plan_evaluation(request_of(device="mps"))
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    (row,) = plan_evaluation(request_of(device="mps")).rows
    assert (row.predictions.device, row.scoring.device) == ("mps", "cpu")


def test_second_process_in_the_same_folder_is_refused(request_of, tmp_path):
    plan = plan_evaluation(request_of())
    with exclusive(tmp_path / "part-0-of-1"), pytest.raises(InputError, match="another process"):
        evaluate(plan)
    assert evaluate(plan)


def test_results_are_moved_to_a_url(request_of, store, uploads, tmp_path, monkeypatch, capsys):
    assert evaluate(plan_evaluation(request_of()))
    local = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    at_url = {"out": "memory://bucket/table", "staging": str(tmp_path / "work")}
    with pytest.raises(InputError, match=r"--part 0/2 shares a folder: give --out .*work/table to all parts"):
        plan_evaluation(request_of(part="0/2", **at_url))
    uploads.room = 2
    with pytest.raises(InputError, match="memory://bucket/table: cannot be written"):
        evaluate(plan_evaluation(request_of(**at_url)))
    monkeypatch.setattr("lightning_modules.evaluation.systems.open_model", None)  # views are there
    uploads.room = 1000
    assert evaluate(plan_evaluation(request_of(**at_url)))
    assert {name.removeprefix("/bucket/table/") for name in store.find("/bucket/table")} == local
    here, there = (tmp_path / "table.json").read_bytes(), store.cat_file("/bucket/table/table.json")
    psnr, found = (json.loads(table)["rows"][0]["values"]["PSNR"] for table in (here, there))
    assert found == psnr  # seconds and memory differ
    assert uploads.paths[-1] == "/bucket/table/table.json"
    assert not any((tmp_path / "work").iterdir())
    assert capsys.readouterr().out.endswith("\nmemory://bucket/table\n")
    with pytest.raises(InputError, match="memory://bucket/table exists already: choose another --out"):
        plan_evaluation(request_of(**at_url))
