"""Shared by every room: errors, whole files and folders, safe reading of untrusted files, seeding."""
