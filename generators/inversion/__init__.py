"""The inversion baselines: a portrait into a 3D GAN, and the views that come out (A.4)."""
