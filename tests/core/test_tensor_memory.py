import torch

from core.tensor_memory import TensorMemory


def test_live_tensors_are_counted_and_earlier_ones_are_not():
    weight = torch.zeros(1000, requires_grad=True)
    with TensorMemory() as memory:
        doubled = weight * 2
        shifted = doubled + 1
        del doubled
        assert (memory.now, memory.peak) == (4000, 8000)
        turned = shifted.view(10, 100).t().add_(1)
        assert memory.now == 4000
        del shifted, turned
        assert memory.now == 0


def test_backward_pass_is_counted():
    weight = torch.zeros(1000, requires_grad=True)
    with TensorMemory() as memory:
        weight.exp().sum().backward()
        assert memory.now == weight.grad.nbytes
    assert memory.peak >= 8000  # the exponential, kept for the gradient, and the gradient
