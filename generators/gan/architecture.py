"""What a generator is built of, read from the names and shapes of its tensors, and how it renders."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

from core.errors import InputError
from portraits.cameras import PIVOT, RADIUS

Shapes = Mapping[str, tuple[int, ...]]
Kind = Literal["eg3d", "panohead"]
Activation = Literal["sigmoid", "lrelu", "none"]

PLANES = 3
# A buffer that some of the published super-resolution modules have and none reads.
UNREAD = ("superresolution.resample_filter",)


@dataclass(frozen=True)
class Settings:
    """How a generator renders: what its checkpoint says beside the tensors.

    Depths, `box` (the side of the cube that the planes span), `crop`, `radius` and `pivot` are in the units
    of EG3D labels. Raises InputError on values that cannot be.
    """

    kind: Kind
    near: float = 2.25
    far: float = 3.3
    coarse: int = 48
    """Stratified depths of a ray."""
    fine: int = 48
    """Importance depths of a ray."""
    box: float = 1.0
    crop: float = 0.0
    """Space this close to the cube's left, right, front and back faces, and outside, is empty (PanoHead:
    0.1); 0 crops nothing."""
    rendering: int = 64
    """Side of the rendered feature image."""
    decoder_activation: Activation = "sigmoid"
    decoder_rate: float = 1.0
    label_scale: float = 1.0
    """The conditioning camera is multiplied by this; 0 is a generator that knows none."""
    white_background: bool = False
    superresolution_side: int = 128
    superresolution_noise: bool = False
    antialias: bool = True
    only_enlarge: bool = False
    """Renderings larger than `superresolution_side` are not resized."""
    clamps: dict[str, float] = field(default_factory=dict)
    """The limit of activations by block (`superresolution.block0`); blocks without one have none."""
    radius: float = RADIUS
    pivot: tuple[float, float, float] = PIVOT
    """Where the generator's own sampling cameras look."""

    def __post_init__(self) -> None:
        sound = 0 < self.near < self.far and self.coarse > 3 and self.fine >= 0 and self.box > 0
        sound &= min(self.rendering, self.superresolution_side) > 0 and 0 <= self.crop < self.box / 2
        if not sound or self.kind not in ("eg3d", "panohead"):
            raise InputError(f"a generator cannot render with these settings: {asdict(self)}")

    @classmethod
    def of(cls, kind: Kind) -> Self:
        """What the published training of this kind has where a checkpoint does not say."""
        if kind == "eg3d":
            return cls(kind)
        return cls(kind, crop=0.1, decoder_activation="none", pivot=(0.0, 0.0, 0.0))

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> Self:
        """The way back from `to_json`. Raises InputError, naming `where`, on anything unknown or missing."""
        names = {entry.name for entry in fields(cls)}
        if names != set(values):
            odd = ", ".join(sorted(names ^ set(values)))
            raise InputError(f"{where}: its settings are not a generator's: missing or unexpected {odd}")
        try:
            return cls(**{**values, "pivot": tuple(values["pivot"])})
        except TypeError as error:
            raise InputError(f"{where}: its settings are not a generator's: {error}") from error


@dataclass(frozen=True)
class SuperResolutionBlock:
    """Channels in and out, and the side of the image it makes."""

    inputs: int
    outputs: int
    resolution: int


@dataclass(frozen=True)
class Architecture:
    """Widths and depths of a generator. Channels of synthesis networks are by resolution."""

    latent: int
    label: int
    mapping: tuple[int, ...]
    backbone: dict[int, int]
    plane_channels: int
    decoder: tuple[int, int, int]
    """Features of a point, hidden units, colour features."""
    superresolution: tuple[SuperResolutionBlock, SuperResolutionBlock]
    raw_image: bool
    """A layer makes the raw image of the features; otherwise it is their first three."""
    background: dict[int, int] | None
    background_channels: int
    shift: tuple[int, ...] | None
    """PanoHead's mapping network for camera shifts."""

    @property
    def style(self) -> int:
        """Numbers of a style w."""
        return self.mapping[-1]

    @property
    def depth(self) -> int:
        """Layers of a feature plane (PanoHead's tri-grid: 3)."""
        return self.plane_channels // (PLANES * self.decoder[0])

    @property
    def size(self) -> int:
        """Side of the final image."""
        return self.superresolution[1].resolution

    @classmethod
    def read(cls, shapes: Shapes, where: str) -> Self:
        """The architecture of tensors of these names and shapes. Raises InputError, naming `where`, where
        they are no such generator's."""
        try:
            return cls._read(shapes)
        except KeyError as error:
            raise InputError(
                f"{where}: neither EG3D nor PanoHead: it has no tensor {error.args[0]}"
            ) from None

    @classmethod
    def _read(cls, shapes: Shapes) -> Self:
        backbone, planes = _synthesis(shapes, "backbone.synthesis")
        mapping = _mapping(shapes, "backbone.mapping")
        label = shapes.get("backbone.mapping.embed.weight", (0, 0))
        hidden, features = shapes["decoder.net.0.weight"]
        has_background = "bcg_synthesis.b4.const" in shapes
        background, background_channels = _synthesis(shapes, "bcg_synthesis") if has_background else (None, 0)
        if planes % (PLANES * features):
            raise KeyError(f"backbone.synthesis.b4.torgb.weight of a multiple of {PLANES * features} outputs")
        return cls(
            latent=shapes["backbone.mapping.fc0.weight"][1] - label[0],
            label=label[1],
            mapping=mapping,
            backbone=backbone,
            plane_channels=planes,
            decoder=(features, hidden, shapes["decoder.net.2.weight"][0] - 1),
            superresolution=(_block(shapes, "block0"), _block(shapes, "block1")),
            raw_image="torgb.weight" in shapes,
            background=background,
            background_channels=background_channels,
            shift=_mapping(shapes, "t_mapping") if "t_mapping.fc0.weight" in shapes else None,
        )


def kind_of(shapes: Shapes) -> Kind:
    """PanoHead by what only it has, EG3D otherwise."""
    own = ("t_mapping.fc0.weight", "bcg_synthesis.b4.const", "torgb.weight")
    return "panohead" if any(name in shapes for name in own) else "eg3d"


def _synthesis(shapes: Shapes, prefix: str) -> tuple[dict[int, int], int]:
    """Channels by resolution, and of the image, of the network at `prefix`."""
    pattern = re.compile(rf"{re.escape(prefix)}\.b(\d+)\.conv1\.weight")
    found = {int(match[1]): shape[0] for name, shape in shapes.items() if (match := pattern.fullmatch(name))}
    channels = dict(sorted(found.items()))
    return channels, shapes[f"{prefix}.b{next(iter(channels), 4)}.torgb.weight"][0]


def _mapping(shapes: Shapes, prefix: str) -> tuple[int, ...]:
    """Outputs of the layers of the mapping network at `prefix`."""
    widths = [shapes[f"{prefix}.fc0.weight"][0]]
    while (name := f"{prefix}.fc{len(widths)}.weight") in shapes:
        widths.append(shapes[name][0])
    return tuple(widths)


def _block(shapes: Shapes, name: str) -> SuperResolutionBlock:
    outputs, inputs = shapes[f"superresolution.{name}.conv0.weight"][:2]
    return SuperResolutionBlock(inputs, outputs, shapes[f"superresolution.{name}.conv1.noise_const"][0])
