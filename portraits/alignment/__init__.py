"""Alignment of photos: EG3D's crop and its camera from facial landmarks, and exact crops of calibrated
views."""
