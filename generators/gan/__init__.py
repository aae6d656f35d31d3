"""EG3D and PanoHead: layers, networks, conversion of published checkpoints, and the renderer R(v, z)."""
