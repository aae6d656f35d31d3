"""TriPlaneNet v2 (Bhattarai et al., WACV 2024): encodes a portrait as EG3D's feature planes with two
encoders."""
