"""Feature extractors of FID and KID: networks that map an image to one vector."""

import io
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import InputError
from metrics.base import unit_range
from metrics.catalogue import INCEPTION, LITE, published
from metrics.perceptual_loss import LITE_MEAN, LITE_STD, efficientnet_lite0
from portraits.pixels import pixels_to_levels

LITE_SIDE = 224


class InceptionFeatures(nn.Module):
    """Inception's 2048 pooled features with the original TensorFlow weights and resizing, which define FID
    (Heusel et al. 2017); torch-fidelity's network."""

    def __init__(self) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError:
            raise InputError(f"metric weights {INCEPTION}: pip install -e '.[metrics]'") from None
        # torch-fidelity would unpickle the file: pass it tensors that were read safely instead
        file = io.BytesIO()
        torch.save(published(INCEPTION).tensors(), file)
        file.seek(0)
        self.network = FeatureExtractorInceptionV3(INCEPTION, ["2048"], feature_extractor_weights_path=file)

    def train(self, mode: bool = True) -> "InceptionFeatures":
        """Always stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features (N, 2048) of images (N, 3, S, S) in [-1, 1], which are quantised to 8 bits first."""
        return self.network(pixels_to_levels(images))[0]


class LiteFeatures(nn.Module):
    """EfficientNet-Lite0's 1280 pooled features of images at 224×224."""

    def __init__(self) -> None:
        super().__init__()
        self.network = efficientnet_lite0()
        self.register_buffer("mean", torch.tensor(LITE_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(LITE_STD).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "LiteFeatures":
        """Always stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features (N, 1280) of images (N, 3, S, S) in [-1, 1]."""
        resized = F.interpolate(unit_range(images), (LITE_SIDE, LITE_SIDE), mode="bicubic", antialias=True)
        return self.network.extract_features((resized.clamp(0, 1) - self.mean) / self.std).mean((2, 3))


EXTRACTORS: dict[str, Callable[[], nn.Module]] = {INCEPTION: InceptionFeatures, LITE: LiteFeatures}


def extractor(weights: str) -> nn.Module:
    """The frozen network with these weights. Raises InputError for an unknown name."""
    if weights not in EXTRACTORS:
        raise InputError(f"FID and KID take the weights {', '.join(EXTRACTORS)}, not {weights!r}")
    return EXTRACTORS[weights]().eval().requires_grad_(False)
