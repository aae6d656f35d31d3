"""Any photo → EG3D's crop of it and the camera that sees it so, from five facial landmarks alone; and, where
cameras are calibrated, the head's own frame and exact crops of every view."""
