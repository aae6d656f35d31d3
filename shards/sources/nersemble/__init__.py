"""NeRSemble: sixteen cameras around a person, in each of the layouts that its releases have."""
