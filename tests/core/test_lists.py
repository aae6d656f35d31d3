"""Shortened lists for messages, and evenly spaced picks."""

from core.lists import shortened, spread


def test_shortened_counts_the_rest():
    assert shortened([]) == ""
    assert shortened(["a", "b"], shown=2) == "a, b"
    assert shortened(["a", "b", "c", "d"], shown=2, separator="; ") == "a; b and 2 more"


def test_spread_is_even():
    assert spread(10, 5) == [0, 2, 4, 6, 8]
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 5) == [0, 1, 2]
    assert spread(3, 0) == spread(0, 3) == []
    assert spread(10, 4, ends=True) == [0, 3, 6, 9]
    assert spread(9, 4, ends=True) == [0, 3, 5, 8]
    assert spread(3, 5, ends=True) == [0, 1, 2]
    assert spread(9, 1, ends=True) == [0]
    assert spread(0, 3, ends=True) == []
