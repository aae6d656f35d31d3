"""S, the noise prior (3.4, A.1): from portraits to a volume in the head's frame, rendered to blurry proxies Ĩ
at any camera.

Shape letters: B people, R portraits of each, V views, S image side, s side of the volume rendering, C
features, D the volume's side, P rays of a view, K depths of a ray.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import InputError
from generators.volume import RaySampling, Rendered, around_origin, density, rays, render
from lightning_modules.networks.noise_prior_parts import (
    Grow,
    PortraitEncoder,
    ProxyDecoder,
    Surroundings,
    Volume,
    look_up,
)
from portraits.cameras import LABEL_SIZE

EMPTY = -10.0  # raw density outside the volume, i.e. empty space


@dataclass(frozen=True)
class Canonical:
    """S's representation of people: `volume` (B, C, D, D, D) in the head's frame, with axes z, y, x that
    range from -`extent` to `extent`; and `surroundings` (B, C, H, W), a latitude-longitude map."""

    volume: Tensor
    surroundings: Tensor


@dataclass(frozen=True)
class Proxies:
    """Ĩ: images (B, V, 3, S, S), about in [-1, 1] but unbounded; depth (B, V, s, s), the distance from the
    camera in world units; alpha (B, V, s, s) in [0, 1], the opacity of the head."""

    images: Tensor
    depth: Tensor
    alpha: Tensor


class NoisePrior(ModelMixin, ConfigMixin):
    """S: 2D encoder, lift, 3D U-Net with attention, volume rendering, 2D decoder.

    Args:
        image_size: S
        encoder_channels: widths of the 2D encoder, with the resolution halved in between
        code_channels: size of a portrait's global code, which modulates the 3D part
        lift_side: side at which 2D features are lifted to a volume
        volume_channels: widths of the volume at that side, and at half of it
        attention_heads: heads of the volume's attention
        grow_channels: widths after each doubling of the fused volume
        feature_channels: channels of the rendered volume
        field_channels: hidden width of the decoder at each point
        surroundings_channels, surroundings_doublings: width and doublings of the background's map
        rendering_size: s
        decoder_channels: widths of the 2D decoder, with the resolution doubled in between
        extent: half the side of the volume in world units
        coarse, fine: stratified and importance depths of a ray
        perceptual: the network of the perceptual loss in training, as metadata; None if unknown

    Raises InputError if the sizes are inconsistent.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 64,
        encoder_channels: tuple[int, ...] = (24, 48, 96, 128, 64),
        code_channels: int = 128,
        lift_side: int = 16,
        volume_channels: tuple[int, int] = (32, 64),
        attention_heads: int = 2,
        grow_channels: tuple[int, ...] = (16,),
        feature_channels: int = 12,
        field_channels: int = 32,
        surroundings_channels: int = 32,
        surroundings_doublings: int = 3,
        rendering_size: int = 32,
        decoder_channels: tuple[int, ...] = (32, 16),
        extent: float = 0.45,
        coarse: int = 8,
        fine: int = 8,
        perceptual: str | None = None,  # noqa: ARG002 (the config keeps it)
    ) -> None:
        super().__init__()
        widths = {image_size // 2**level: width for level, width in enumerate(encoder_channels)}
        if image_size % 2 ** (len(encoder_channels) - 1) or not {lift_side, lift_side // 2} <= widths.keys():
            raise InputError(
                f"noise prior: an encoder of {len(encoder_channels)} widths on images of {image_size} pixels "
                f"has features of sides {sorted(widths)}; lift_side {lift_side} takes that side and its half"
            )
        if rendering_size * 2 ** (len(decoder_channels) - 1) != image_size:
            raise InputError(
                f"noise prior: {len(decoder_channels)} decoder widths enlarge {rendering_size} pixels to "
                f"{rendering_size * 2 ** (len(decoder_channels) - 1)}, not to {image_size}"
            )
        if coarse < 3 or fine < 0:
            raise InputError(f"noise prior: coarse {coarse} and fine {fine}: give at least 3 and 0 depths")
        self.extent, self.sampling = extent, RaySampling(coarse, fine)
        pixels = widths[lift_side], widths[lift_side // 2]
        self.encoder = PortraitEncoder(image_size, tuple(encoder_channels), code_channels)
        self.volume = Volume(
            lift_side, pixels, (volume_channels[0], volume_channels[1]), code_channels, attention_heads
        )
        self.grow = Grow(volume_channels[0], tuple(grow_channels), feature_channels)
        self.surroundings = Surroundings(
            code_channels, surroundings_channels, surroundings_doublings, feature_channels
        )
        self.field = nn.Sequential(
            nn.Linear(feature_channels, field_channels),
            nn.SiLU(),
            nn.Linear(field_channels, feature_channels + 1),
        )
        self.decoder = ProxyDecoder(feature_channels + 1, tuple(decoder_channels))

    def encode(self, portraits: Tensor) -> Canonical:
        """Encode portraits (B, R, 3, S, S) in [-1, 1] in the head's frame, without their cameras.

        The R portraits of a person are fused by their mean, so that neither order nor repetition matters.
        Raises InputError for portraits of another shape.
        """
        side = self.config.image_size
        shape = tuple(portraits.shape)
        if portraits.ndim != 5 or portraits.shape[1] < 1 or portraits.shape[2:] != (3, side, side):
            raise InputError(f"noise prior: portraits have shape {shape}, not (B, R, 3, {side}, {side})")
        count = portraits.shape[1]
        pyramid, code = self.encoder(portraits.flatten(0, 1))
        lift_side = self.config.lift_side
        volume = self.volume(pyramid[lift_side], pyramid[lift_side // 2], code)
        return Canonical(
            self.grow(volume.unflatten(0, (-1, count)).mean(1)),
            self.surroundings(code.unflatten(0, (-1, count)).mean(1)),
        )

    def proxies(
        self,
        canonical: Canonical,
        cameras: Tensor,
        draws: Sequence[torch.Generator] | None = None,
        chunk: int = 0,
    ) -> Proxies:
        """Render Ĩ at EG3D cameras (B, V, 25), with depth and alpha, for training.

        With a generator for each of the B people, depths along rays are random; without, they are fixed.
        `chunk` rays of a view are rendered at a time (0: all), which only affects memory. Raises InputError
        for cameras of another shape.
        """
        people = len(canonical.volume)
        if cameras.ndim != 3 or cameras.shape[0] != people or cameras.shape[2] != LABEL_SIZE:
            raise InputError(
                f"noise prior: cameras have shape {tuple(cameras.shape)}, not "
                f"({people}, V, {LABEL_SIZE}), EG3D labels for each of {people} people"
            )
        views, side = cameras.shape[1], self.config.rendering_size
        seen, directions = self._march(canonical, cameras.flatten(0, 1).float(), draws, chunk)
        behind = look_up(
            canonical.surroundings.float(), directions.unflatten(0, (people, views)).flatten(1, 2)
        )
        behind = behind.unflatten(1, (views, side**2)).flatten(0, 1)
        alpha = seen.alpha.unsqueeze(-1)
        features = torch.cat([seen.features + (1 - alpha) * behind, alpha], dim=-1)
        features = features.transpose(1, 2).unflatten(2, (side, side)).to(self.dtype)
        shape = (people, views, side, side)
        return Proxies(
            self.decoder(features).unflatten(0, (people, views)),
            seen.depth.reshape(shape),
            seen.alpha.reshape(shape),
        )

    def _march(
        self, canonical: Canonical, cameras: Tensor, draws: Sequence[torch.Generator] | None, chunk: int
    ) -> tuple[Rendered, Tensor]:
        """Render the head without surroundings at cameras (B·V, 25); also returns the rays' directions (B·V,
        P, 3)."""
        people = len(canonical.volume)
        volume = canonical.volume.float()

        def field(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
            return self._at(volume, points.reshape(people, -1, 3), points.shape)

        cast = rays(cameras, self.config.rendering_size)
        sampling = replace(self.sampling, chunk=chunk)
        near, far = around_origin(cameras, self.extent)
        return render(field, cast, near, far, sampling, draws), cast.directions

    def _at(self, volume: Tensor, points: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Features and raw densities at points (B, M, 3) of each person, reshaped to `shape` (N, P, K, 3)."""
        grid = points / self.extent
        sampled = F.grid_sample(volume, grid[:, :, None, None], align_corners=False)
        values = self.field(sampled[..., 0, 0].transpose(1, 2).to(self.dtype)).float()
        inside = grid.detach().abs().amax(-1) < 1
        raw = torch.where(inside, values[..., -1], EMPTY)
        return values[..., :-1].reshape(*shape[:3], -1), raw.reshape(shape[:3])

    @torch.no_grad()
    def density(self, canonical: Canonical, points: Tensor) -> Tensor:
        """Densities (B, M) of the head at world points (M, 3), per unit of EG3D's world, as in volume
        rendering."""
        people = len(canonical.volume)
        every = points.expand(people, -1, -1)
        raw = self._at(canonical.volume.float(), every, torch.Size((people, 1, len(points))))[1]
        return density(raw[:, 0])

    def render(self, canonical: Canonical, cameras: Tensor, chunk: int = 0) -> Tensor:
        """Render Ĩ (B, V, 3, S, S) in [-1, 1] at EG3D cameras (B, V, 25); see `proxies`."""
        return self.proxies(canonical, cameras, chunk=chunk).images.float().clamp(-1, 1)

    def forward(self, portraits: Tensor, cameras: Tensor) -> Tensor:
        """Portraits (B, R, 3, S, S) in [-1, 1] and cameras (B, V, 25) to Ĩ (B, V, 3, S, S) in [-1, 1]."""
        return self.render(self.encode(portraits), cameras)
