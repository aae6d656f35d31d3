"""TriPlaneNet v2 (Bhattarai et al., WACV 2024): a portrait to EG3D's feature planes by two encoders."""
