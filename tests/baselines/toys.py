"""The real baseline classes at toy width with the recipe's weights, their folders, and requests.

TriPlaneNet and GOAE generate 128×128 images from 64×64 planes, Zero-1-to-3 generates 64×64 images.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from baselines.base import Request
from baselines.folders import Card, save_baseline
from baselines.goae.correction import CorrectionSize, FeatureCorrection
from baselines.goae.encoder import EncoderSize, StyleEncoder
from baselines.goae.swin import SwinSize
from baselines.goae.system import Networks as GOAENetworks
from baselines.goae.system import build_networks
from baselines.layers import BATCHES_SEEN
from baselines.triplanenet.encoders import TriPlaneEncoders, Widths
from baselines.triplanenet.system import build_encoders
from baselines.zero123.folder import save_networks, with_buffers
from baselines.zero123.networks import CCProjection, Networks, image_encoder_of
from generators.gan.architecture import SuperResolutionBlock
from generators.gan.eg3d import EG3D
from generators.gan.folder import build_generator
from generators.gan.generator import Generator
from portraits.cameras import label_from_angles
from tests.generators.toy_generators import FEATURES, toy_architecture, toy_settings
from tests.parity.recipe import baseline_weights, gan_weights, weights

STYLE = 8
SIDE = 128
PLANES = 64
SIZES = {"zero123": 64, "triplanenet": SIDE, "goae": SIDE}
LATENT = 8  # the side of Zero-1-to-3's latents


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    names = network.state_dict().items()
    return {name: tuple(x.shape) for name, x in names if not name.endswith(BATCHES_SEEN)}


def toy_eg3d() -> Generator:
    """EG3D with 64×64 planes, rendered at 32×32."""
    architecture = replace(
        toy_architecture("eg3d"),
        backbone={4: 8, 8: 8, 16: 6, 32: 8, 64: 6},
        superresolution=(SuperResolutionBlock(FEATURES, 8, 64), SuperResolutionBlock(8, 4, SIDE)),
    )
    settings = toy_settings("eg3d", rendering=32, superresolution_side=32)
    with torch.device("meta"):
        network = EG3D(architecture, settings)
    return build_generator(gan_weights(shapes_of(network)), settings, "toy")


def toy_encoders(pixel_shuffle: bool = False) -> dict[str, Tensor]:
    """The tensors of TriPlaneNet's encoders for `toy_eg3d`."""
    heads = (2,) * 3 + (3,) * 4 + (4,) * 3
    widths = Widths(
        (8, 8, 12, STYLE), (8, 8, 12, 16), STYLE, heads, (12, 8, 8, 8), 3 * FEATURES, pixel_shuffle
    )
    with torch.device("meta"):
        network = TriPlaneEncoders(widths)
    return baseline_weights(shapes_of(network))


def toy_goae() -> dict[str, Tensor]:
    """The tensors of GOAE's networks for `toy_eg3d`."""
    size = EncoderSize(SwinSize(8, (2, 2, 2, 2), (1, 2, 2, 4)), 4, STYLE, (3, 3, 3))
    with torch.device("meta"):
        networks = GOAENetworks(StyleEncoder(size), FeatureCorrection(CorrectionSize((4, 6, 8), 8)))
    return baseline_weights(shapes_of(networks))


def toy_zero123() -> Networks:
    """Zero-1-to-3 with few channels."""
    channels = (32, 64, 64, 64)
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=LATENT,
            in_channels=8,
            block_out_channels=channels,
            attention_head_dim=4,
            cross_attention_dim=16,
        )
        vae = AutoencoderKL(
            block_out_channels=(32, 32, 32, 32),
            layers_per_block=1,
            latent_channels=4,
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            scaling_factor=0.18215,
        )
        projection = CCProjection(20, 16)
    encoder = image_encoder_of(
        {
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "image_size": 28,
            "patch_size": 14,
            "projection_dim": 16,
            "hidden_act": "quick_gelu",
        }
    )
    with_buffers(encoder, weights(shapes_of(encoder)), "toy")
    for part in (unet, vae, projection):
        part.load_state_dict(weights(shapes_of(part)), assign=True)
    return Networks(unet.eval(), vae.eval(), encoder.eval(), projection.eval())


def write_folder(kind: str, folder: Path) -> Path:
    """The folder of a baseline at toy width."""
    card = Card(kind, ("toy",), "none")
    if kind == "zero123":
        folder.mkdir(parents=True)
        save_networks(toy_zero123(), folder, card)
        return folder
    generator = toy_eg3d()
    build = build_encoders if kind == "triplanenet" else build_networks
    networks = build(toy_encoders() if kind == "triplanenet" else toy_goae(), generator, "toy")
    save_baseline(folder, card, networks.state_dict(), generator, "toy")
    return folder


def toy_request(views: int = 2, side: int = SIDE, **changes: object) -> Request:
    """A portrait of noise with a mask, and `views` cameras from left to right."""
    rng = np.random.default_rng(0)
    portrait = rng.integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    mask = np.zeros((1, side, side), np.uint8)
    mask[:, side // 4 : -side // 8, side // 4 : -side // 4] = 255
    yaws = np.linspace(-0.4, 0.4, views)
    values = {
        "name": "somebody",
        "portraits": portrait,
        "portrait_cameras": label_from_angles(0.2, 0.1)[None],
        "cameras": np.stack([label_from_angles(yaw, 0.0) for yaw in yaws]),
        "masks": mask,
    }
    return Request(**{**values, **changes})
