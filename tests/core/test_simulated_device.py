import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core.simulated_device import autocast, simulated_device
from core.tensor_memory import TensorMemory, tensor_bytes

GPU = "cuda:0"


@pytest.fixture
def layer():
    """A linear layer on a simulated GPU."""
    with simulated_device():
        with torch.device(GPU):
            made = nn.Linear(64, 64)
        yield made


def test_cpu_tensors_have_values_and_gpu_tensors_do_not(layer):
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(3, generator=draw)
    assert noise.tolist() == torch.randn(3, generator=torch.Generator().manual_seed(0)).tolist()
    out = layer(torch.randn(2, 64).to(GPU))
    assert out.device.type == "cuda"
    assert out.cpu().tolist() == [[0.0] * 64] * 2
    with pytest.raises(Exception, match="_local_scalar_dense"):
        out.sum().item()


def test_device_and_dtype_mismatches_raise(layer):
    with pytest.raises(RuntimeError, match="same device"):
        layer(torch.randn(2, 64))
    with pytest.raises(RuntimeError, match="bfloat16 and torch"):
        layer(torch.randn(2, 64).to(GPU, torch.bfloat16))


def test_autocast_follows_cuda_rules(layer):
    with autocast(GPU, torch.bfloat16):
        hidden = layer(torch.randn(2, 64).to(GPU))
        assert hidden.dtype == torch.bfloat16
        assert F.layer_norm(hidden, (64,)).dtype == torch.float32  # not so on a CPU
    assert layer(torch.randn(2, 64).to(GPU)).dtype == torch.float32


def test_attention_memory_is_linear_in_tokens():
    for dtype in (torch.float32, torch.bfloat16):
        with simulated_device(), TensorMemory("cuda") as memory:
            queries = torch.empty(1, 8, 4096, 40, device=GPU, dtype=dtype)
            F.scaled_dot_product_attention(queries, queries, queries)
        assert memory.peak < 4 * queries.nbytes < 8 * 4096**2 * queries.element_size()


def test_device_without_float64_raises():
    with simulated_device(float64=False):
        torch.zeros(3, dtype=torch.float64).to(GPU, torch.float32)
        with pytest.raises(RuntimeError, match="float64"):
            torch.zeros(3, dtype=torch.float64).to(GPU)


def test_tensor_bytes_counts_each_storage_once():
    values = torch.zeros(1000)
    assert tensor_bytes([values, values[:10], torch.zeros(10)]) == 4040
    with simulated_device():
        assert tensor_bytes([torch.zeros(10, device=GPU), values], "cuda") == 40
