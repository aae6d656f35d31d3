"""Inversion baselines (A.4): views of portraits that are inverted into a 3D GAN."""
