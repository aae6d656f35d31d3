import dataclasses

import numpy as np
import pytest
import torch

from core.errors import InputError
from lightning_modules.evaluation import sampling
from lightning_modules.evaluation.moving import moved
from lightning_modules.evaluation.sampling import Made, make, shown_conditions
from lightning_modules.evaluation.subjects import Subjects
from lightning_modules.sampling.settings import Sampling
from portraits.cameras import angles
from tests.faces import FlatRenderer


def test_novel_views_are_all_but_the_reference(capture):
    subjects = Subjects(str(capture))
    found = list(subjects.read(subjects.keys()))
    assert [subject.key for subject in found] == subjects.keys()
    assert len(found) == 3
    for subject in found:
        assert len(subject.references) == 1
        assert len(subject.truths) == len(subject.conditions) == len(subject.cameras) == 3
        assert not any(np.array_equal(subject.references[0], truth) for truth in subject.truths)


@pytest.mark.parametrize("protocol", ["reconstruction", "wild"])
def test_a_reconstruction_is_of_the_reference(capture, protocol):
    subjects = Subjects(str(capture), protocol, views=2)
    found = list(subjects.read(subjects.keys()))
    assert len(found) == 6
    assert all(np.array_equal(subject.references, subject.truths) for subject in found)
    assert len({subject.key for subject in found}) == 6


def test_the_reference_may_be_the_most_frontal_view(capture):
    subjects = Subjects(str(capture), reference_view="frontal")
    for subject in subjects.read(subjects.keys()):
        assert np.abs(angles(subject.cameras)[:, 0]).min() > 0.3


def test_too_few_views_are_one_line(capture):
    with pytest.raises(InputError, match="4 views are too few for 4 references"):
        Subjects(str(capture), references=4).keys()
    with pytest.raises(InputError, match="has 3 of test"):
        Subjects(str(capture), frames=9).keys()


@pytest.fixture
def made(capture, model):
    return Made(str(model), Subjects(str(capture), views=2), sampling=Sampling(steps=1), batch=1)


def test_interrupted_sampling_goes_on_and_gives_the_same(made, tmp_path, monkeypatch):
    whole = make(made, tmp_path / "whole")
    assert len(whole.views) == 6
    write, written = sampling.write_subject, []

    def failing(folder, *arguments):
        if written:
            raise KeyboardInterrupt
        written.append(folder)
        write(folder, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "write_subject", failing)
        with pytest.raises(KeyboardInterrupt):
            make(made, tmp_path / "parts")
    stamp = written[0].stat().st_mtime_ns
    parts = make(made, tmp_path / "parts")
    assert written[0].stat().st_mtime_ns == stamp
    assert parts.views == whole.views
    for view in whole.views:
        assert (parts.folder / view.image).read_bytes() == (whole.folder / view.image).read_bytes()
        assert (whole.folder / view.truth).is_file()


def test_machines_share_the_subjects(made, tmp_path):
    assert make(made, tmp_path, (0, 2)) is None
    assert len(list(tmp_path.glob("*/views.json"))) == 2
    assert len(make(made, tmp_path, (1, 2)).views) == 6


def test_other_settings_are_other_predictions(made):
    for same in ({"batch": 7}, {"sampling": Sampling(steps=1, chunk=3)}):
        assert made.digest() == dataclasses.replace(made, **same).digest()
    others = [
        dataclasses.replace(made, sampling=Sampling(steps=2)),
        dataclasses.replace(made, reference_network="untrained"),
        dataclasses.replace(made, subjects=dataclasses.replace(made.subjects, seed=1)),
    ]
    assert len({made.digest(), *(other.digest() for other in others)}) == 4


def test_an_untrained_reference_network_is_f_itself(made):
    pipeline = sampling.open_model(dataclasses.replace(made, reference_network="untrained"))
    again = sampling.open_model(made)
    reference = dict(pipeline.appearance_reference.named_parameters())
    assert all(torch.equal(p, reference[name]) for name, p in again.appearance_reference.named_parameters())


def test_others_conditions_are_the_same_every_time(made):
    (first, *_), renderer = list(made.subjects.read(made.subjects.keys())), FlatRenderer()
    own, other = shown_conditions(first, made), shown_conditions(first, made, renderer)
    assert own.shape == other.shape == (2, 3, 16, 16)
    assert not torch.equal(own, other)
    assert torch.equal(other, shown_conditions(first, made, FlatRenderer()))


def test_moved_references():
    images = torch.zeros(1, 3, 32, 32)
    images[..., 15:17, 15:17] = 1
    across = moved(images, shift=0.25)[0, 0]
    assert (across.nonzero().float().mean(0) - torch.tensor([15.5, 23.5])).abs().max() < 0.6
    assert moved(images, scale=0.5).sum() < images.sum()
    torch.testing.assert_close(moved(images, tilt=90), images, atol=1e-4, rtol=0)
