"""Zero-1-to-3 (Liu et al., ICCV 2023): a view-conditioned latent diffusion model of single objects."""
