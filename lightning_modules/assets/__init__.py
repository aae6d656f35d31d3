"""Generated views as 3D assets: scenes for other tools, meshes, and 3D Gaussians."""
