"""Fuzzing of every kind of untrusted file: `python -m tests.fuzz`, or `make fuzz`."""
