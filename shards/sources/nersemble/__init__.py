"""The NeRSemble data set: its layouts on disk, calibration, videos and colours."""
