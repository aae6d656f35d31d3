"""A LightningModule for each stage, and the commands."""
