import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core.simulated_device import autocast, simulated_device
from core.tensor_memory import TensorMemory, tensor_bytes

CARD = "cuda:0"


@pytest.fixture
def layer():
    """A linear layer on a simulated card."""
    with simulated_device():
        with torch.device(CARD):
            made = nn.Linear(64, 64)
        yield made


def test_what_is_on_the_cpu_is_real_and_what_is_on_the_card_has_no_contents(layer):
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(3, generator=draw)
    assert noise.tolist() == torch.randn(3, generator=torch.Generator().manual_seed(0)).tolist()
    out = layer(torch.randn(2, 64).to(CARD))
    assert out.device.type == "cuda"
    assert out.cpu().tolist() == [[0.0] * 64] * 2
    with pytest.raises(Exception, match="_local_scalar_dense"):
        out.sum().item()


def test_another_device_or_dtype_ends_it(layer):
    with pytest.raises(RuntimeError, match="same device"):
        layer(torch.randn(2, 64))
    with pytest.raises(RuntimeError, match="bfloat16 and torch"):
        layer(torch.randn(2, 64).to(CARD, torch.bfloat16))


def test_autocast_is_the_card_s(layer):
    with autocast(CARD, torch.bfloat16):
        hidden = layer(torch.randn(2, 64).to(CARD))
        assert hidden.dtype == torch.bfloat16
        assert F.layer_norm(hidden, (64,)).dtype == torch.float32  # not so on a CPU
    assert layer(torch.randn(2, 64).to(CARD)).dtype == torch.float32


def test_attention_takes_no_matrix_of_all_pairs():
    for dtype in (torch.float32, torch.bfloat16):
        with simulated_device(), TensorMemory("cuda") as memory:
            queries = torch.empty(1, 8, 4096, 40, device=CARD, dtype=dtype)
            F.scaled_dot_product_attention(queries, queries, queries)
        assert memory.peak < 4 * queries.nbytes < 8 * 4096**2 * queries.element_size()


def test_a_device_without_float64():
    with simulated_device(float64=False):
        torch.zeros(3, dtype=torch.float64).to(CARD, torch.float32)
        with pytest.raises(RuntimeError, match="float64"):
            torch.zeros(3, dtype=torch.float64).to(CARD)


def test_storages_are_counted_once():
    values = torch.zeros(1000)
    assert tensor_bytes([values, values[:10], torch.zeros(10)]) == 4040
    with simulated_device():
        assert tensor_bytes([torch.zeros(10, device=CARD), values], "cuda") == 40
