"""Killing commands at random times: `python -m tests.soak`, or `make soak`."""
