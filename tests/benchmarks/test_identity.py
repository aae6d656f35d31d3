import numpy as np
import pytest
import torch

from benchmarks import identity
from benchmarks.identity import Faces, Scores, scores, table
from core.errors import InputError


def test_table_has_percentiles_and_yaw_bins():
    strangers = np.linspace(0, 1, 101)
    found = Scores(strangers, np.array([0.9, 0.7, 0.5]), np.array([5.0, 10.0, 50.0]))
    row = table({"toy": found}).splitlines()[2]
    assert row == "| toy | 0.50 | 0.99 | 0.80 (0.72) |  |  | 0.50 (0.50) |  |"


def test_people_are_compared_with_their_most_frontal_view(monkeypatch):
    vectors = {"a": [1.0, 0], "b": [0, 1.0], "c": [1.0, 1.0]}

    def embed(faces):
        return torch.tensor([vectors[face] for face in faces])

    monkeypatch.setattr(identity, "recogniser", {"toy": embed}.get)
    people = [Faces(["c", "a"], np.array([40.0, 3.0])), Faces(["b", "b"], np.array([12.0, 70.0]))]
    found = scores(people, "toy")
    np.testing.assert_allclose(found.strangers, [0], atol=1e-6)
    np.testing.assert_allclose(found.same, [0.5**0.5, 1], atol=1e-6)
    assert found.yaws.tolist() == [40, 70]
    with pytest.raises(InputError, match="fewer than two people"):
        scores(people[:1], "toy")
