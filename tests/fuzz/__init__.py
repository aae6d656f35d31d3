"""Fuzzing of every kind of file that comes from outside: `python -m tests.fuzz`, or `make fuzz`."""
