"""The schema of samples, the sources of samples, and packing into WebDataset shards."""
