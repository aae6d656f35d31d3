"""S's 3D reconstruction of a head from portraits: its surface, and its views. K views, S image side."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from core.model_folders import load_model
from generators.isosurface import Surface, extract_surface
from lightning_modules.networks.noise_prior import Canonical, NoisePrior
from portraits.pixels import to_pixels

VIEWS_AT_ONCE = 8


@dataclass(frozen=True)
class Head:
    """A noise prior S, and its feature volume of one person (`canonical`)."""

    prior: NoisePrior
    canonical: Canonical

    @classmethod
    @torch.no_grad()
    def of(cls, portraits: list[Image.Image], folder: Path) -> Self:
        """Encode a person's portraits (S, S) with the noise prior in `folder`. Raises InputError if the
        folder is damaged, or the portraits have another size than the prior's."""
        prior = load_model(NoisePrior, folder).float()
        pixels = to_pixels(np.stack([np.asarray(image) for image in portraits]))
        return cls(prior, prior.encode(pixels[None]))

    def surface(self, level: float, resolution: int) -> Surface:
        """The surface on which the density is `level`; see `extract_surface`."""
        return extract_surface(
            lambda points: self.prior.density(self.canonical, points)[0],
            self.prior.config.extent,
            level,
            resolution,
        )

    @torch.no_grad()
    def views(self, cameras: NDArray[np.float32]) -> Tensor:
        """S's own views (K, 3, S, S) in [-1, 1] at cameras (K, 25)."""
        parts = torch.from_numpy(cameras)[None].split(VIEWS_AT_ONCE, dim=1)
        return torch.cat([self.prior.render(self.canonical, part)[0] for part in parts])
