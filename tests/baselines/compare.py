"""Comparison with the goldens."""

from torch import Tensor

TOLERANCE = 1e-4


def largest_error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest value."""
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def assert_close(pairs: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Each of our tensors equals the golden of its name within 1e-4 of the largest value."""
    errors = {name: largest_error(ours, theirs[name]) for name, ours in pairs.items()}
    assert not {name: error for name, error in errors.items() if not error < TOLERANCE}, errors
