import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader

from callbacks.optimizer_values import GRADIENT_NORM, LEARNING_RATE, OptimizerValues


class Slope(pl.LightningModule):
    """A loss whose gradient is (3, 4) in every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self.weights * torch.tensor([3.0, 4.0])).sum()

    def configure_optimizers(self) -> Optimizer:
        return SGD([{"params": [self.weights], "lr": 0.5}, {"params": [self.frozen], "lr": 0.1}])


@pytest.mark.parametrize("accumulated", [1, 2])
def test_rate_of_the_first_group_and_norm_before_clipping(tmp_path, accumulated):
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=2,
        accumulate_grad_batches=accumulated,
        gradient_clip_val=1.0,
        callbacks=[OptimizerValues()],
        log_every_n_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    module = Slope()
    trainer.fit(module, DataLoader(torch.zeros(8, 1)))
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert found == {LEARNING_RATE: 0.5, GRADIENT_NORM: pytest.approx(5.0)}
    # clipped to a norm of 1
    torch.testing.assert_close(module.weights.detach(), -2 * 0.5 * torch.tensor([0.6, 0.8]))
