"""The command `diffportrait3d`, and links to the configurations and the model that are shipped with it."""
