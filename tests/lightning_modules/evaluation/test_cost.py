"""What a block costs, by the device that it runs on."""

from unittest.mock import Mock

import pytest
import torch

from lightning_modules.evaluation.cost import measured


def test_cpu_cost_is_the_processes_peak():
    with measured("cpu") as cost:
        held = torch.ones(20_000_000)
    assert cost.seconds > 0
    assert cost.peak_bytes > held.nbytes


@pytest.mark.parametrize("device", ["cuda:1", "mps"])
def test_gpu_cost_waits_for_the_gpu(device, monkeypatch):
    """The functions of torch.cuda and torch.mps stand in for a GPU."""
    gpu = Mock()
    gpu.max_memory_allocated.return_value = gpu.driver_allocated_memory.return_value = 7
    monkeypatch.setattr(torch, device.partition(":")[0], gpu)
    with measured(device) as cost:
        before = gpu.synchronize.call_count
    assert (before, gpu.synchronize.call_count) == (1, 2)
    assert cost.peak_bytes == 7
    if device == "cuda:1":
        gpu.synchronize.assert_called_with(device)
        gpu.reset_peak_memory_stats.assert_called_once_with(device)
    else:
        gpu.empty_cache.assert_called_once_with()
