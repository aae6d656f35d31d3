"""Inversion baselines (A.4): a portrait fitted by a 3D GAN, and its views."""
