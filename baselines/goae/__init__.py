"""GOAE (Yuan et al., ICCV 2023): a portrait to EG3D's styles, and a correction of its features."""
