import pytest
import torch

from core.errors import InputError
from lightning_modules.demo import check_out, people


def test_only_its_own_folder_is_replaced(tmp_path):
    check_out(tmp_path / "new", overwrite=False)
    with pytest.raises(InputError, match="exists already"):
        check_out(tmp_path, overwrite=False)
    with pytest.raises(InputError, match="was not made by this command"):
        check_out(tmp_path, overwrite=True)
    (tmp_path / "table.json").write_text("{}")
    check_out(tmp_path, overwrite=True)


def test_people_stand_side_by_side():
    views = torch.rand(4, 2, 3, 16, 16) * 2 - 1
    labels = torch.tensor([[1.0] * 25]).repeat(4, 2, 1).reshape(4, 2, 25)
    batch = {"reference": views[:, :1], "condition": views, "target": views, "camera": labels}
    three = people(batch, views, views)
    one = people({name: x[:1] for name, x in batch.items()}, views[:1], views[:1])
    assert three.size == (3 * one.width, one.height)
