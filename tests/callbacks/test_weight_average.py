import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from callbacks.weight_average import WeightAverage
from core.errors import InputError
from core.simulated_device import simulated_device


class HalfFrozen(pl.LightningModule):
    """A module with one trained and one frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = nn.Parameter(torch.zeros(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.history: list[torch.Tensor] = []
        self.validated_with: list[torch.Tensor] = []

    def training_step(self, batch, batch_idx):
        return ((self.trained * self.frozen - batch) ** 2).mean()

    def on_train_batch_end(self, *_):
        self.history.append(self.trained.detach().clone())

    def validation_step(self, batch, batch_idx):
        self.validated_with.append(self.trained.detach().clone())

    def configure_optimizers(self):
        return torch.optim.SGD([self.trained], 0.5)


def loader():
    return DataLoader(torch.arange(8.0).view(8, 1), batch_size=1)


def trainer(folder, **options):
    defaults = {
        "accelerator": "cpu",
        "max_steps": 6,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
        "enable_checkpointing": False,
    }
    return pl.Trainer(**{**defaults, **options})


def test_average_matches_the_recursion(tmp_path):
    average, module = WeightAverage(0.7), HalfFrozen()
    trainer(tmp_path, callbacks=[average]).fit(module, loader())
    expected = torch.zeros(2)
    for n, weights in enumerate(module.history, 1):
        decay = min(0.7, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * weights
    assert set(average.average) == {"trained"}
    torch.testing.assert_close(average.average["trained"], expected)


def test_one_update_per_optimiser_step(tmp_path):
    average = WeightAverage(0.7)
    trainer(tmp_path, callbacks=[average], max_steps=3, accumulate_grad_batches=2).fit(HalfFrozen(), loader())
    assert average.updates == 3


def test_every_n_steps_compensates_the_decay(tmp_path):
    average, module = WeightAverage(0.7, every_n_steps=3), HalfFrozen()
    trainer(tmp_path, callbacks=[average], max_steps=8).fit(module, loader())
    expected = torch.zeros(2)
    for step in (3, 6):
        decay = min(0.7, (1 + step) / (10 + step)) ** 3
        expected = decay * expected + (1 - decay) * module.history[step - 1]
    assert average.updates == 6
    torch.testing.assert_close(average.average["trained"], expected)


def test_average_of_gpu_weights_is_kept_on_the_cpu():
    average = WeightAverage(device="cpu")
    with simulated_device():
        with torch.device("cuda:0"):
            module = torch.nn.Linear(3, 3)
        average.on_fit_start(None, module)
        with average.averaged(module):
            assert {x.device.type for x in average._trained.values()} == {"cpu"}
            assert module.weight.device.type == "cuda"
    assert {x.device.type for x in average.average.values()} == {"cpu"}


def test_validation_uses_the_average_and_training_does_not(tmp_path):
    average, module, plain = WeightAverage(0.9), HalfFrozen(), HalfFrozen()
    trainer(tmp_path, callbacks=[average], val_check_interval=6).fit(module, loader(), loader())
    trainer(tmp_path).fit(plain, loader())
    assert torch.equal(module.validated_with[0], average.average["trained"])
    assert not torch.equal(module.trained, average.average["trained"])
    assert torch.equal(module.trained, plain.trained)


def test_interrupted_validation_saves_the_trained_weights(tmp_path):
    class Failing(HalfFrozen):
        def validation_step(self, batch, batch_idx):
            raise RuntimeError("in the midst of validation")

    module = Failing()
    callbacks = [WeightAverage(0.9), ModelCheckpoint(tmp_path, save_last=True, save_on_exception=True)]
    with pytest.raises(RuntimeError, match="in the midst"):
        trainer(tmp_path, callbacks=callbacks, val_check_interval=4, enable_checkpointing=True).fit(
            module, loader(), loader()
        )
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert torch.equal(checkpoint["state_dict"]["trained"], module.history[-1])
    (state,) = [s for name, s in checkpoint["callbacks"].items() if name.startswith("WeightAverage")]
    assert state["updates"] == 4
    assert torch.equal(state["average"]["trained"], callbacks[0].average["trained"])


def test_average_of_another_module_is_refused(tmp_path):
    average = WeightAverage()
    average.load_state_dict({"average": {"other": torch.zeros(2)}, "updates": 3})
    with pytest.raises(InputError, match="other, trained"):
        trainer(tmp_path, callbacks=[average]).fit(HalfFrozen(), loader())


def test_settings_out_of_range_are_input_errors():
    with pytest.raises(InputError, match="every_n_steps is 0"):
        WeightAverage(every_n_steps=0)
    with pytest.raises(InputError, match=r"\[0, 1\)"):
        WeightAverage(1.0)
