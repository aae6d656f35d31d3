"""Comparison with golden outputs."""

from torch import Tensor

TOLERANCE = 1e-4


def largest_error(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference, relative to the largest absolute value of `theirs`."""
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def assert_close(pairs: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Assert that each of our tensors has a `largest_error` below 1e-4 against the golden of its name."""
    errors = {name: largest_error(ours, theirs[name]) for name, ours in pairs.items()}
    assert not {name: error for name, error in errors.items() if not error < TOLERANCE}, errors
