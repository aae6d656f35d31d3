import pytest
import torch

from benchmarks.generators import build, ways


@pytest.mark.parametrize("kind", ["eg3d", "panohead"])
@torch.inference_mode()
def test_shared_and_independent_rendering_agree(kind):
    generator = build(kind, "reduced", "cpu")
    shared, independent = (run() for run in ways(generator, 2).values())
    assert shared.shape == (1, 2, 3, 128, 128)
    torch.testing.assert_close(shared, independent, rtol=1e-4, atol=1e-4)
