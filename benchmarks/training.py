"""Short trainings for measurements."""

from collections.abc import Sequence

import pytorch_lightning as pl

from lightning_modules.training import read_config


def train(
    configs: Sequence[str], steps: int, callback: pl.Callback, flags: Sequence[str] = ()
) -> dict[str, float]:
    """Train with configurations and `flags` of `fit` (later ones override earlier ones) and one callback,
    without writing files; returns the last logged values."""
    cli = read_config([*(f"--config={config}" for config in configs), "--trainer.logger=false", *flags])
    trainer = pl.Trainer(
        max_steps=steps,
        callbacks=[callback],
        precision=cli.trainer.precision,
        log_every_n_steps=max(steps // 2, 1),
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(cli.model, cli.datamodule)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
