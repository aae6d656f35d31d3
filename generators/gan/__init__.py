"""The 3D GANs that render R(v, z): StyleGAN2 layers, feature planes, and the folder a generator lives in."""
