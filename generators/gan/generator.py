"""The generator shared by EG3D and PanoHead: styles, feature planes, volume rendering, super-resolution.

`identity` computes the camera-independent part once for each identity; `views` renders one camera at a time,
so that memory does not grow with their number.

Shape letters: N identities, V views of each, W styles, Z size of a style, s and S sides of the rendered and
of the final image, C channels, P rays, K depths.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from generators.gan.architecture import Architecture, Settings, SuperResolutionBlock
from generators.gan.layers import Block, ToImage
from generators.gan.networks import (
    Backbone,
    Decoder,
    MappingNetwork,
    SuperResolution,
    SynthesisNetwork,
    resized,
    widen,
)
from generators.volume import RaySampling, Rendered, rays, render

CHUNK = 4096  # rays of an identity rendered at a time
TRANSLATION = (3, 7, 11)  # indices of the camera's position in a label
DISTANCE_TOLERANCE = 1e-3  # ignored difference between a camera's distance and the radius


@dataclass(frozen=True)
class Identity:
    """The camera-independent part of N identities: feature planes (N, 3, C, …), style (N, Z) of the layers
    after rendering, and background features (N, C, s, s) if the generator has a background network."""

    planes: Tensor
    style: Tensor
    background: Tensor | None


@dataclass(frozen=True)
class Rendering:
    """How views are rendered.

    Args:
        resolution: side of the rendered feature image; the checkpoint's by default
        sampling: depths of each ray; the checkpoint's by default
        seed: seed of the jitter of depths, which is the same for every view; None for no jitter
        follow: shift the range of depths by the camera's distance, instead of keeping the checkpoint's
    """

    resolution: int | None = None
    sampling: RaySampling | None = None
    seed: int | None = None
    follow: bool = False


AS_TRAINED = Rendering()


@dataclass(frozen=True)
class Views:
    """image (N, V, 3, S, S) and raw (N, V, 3, s, s) in about [-1, 1]; depth (N, V, 1, s, s) along the ray;
    mask (N, V, 1, s, s), the opacity of the ray in about [0, 1]."""

    image: Tensor
    raw: Tensor
    depth: Tensor
    mask: Tensor


class Generator(nn.Module):
    """Base class of EG3D and PanoHead, which implement `look_up`.

    `precision`, set by `tune`, is that of the convolutions; latents, rays and results are float32.
    """

    def __init__(self, architecture: Architecture, settings: Settings) -> None:
        super().__init__()
        self.architecture, self.settings = architecture, settings
        self.precision = torch.float32
        style, clamps = architecture.style, settings.clamps
        synthesis = SynthesisNetwork(
            architecture.backbone, architecture.plane_channels, style, _within(clamps, "backbone.synthesis")
        )
        mapping = MappingNetwork(
            architecture.latent, architecture.label, architecture.mapping, synthesis.styles
        )
        self.backbone = Backbone(mapping, synthesis)
        self.decoder = Decoder(
            *architecture.decoder, rate=settings.decoder_rate, activation=settings.decoder_activation
        )
        self.superresolution = _superresolution(architecture.superresolution, style, settings)
        features = architecture.decoder[2]
        self.torgb = ToImage(features, 3, style, clamps.get("torgb")) if architecture.raw_image else None
        self.bcg_synthesis = None
        if architecture.background is not None:
            self.bcg_synthesis = SynthesisNetwork(
                architecture.background,
                architecture.background_channels,
                style,
                _within(clamps, "bcg_synthesis"),
            )
        self.t_mapping = None
        if architecture.shift is not None:
            self.t_mapping = MappingNetwork(
                architecture.latent, architecture.label, architecture.shift, 1, rate=1.0, linear_end=True
            )

    def tune(self, precision: torch.dtype = torch.float32, compile: bool = False) -> Self:
        """Set, in place, the precision of convolutions (float32 or bfloat16) and whether convolutions and
        decoder are compiled.

        Images of a compiled generator differ from eager ones by less than 1e-5 (relative norm), those in
        bfloat16 by less than 5e-2. At full width, compilation takes minutes on the first call and for each
        new shape; on a CPU it needs a C++ compiler. Deep copies are not compiled. Names in the state dict do
        not change.
        """
        self.precision = precision
        if compile:
            for part in (self.backbone.synthesis, self.bcg_synthesis, self.decoder, self.superresolution):
                if part is not None:
                    part.compile(dynamic=False)
        return self

    def styles(
        self, z: Tensor, conditioning: Tensor, truncation: float = 1.0, cutoff: int | None = None
    ) -> Tensor:
        """Styles (N, W, Z) of latents z (N, latent) at conditioning cameras (N, 25).

        `truncation` interpolates between the average style (0) and the latent's own (1); with `cutoff`, only
        for the first `cutoff` of the W styles."""
        label = conditioning * self.settings.label_scale
        return self.backbone.mapping(z, label, truncation, cutoff)

    def shifted(self, labels: Tensor, z: Tensor, conditioning: Tensor, truncation: float = 1.0) -> Tensor:
        """Labels (N, 25) with the camera shift that PanoHead predicts during training, which its sampling
        does not use. Unchanged for other generators."""
        if self.t_mapping is None:
            return labels
        label = conditioning * self.settings.label_scale
        shift = self.t_mapping(z, label, truncation).squeeze(1)
        moved = labels.clone()
        moved[:, TRANSLATION] += shift
        return moved

    def identity(self, ws: Tensor, noise: bool = True) -> Identity:
        """Compute identities from styles (N, W, Z); `noise` adds the backbone's constant noise."""
        channels, depth = self.architecture.decoder[0], self.architecture.depth
        background = None
        with self._convolving(ws):
            flat = self.backbone.synthesis(ws, noise)
            if self.bcg_synthesis is not None:
                background = self.bcg_synthesis(self._background_ws(ws), noise).to(ws.dtype)
        planes = flat.to(ws.dtype).unflatten(1, (3, channels * depth))
        return Identity(planes, ws[:, -1], background)

    def views(self, identity: Identity, labels: Tensor, how: Rendering = AS_TRAINED) -> Views:
        """Render views of identities at labels (N, V, 25)."""
        parts = list(self.each_view(identity, labels, how))
        names = ("image", "raw", "depth", "mask")
        return Views(*(torch.cat([getattr(part, name) for part in parts], dim=1) for name in names))

    def each_view(self, identity: Identity, labels: Tensor, how: Rendering = AS_TRAINED) -> Iterator[Views]:
        """Like `views`, one view at a time (V = 1)."""
        for camera in labels.unbind(1):
            raw, features, rendered = self.raw_view(identity, camera, how)
            noise = self.settings.superresolution_noise
            with self._convolving(raw):
                image = self.superresolution(raw, features, identity.style, noise).to(raw.dtype)
            yield _one_view(image, raw, rendered)

    def each_raw_view(
        self, identity: Identity, labels: Tensor, how: Rendering = AS_TRAINED
    ) -> Iterator[Views]:
        """Like `each_view`, without super-resolution: `image` is the raw image."""
        for camera in labels.unbind(1):
            raw, _, rendered = self.raw_view(identity, camera, how)
            yield _one_view(raw, raw, rendered)

    def raw_view(
        self, identity: Identity, camera: Tensor, how: Rendering = AS_TRAINED
    ) -> tuple[Tensor, Tensor, Rendered]:
        """The input of the super-resolution at labels (N, 25): raw image (N, 3, s, s), features (N, C, s, s),
        and the result of volume rendering, with P = s²."""
        resolution = how.resolution or self.settings.rendering
        near, far = self._range(camera, how.follow)
        rendered = render(
            lambda points, _: self.field(identity.planes, points),
            rays(camera, resolution),
            near,
            far,
            how.sampling or self.sampling,
            None if how.seed is None else torch.Generator().manual_seed(how.seed),
        )
        features = self._composed(rendered, identity.background, resolution)
        raw = features[:, :3] if self.torgb is None else self.torgb(features, identity.style)
        return raw, features, rendered

    def field(self, planes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Colour features (N, P, K, C) and raw densities (N, P, K) at world points (N, P, K, 3)."""
        return self.decoder(self.look_up(planes, points * (2 / self.settings.box)))

    def look_up(self, planes: Tensor, points: Tensor) -> Tensor:
        """The mean over planes (N, P, K, C) of the features at points (N, P, K, 3), which are in [-1, 1]
        inside the cube."""
        raise NotImplementedError

    @property
    def sampling(self) -> RaySampling:
        """The checkpoint's numbers of depths, with chunks of rays that bound memory."""
        return RaySampling(self.settings.coarse, self.settings.fine, CHUNK)

    def _range(self, camera: Tensor, follow: bool) -> tuple[float | Tensor, float | Tensor]:
        near, far = self.settings.near, self.settings.far
        offset = camera[:, TRANSLATION].norm(dim=1) - self.settings.radius
        if not follow or bool((offset.abs() < DISTANCE_TOLERANCE).all()):
            return near, far
        shift = offset.view(-1, 1, 1)
        return (near + shift).clamp_min(DISTANCE_TOLERANCE), far + shift

    def _convolving(self, x: Tensor) -> torch.autocast:
        """A context in which convolutions run in `precision` on the device of `x`."""
        lower = self.precision != torch.float32
        return torch.autocast(x.device.type, self.precision if lower else torch.bfloat16, enabled=lower)

    def _composed(self, rendered: Rendered, background: Tensor | None, resolution: int) -> Tensor:
        """The feature image (N, C, s, s): the rendered features composited over the background."""
        features, transparency = rendered.features, 1 - rendered.alpha.unsqueeze(-1)
        if self.settings.white_background:
            features = features + transparency
        if self.settings.decoder_activation == "sigmoid":
            features = features * 2 - 1
        if background is not None:
            resized_background = resized(background, resolution, self.settings.antialias)
            features = features + transparency * resized_background.flatten(2).transpose(1, 2)
        return features.transpose(1, 2).unflatten(2, (resolution, resolution))

    def _background_ws(self, ws: Tensor) -> Tensor:
        """The styles of the background network: the last one is repeated if `ws` has too few."""
        assert self.bcg_synthesis is not None
        missing = self.bcg_synthesis.styles - ws.shape[1]
        return ws if missing <= 0 else torch.cat([ws, ws[:, -1:].expand(-1, missing, -1)], dim=1)


def _one_view(image: Tensor, raw: Tensor, rendered: Rendered) -> Views:
    side = (raw.shape[-1], raw.shape[-1])
    depth, alpha = (x.unflatten(1, side)[:, None, None] for x in (rendered.depth, rendered.alpha))
    return Views(image.unsqueeze(1), raw.unsqueeze(1), depth, widen(alpha))


def _within(clamps: dict[str, float], network: str) -> dict[int, float]:
    """The clamps of a synthesis network's blocks, by resolution."""
    start = f"{network}.b"
    return {int(name.removeprefix(start)): x for name, x in clamps.items() if name.startswith(start)}


def _superresolution(
    blocks: tuple[SuperResolutionBlock, SuperResolutionBlock], style: int, settings: Settings
) -> SuperResolution:
    sides = (settings.superresolution_side, blocks[0].resolution)
    first, second = (
        Block(
            block.inputs,
            block.outputs,
            style,
            block.resolution,
            3,
            up=block.resolution == 2 * side,
            clamp=settings.clamps.get(f"superresolution.block{index}"),
        )
        for index, (block, side) in enumerate(zip(blocks, sides, strict=True))
    )
    return SuperResolution(first, second, sides[0], settings.antialias, settings.only_enlarge)
