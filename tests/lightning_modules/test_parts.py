"""Trained parts out of checkpoints: a flipped bit of a weight is found."""

import pytest
import torch

from core.errors import InputError
from tests.fuzz.weight_files import load_checkpoint, make_checkpoint


def test_a_flipped_bit_of_any_weight_in_a_checkpoint_is_found(tmp_path):
    make_checkpoint(tmp_path)
    path = tmp_path / "last.ckpt"
    whole = path.read_bytes()
    load_checkpoint(tmp_path)
    weights = torch.load(path, weights_only=True)["state_dict"]
    for number, tensor in enumerate(weights.values()):
        content = tensor.numpy().tobytes()
        data = bytearray(whole)
        data[whole.index(content) + number % len(content)] ^= 1 << number % 8
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"is damaged: the checksum of .* differs"):
            load_checkpoint(tmp_path)
