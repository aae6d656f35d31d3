"""The command `diffportrait3d`, with links to the shipped configurations and model."""
