"""The architecture of a generator, read from names and shapes of its tensors, and its rendering settings."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, Self

from core.errors import InputError
from core.schema import STRICT, check_values
from portraits.cameras import LABEL_SIZE, PIVOT, RADIUS

Shapes = Mapping[str, tuple[int, ...]]
Kind = Literal["eg3d", "panohead"]
Activation = Literal["sigmoid", "lrelu", "none"]

PLANES = 3
# A buffer of some published super-resolution modules that no layer uses.
UNREAD = ("superresolution.resample_filter",)


MAX_SIDE = 4096  # largest side of images and renderings, in pixels
MAX_DEPTHS = 4096  # largest number of coarse or fine depths of a ray
MAX_LENGTH = 1e4  # largest value of near, far, box and radius


@dataclass(frozen=True)
class Settings:
    """Rendering settings of a generator, which its checkpoint holds besides the tensors.

    Lengths are in the units of EG3D labels. Raises InputError on values out of range.
    """

    __pydantic_config__: ClassVar = STRICT

    kind: Kind
    near: float = 2.25
    """Depth at which rays start."""
    far: float = 3.3
    """Depth at which rays end."""
    coarse: int = 48
    """Number of stratified samples along a ray."""
    fine: int = 48
    """Number of importance samples along a ray, placed where the stratified ones found density."""
    box: float = 1.0
    """Side of the cube that the feature planes span."""
    crop: float = 0.0
    """Space within this distance of the cube's left, right, front and back faces, and outside them, is empty
    (PanoHead: 0.1); 0 for no crop."""
    rendering: int = 64
    """Side of the rendered feature image."""
    decoder_activation: Activation = "sigmoid"
    decoder_rate: float = 1.0
    """Learning rate multiplier of the decoder's layers, which scales their weights."""
    label_scale: float = 1.0
    """The conditioning camera is multiplied by this; 0 for a generator without camera conditioning."""
    white_background: bool = False
    superresolution_side: int = 128
    """Input side of the super-resolution; renderings of other sides are resized to it."""
    superresolution_noise: bool = False
    antialias: bool = True
    only_enlarge: bool = False
    """Renderings larger than `superresolution_side` are not resized."""
    clamps: dict[str, float] = field(default_factory=dict)
    """Limit of activations by block (`superresolution.block0`); other blocks have none."""
    radius: float = RADIUS
    """Distance of the generator's own cameras from the origin."""
    pivot: tuple[float, float, float] = PIVOT
    """Point that the generator's own cameras look at."""

    def __post_init__(self) -> None:
        in_range = {
            "near": 0 < self.near < self.far,
            "far": self.far <= MAX_LENGTH,
            "coarse": 3 < self.coarse <= MAX_DEPTHS,
            "fine": 0 <= self.fine <= MAX_DEPTHS,
            "box": 0 < self.box <= MAX_LENGTH,
            "crop": 0 <= self.crop < self.box / 2,
            "rendering": 0 < self.rendering <= MAX_SIDE,
            "decoder_rate": 0 < self.decoder_rate < math.inf,
            "superresolution_side": 0 < self.superresolution_side <= MAX_SIDE,
            "clamps": all(clamp > 0 for clamp in self.clamps.values()),
            "radius": 0 < self.radius <= MAX_LENGTH,
        }
        wrong = [f"{name} {str(getattr(self, name))[:20]}" for name, sound in in_range.items() if not sound]
        if wrong:
            raise InputError(f"rendering settings out of range: {', '.join(wrong)}")

    @classmethod
    def of(cls, kind: Kind) -> Self:
        """The settings of the published training of this kind."""
        if kind == "eg3d":
            return cls(kind)
        return cls(kind, crop=0.1, decoder_activation="none", pivot=(0.0, 0.0, 0.0))

    def to_json(self) -> dict[str, Any]:
        """The settings as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> Self:
        """Parse settings from a JSON object. Raises InputError, naming `where`, for settings that are
        unknown, missing, of another type or out of range."""
        missing = {entry.name for entry in fields(cls)} - set(values)
        if missing:
            raise InputError(f"{where}: rendering settings without {', '.join(sorted(missing))}")
        return check_values(cls, values, where)


@dataclass(frozen=True)
class SuperResolutionBlock:
    """Channels in and out, and the side of the image it outputs."""

    inputs: int
    outputs: int
    resolution: int


@dataclass(frozen=True)
class Architecture:
    """Widths and depths of a generator; channels of synthesis networks by resolution."""

    latent: int
    label: int
    mapping: tuple[int, ...]
    backbone: dict[int, int]
    plane_channels: int
    decoder: tuple[int, int, int]
    """Features of a point, hidden units, colour features."""
    superresolution: tuple[SuperResolutionBlock, SuperResolutionBlock]
    raw_image: bool
    """Whether a layer maps the features to the raw image; otherwise it is their first three channels."""
    background: dict[int, int] | None
    background_channels: int
    shift: tuple[int, ...] | None
    """PanoHead's mapping network for camera shifts."""

    @property
    def style(self) -> int:
        """Size of a style vector w."""
        return self.mapping[-1]

    @property
    def depth(self) -> int:
        """Depth of a feature plane: 1, or 3 for PanoHead's tri-grid."""
        return self.plane_channels // (PLANES * self.decoder[0])

    @property
    def size(self) -> int:
        """Side of the final image in pixels."""
        return self.superresolution[1].resolution

    @classmethod
    def read(cls, shapes: Shapes, where: str) -> Self:
        """Infer the architecture from the tensors' names and shapes. Raises InputError, naming `where`, if
        they are not those of such a generator."""
        try:
            read = cls._read(shapes)
        except KeyError as error:
            raise InputError(
                f"{where}: neither EG3D nor PanoHead: it has no tensor {error.args[0]}"
            ) from None
        except (IndexError, ValueError, ZeroDivisionError) as error:
            raise InputError(f"{where}: neither EG3D nor PanoHead: misshapen tensors ({error})") from None
        sides = [block.resolution for block in read.superresolution]
        if not 0 < sides[0] <= sides[1] <= MAX_SIDE:
            raise InputError(f"{where}: its super-resolution makes images of {sides} pixels")
        if read.latent < 1 or read.label not in (0, LABEL_SIZE):
            raise InputError(
                f"{where}: latents of {read.latent} and cameras of {read.label} numbers; cameras have "
                f"{LABEL_SIZE} or, without conditioning, 0"
            )
        return read

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
    """PanoHead if there is a tensor that only PanoHead has, otherwise EG3D."""
    own = ("t_mapping.fc0.weight", "bcg_synthesis.b4.const", "torgb.weight")
    return "panohead" if any(name in shapes for name in own) else "eg3d"


