import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import IncompleteError, InputError
from core.fingerprints import of_file
from lightning_modules.evaluation import sampling
from lightning_modules.evaluation.moving import moved
from lightning_modules.evaluation.planning import plan_evaluation
from lightning_modules.evaluation.sampling import OtherConditions, condition_pixels, make_predictions
from lightning_modules.evaluation.settings import EvaluationRequest, RowSettings, ScoringSettings
from lightning_modules.evaluation.subjects import SubjectSettings, find_subjects
from lightning_modules.evaluation.systems import ModelChoice, open_model
from lightning_modules.networks import hub
from lightning_modules.networks.portrait import PortraitModel, load_portrait_model, save_portrait_model
from lightning_modules.sampling.settings import Sampling
from portraits.cameras import angles
from tests.engines import REASON, GivesUp
from tests.faces import FlatRenderer
from tests.networks.toy import toy_unet
from tests.sampling.test_loras import made_by_peft


def subjects_of(capture, **settings):
    """All subjects of the capture."""
    subjects = find_subjects(SubjectSettings(str(capture), **settings))
    found = list(subjects.read(subjects.keys))
    assert [subject.key for subject in found] == subjects.keys
    return found


def test_novel_views_exclude_the_reference(capture):
    found = subjects_of(capture)
    assert len(found) == 3
    for subject in found:
        assert len(subject.references) == 1
        assert len(subject.truths) == len(subject.conditions) == len(subject.cameras) == 3
        assert not any(np.array_equal(subject.references[0], truth) for truth in subject.truths)


@pytest.mark.parametrize("protocol", ["reconstruction", "wild"])
def test_reconstruction_predicts_the_reference_view(capture, protocol):
    found = subjects_of(capture, protocol=protocol, views=2)
    assert len(found) == 6
    assert all(np.array_equal(subject.references, subject.truths) for subject in found)
    assert len({subject.key for subject in found}) == 6


def test_frontal_reference_view_is_the_most_frontal(capture):
    for subject in subjects_of(capture, reference_view="frontal"):
        assert np.abs(angles(subject.cameras)[:, 0]).min() > 0.3


def test_too_few_views_or_frames_are_input_errors(capture):
    with pytest.raises(InputError, match="4 views are too few for 4 references"):
        find_subjects(SubjectSettings(str(capture), references=4))
    with pytest.raises(InputError, match="has 3 of test"):
        find_subjects(SubjectSettings(str(capture), frames=9))


@pytest.fixture
def settings(capture, model):
    return RowSettings(
        str(model),
        SubjectSettings(str(capture), views=2),
        sampling=Sampling(steps=1),
        batch=1,
        scoring=ScoringSettings(metrics=["PSNR"]),
    )


def plan(settings, out, part="0/1"):
    """The plan of one row of predictions."""
    (row,) = plan_evaluation(EvaluationRequest(settings, out=str(out), part=part, device="cpu")).rows
    return row.predictions


def test_interrupted_sampling_resumes_to_equal_files(settings, tmp_path, monkeypatch):
    whole = make_predictions(plan(settings, tmp_path / "whole"))
    assert len(whole.views) == 6
    write, written = sampling.write_subject, []

    def failing(folder, *arguments, **options):
        if written:
            raise KeyboardInterrupt
        written.append(folder)
        write(folder, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "write_subject", failing)
        with pytest.raises(KeyboardInterrupt):
            make_predictions(plan(settings, tmp_path / "parts"))
    stamp = written[0].stat().st_mtime_ns
    parts = make_predictions(plan(settings, tmp_path / "parts"))
    assert written[0].stat().st_mtime_ns == stamp
    assert parts.views == whole.views
    for view in whole.views:
        assert (parts.folder / view.image).read_bytes() == (whole.folder / view.image).read_bytes()
        assert (whole.folder / view.truth).is_file()


def test_parts_split_the_subjects(settings, tmp_path):
    assert make_predictions(plan(settings, tmp_path, "0/2")) is None
    assert len(list(tmp_path.glob("*/*/views.json"))) == 2
    assert len(make_predictions(plan(settings, tmp_path, "1/2")).views) == 6


def test_subjects_given_up_are_reported_and_not_scored(settings, tmp_path):
    planned = plan(settings, tmp_path)
    key = planned.subjects.keys[1]
    with pytest.raises(IncompleteError, match=f"^1 subjects could not be sampled: {key}: {REASON};"):
        make_predictions(planned, GivesUp([1]))
    assert {path.parent.name for path in planned.folder.glob("*/views.json")} == {*planned.subjects.keys} - {
        key
    }
    assert len(make_predictions(planned).views) == 6


