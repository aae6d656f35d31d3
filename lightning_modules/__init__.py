"""One LightningModule a stage, and the commands."""
