"""GOAE (Yuan et al., ICCV 2023): encodes a portrait as EG3D's styles, and corrects EG3D's features."""
