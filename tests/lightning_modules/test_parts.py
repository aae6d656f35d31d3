"""Reading trained parts from damaged checkpoints."""

import itertools

import pytest
import torch

from core.errors import InputError
from lightning_modules.parts import check_checkpoint, read_checkpoint
from tests.fuzz.weight_files import make_checkpoint

TRIED = 5


def test_flipped_weight_bit_is_found_by_checksum(tmp_path):
    make_checkpoint(tmp_path)
    path = tmp_path / "last.ckpt"
    whole = path.read_bytes()
    read_checkpoint(path)
    weights = list(torch.load(path, weights_only=True)["state_dict"].values())
    for number, tensor in enumerate(weights[:: len(weights) // TRIED]):
        content = tensor.numpy().tobytes()
        data = bytearray(whole)
        data[whole.index(content) + number % len(content)] ^= 1 << number
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"is damaged: the checksum of .* differs"):
            read_checkpoint(path)


def test_any_damage_of_the_archives_records_is_an_input_error(tmp_path):
    """torch reads archives whose records zipfile refuses."""
    torch.save({"state_dict": {"a": torch.arange(6.0)}}, tmp_path / "last.ckpt")
    good = (tmp_path / "last.ckpt").read_bytes()
    records = [*range(60), *range(good.index(b"PK\1\2"), len(good))]
    for number, (place, bit) in enumerate(itertools.product(records, (0, 2, 5))):
        data = bytearray(good)
        data[place] ^= 1 << bit
        path = tmp_path / f"{number}.ckpt"
        path.write_bytes(data)
        with pytest.raises(InputError, match=str(path)):
            check_checkpoint(path)
        path.unlink()