def test_cluster_samples_on_gpus_if_asked(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("core.engine.find_spec", lambda _: "installed")
    monkeypatch.setattr(EvaluationRequest, "cluster", lambda _: GivesUp([]))
    for options, sampling_device in (({}, "cpu"), ({"num_gpus": 1.0}, "cuda:0")):
        request = EvaluationRequest(settings, out=str(tmp_path), engine="ray", **options)
        (row,) = plan_evaluation(request).rows
        assert row.predictions.device == sampling_device
    with pytest.raises(InputError, match="--device cuda: on a cluster"):
        plan_evaluation(EvaluationRequest(settings, out=str(tmp_path), engine="ray", device="cuda"))


def test_loras_change_images_and_are_part_of_their_identity(settings, tmp_path):
    file, _ = made_by_peft(tmp_path / "style.safetensors", toy_unet(sample_size=4))

    def planned(*loras):
        return plan(dataclasses.replace(settings, lora=list(loras) or None), tmp_path / "out")

    def images(predictions):
        return [(predictions.folder / view.image).read_bytes() for view in predictions.views]

    plain, styled, weak = (
        make_predictions(planned(*loras)) for loras in ((), (str(file),), (f"{file}:0.5",))
    )
    assert len({plain.folder, styled.folder, weak.folder}) == 3
    for one, other in ((plain, styled), (plain, weak), (styled, weak)):
        assert all(a != b for a, b in zip(images(one), images(other), strict=True))
    assert styled.settings["lora"] == [{"file": str(file), "weight": 1.0, "fingerprint": of_file(file)}]

    copy = shutil.copy(file, tmp_path / "copy.safetensors")
    assert planned(f"{copy}:1.0").folder == styled.folder
    written = {path: path.stat().st_mtime_ns for path in styled.folder.glob("*/*")}
    assert make_predictions(planned(str(file))).views == styled.views
    assert {path: path.stat().st_mtime_ns for path in styled.folder.glob("*/*")} == written

    made_by_peft(file, toy_unet(sample_size=4), seed=1000)
    assert planned(str(file)).folder not in (plain.folder, styled.folder, weak.folder)


def test_prediction_folder_depends_on_settings(settings, tmp_path):
    folder = plan(settings, tmp_path).folder
    for same in ({"batch": 7}, {"sampling": Sampling(steps=1, chunk=3)}, {"renderer": "unused"}):
        assert plan(dataclasses.replace(settings, **same), tmp_path).folder == folder
    others = [
        dataclasses.replace(settings, sampling=Sampling(steps=2)),
        dataclasses.replace(settings, reference_network="untrained"),
        dataclasses.replace(settings, subjects=dataclasses.replace(settings.subjects, seed=1)),
    ]
    assert len({folder, *(plan(other, tmp_path).folder for other in others)}) == 4


@pytest.mark.parametrize("name", ["scheduler/scheduler_config.json", "vae/config.json"])
def test_prediction_folder_depends_on_model_configs(settings, tmp_path, name):
    copy = Path(shutil.copytree(settings.model, tmp_path / "copy"))
    settings = dataclasses.replace(settings, model=str(copy))
    before = plan(settings, tmp_path).folder
    assert plan(settings, tmp_path).folder == before
    values = json.loads((copy / name).read_text())
    (copy / name).write_text(json.dumps(values | {"extra": 1}))
    assert plan(settings, tmp_path).folder != before


def test_prediction_folder_depends_on_files_of_a_hub_model(settings, model, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(model, tmp_path / "snapshot"))
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(copy))
    settings = dataclasses.replace(settings, model="someone/model")
    before = plan(settings, tmp_path)
    assert (before.system, before.choice.folder) == ("model", copy)
    card = copy / "appearance_reference" / "stage.json"
    card.write_text(card.read_text() + " ")
    assert plan(settings, tmp_path).folder != before.folder


def test_prediction_folder_depends_on_shard_contents(settings, capture, tmp_path):
    copy = Path(shutil.copytree(capture, tmp_path / "copy"))
    (copy / "manifest.json").unlink()
    settings = dataclasses.replace(settings, subjects=SubjectSettings(str(copy), views=2))
    before = plan(settings, tmp_path).folder
    (shard,) = copy.glob("test-*.tar")
    data = bytearray(shard.read_bytes())
    place = data.index(b"JFIF")
    data[place + 9] ^= 1  # the density field of the JPEG header
    shard.write_bytes(bytes(data))
    assert plan(settings, tmp_path).folder != before


def test_untrained_reference_is_a_copy_of_f(model, tmp_path):
    trained = load_portrait_model(str(model))
    with torch.no_grad():
        for parameter in trained.reference.parameters():
            parameter.add_(1)
    save_portrait_model(PortraitModel(trained.backbone, trained.reference), str(tmp_path / "trained"))
    own = open_model(ModelChoice(tmp_path / "trained"))
    untrained = open_model(ModelChoice(tmp_path / "trained", untrained_reference=True))
    backbone = dict(own.unet.named_parameters())
    reference = dict(untrained.appearance_reference.named_parameters())
    shared = backbone.keys() & reference.keys()
    assert len(shared) > 10
    assert all(torch.equal(reference[name], backbone[name]) for name in shared)
    assert not any(
        torch.equal(parameter, reference[name])
        for name, parameter in own.appearance_reference.named_parameters()
    )


def test_other_conditions_are_deterministic_by_seed(capture):
    first, renderer = subjects_of(capture, views=2)[0], FlatRenderer()
    others = OtherConditions("flat", 7)
    own, other = condition_pixels(first, None, None), condition_pixels(first, others, renderer)
    assert own.shape == other.shape == (2, 3, 16, 16)
    assert not torch.equal(own, other)
    assert torch.equal(other, condition_pixels(first, others, FlatRenderer()))
    assert not torch.equal(other, condition_pixels(first, OtherConditions("flat", 8), FlatRenderer()))


def test_moved_shifts_scales_and_tilts():
    images = torch.zeros(1, 3, 32, 32)
    images[..., 15:17, 15:17] = 1
    across = moved(images, shift=0.25)[0, 0]
    assert (across.nonzero().float().mean(0) - torch.tensor([15.5, 23.5])).abs().max() < 0.6
    assert moved(images, scale=0.5).sum() < images.sum()
    torch.testing.assert_close(moved(images, tilt=90), images, atol=1e-4, rtol=0)
