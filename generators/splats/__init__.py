"""3D Gaussians (Kerbl et al. 2023) fitted to views with known cameras: rendering, fitting, files."""
