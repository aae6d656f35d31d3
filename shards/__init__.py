"""What a sample is, where samples come from, and how they are packed into WebDataset shards."""
