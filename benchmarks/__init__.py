"""Benchmarks of speed and memory against straightforward implementations: `make benchmark`."""
