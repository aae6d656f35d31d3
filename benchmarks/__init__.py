"""What things cost, measured against the straightforward way: `make benchmark`."""
