"""Kills at random instants: `python -m tests.soak`, or `make soak`."""