def _synthesis(shapes: Shapes, prefix: str) -> tuple[dict[int, int], int]:
    """Channels by resolution and channels of the image, for the synthesis network at `prefix`. Raises
    ValueError unless its resolutions are 4, 8, 16 and so on."""
    pattern = re.compile(rf"{re.escape(prefix)}\.b(\d+)\.conv1\.weight")
    found = {int(match[1]): shape[0] for name, shape in shapes.items() if (match := pattern.fullmatch(name))}
    channels = dict(sorted(found.items()))
    if any(side != 4 << place for place, side in enumerate(channels)) or max(channels, default=0) > MAX_SIDE:
        raise ValueError(f"{prefix} has the resolutions {list(channels)[:12]}")
    return channels, shapes[f"{prefix}.b{next(iter(channels), 4)}.torgb.weight"][0]


def _mapping(shapes: Shapes, prefix: str) -> tuple[int, ...]:
    """Output widths of the layers of the mapping network at `prefix`."""
    widths = [shapes[f"{prefix}.fc0.weight"][0]]
    while (name := f"{prefix}.fc{len(widths)}.weight") in shapes:
        widths.append(shapes[name][0])
    return tuple(widths)


def _block(shapes: Shapes, name: str) -> SuperResolutionBlock:
    outputs, inputs = shapes[f"superresolution.{name}.conv0.weight"][:2]
    return SuperResolutionBlock(inputs, outputs, shapes[f"superresolution.{name}.conv1.noise_const"][0])
