"""Reading trained parts from damaged checkpoints."""

import pytest
import torch

from core.errors import InputError
from lightning_modules.parts import read_checkpoint
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
