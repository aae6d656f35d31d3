"""People of the small capture in tests/data, a photo, and a way to publish weights made here."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from skimage.data import astronaut
from torch import Tensor, nn
from torch.nn import functional as F

from core.files import checksum
from datamodules import PortraitViewsDataModule, SourceConfig
from metrics.catalogue import CATALOGUE

CAPTURE = Path(__file__).parents[1] / "data/people"


class People(NamedTuple):
    """Eight people at eight cameras each: views (8, 8, 3, 64, 64) in [-1, 1], cameras (8, 8, 25)."""

    views: Tensor
    cameras: Tensor


@pytest.fixture(scope="session")
def people() -> People:
    """The validation split of the capture in the tests' data."""
    source = {"people": SourceConfig(str(CAPTURE))}
    data = PortraitViewsDataModule(source, 64, 8, num_workers=0, conditions=False)
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    return People(batch["target"], batch["camera"])


@pytest.fixture(scope="session")
def photo() -> Tensor:
    """A face (1, 3, 128, 128) in [-1, 1]."""
    face = torch.from_numpy(astronaut()[0:256, 96:352].copy()).permute(2, 0, 1)[None].float()
    return F.interpolate(face, (128, 128), mode="area").div(127.5).sub(1)


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, nn.Module], None]:
    """A function that installs a module's tensors as the published weights of a name."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def put(name: str, module: nn.Module) -> None:
        path = CATALOGUE[name].path
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(module.state_dict(), path)
        monkeypatch.setitem(CATALOGUE, name, dataclasses.replace(CATALOGUE[name], sha256=checksum(path)))

    return put


def distorted(images: Tensor, how: str, amount: float) -> Tensor:
    """Images (N, 3, S, S) after `blur` or `noise` of standard deviation `amount`, or a `shift` by `amount`
    pixels."""
    if how == "blur":
        reach = int(3 * amount) + 1
        window = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * amount**2))
        window = (window / window.sum()).expand(3, 1, 1, -1)
        padded = F.pad(images, (reach,) * 4, mode="replicate")
        return F.conv2d(F.conv2d(padded, window, groups=3), window.mT, groups=3)
    if how == "noise":
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        return (images + amount * noise).clamp(-1, 1)
    return images.roll(int(amount), -1)
