"""A person in an environment as a Mitsuba scene, path-traced from EG3D cameras."""

from collections.abc import Iterable, Mapping

import mitsuba as mi
import numpy as np
from numpy.typing import ArrayLike, NDArray

from generators.base import Renders
from generators.parametric.anatomy import Array, Mesh, anatomy
from generators.parametric.appearance import canvas, paint_eye, paint_skin
from generators.parametric.environment import Environment, background
from generators.parametric.hair import cover, grow
from generators.parametric.person import Person
from generators.parametric.surfaces import dressed_body, eyeball, skin_mesh, strand_shades, submesh
from portraits.cameras import split_label

mi.set_variant("scalar_rgb")

TEXTURE_SIDE = {64: 320, 128: 512}  # texels by image side; larger images get LARGE_TEXTURE
LARGE_TEXTURE = 1024


class HeadScene:
    """One instant: a person with an expression in an environment. Building it takes as long as a few
    renders."""

    def __init__(
        self,
        person: Person,
        actions: dict[str, float],
        environment: Environment,
        hair_seed: int,
        size: int,
        samples: int,
    ) -> None:
        """`size` is the side of images, `samples` the number of light paths per pixel."""
        self.environment = environment
        self.size = size
        self.samples = samples
        body = anatomy()
        vertices = body.vertices(person.shape, actions)
        canonical = body.canonical(person.shape)
        scale, rotation, translation = canonical
        placed = scale * vertices @ rotation.T + translation
        texture = next((t for side, t in TEXTURE_SIDE.items() if size <= side), LARGE_TEXTURE)
        shapes: dict[str, object] = {"skin": _skin(placed, person, texture), **_body(placed, person)}
        shapes["tongue"] = _shape(submesh(placed, body.parts["tongue"]), _plastic((0.30, 0.09, 0.08), 0.35))
        for side in ("left", "right"):
            shapes[f"{side}_eye"] = _eye(placed, side, person)
        hair = grow(person.hair, vertices, canonical, np.random.default_rng(hair_seed))
        if hair is not None:
            shapes["hair"] = _hair_shape(
                hair, np.asarray(person.look.hair), np.random.default_rng(hair_seed + 1)
            )
        self.scene = mi.load_dict({"type": "scene", **shapes, **_lights(environment)})
        self.integrator = mi.load_dict({"type": "path", "max_depth": 3, "rr_depth": 2, "hide_emitters": True})

    def render(self, labels: ArrayLike, seed: int = 0) -> Renders:
        """Render views at EG3D labels (K, 25)."""
        images, masks = [], []
        for index, label in enumerate(np.atleast_2d(labels)):
            sensor = _sensor(label, self.size, self.samples)
            film = np.asarray(
                mi.render(
                    self.scene,
                    sensor=sensor,
                    integrator=self.integrator,
                    seed=mi.UInt32(seed + index),
                    spp=self.samples,
                )
            )
            alpha = np.clip(film[..., 3:4], 0, 1)
            linear = film[..., :3] + (1 - alpha) * background(self.environment, label, self.size)
            images.append(develop(linear * self.environment.exposure))
            masks.append(np.round(alpha[..., 0] * 255).astype(np.uint8))
        return Renders(np.stack(images), np.stack(masks))


def develop(linear: Array) -> NDArray[np.uint8]:
    """Convert linear light to sRGB with a soft shoulder, as cameras compress highlights."""
    shouldered = linear * (1 + linear / 9.0) / (1 + linear * 0.8)
    encoded = np.where(
        shouldered <= 0.0031308, 12.92 * shouldered, 1.055 * np.maximum(shouldered, 1e-8) ** (1 / 2.4) - 0.055
    )
    return np.round(np.clip(encoded, 0, 1) * 255).astype(np.uint8)


def _sensor(label: Array, size: int, samples: int) -> mi.Sensor:
    pose, intrinsics = split_label(label)
    # Mitsuba's camera axes are x left and y up; EG3D's x right and y down.
    to_world = mi.ScalarTransform4f((pose @ np.diag([-1.0, -1.0, 1.0, 1.0])).tolist())
    return mi.load_dict(
        {
            "type": "perspective",
            "to_world": to_world,
            "fov": float(np.degrees(2 * np.arctan(0.5 / intrinsics[0, 0]))),
            "principal_point_offset_x": float(intrinsics[0, 2] - 0.5),
            "principal_point_offset_y": float(intrinsics[1, 2] - 0.5),
            "near_clip": 0.05,
            "film": {
                "type": "hdrfilm",
                "width": size,
                "height": size,
                "pixel_format": "rgba",
                "component_format": "float32",
                "rfilter": {"type": "box"},
            },
            "sampler": {"type": "multijitter", "sample_count": samples},
        }
    )


def _lights(environment: Environment) -> dict[str, object]:
    # Mitsuba's map starts at -z and has the opposite orientation: mirror the image and rotate it by half.
    bitmap = mi.Bitmap(np.ascontiguousarray(environment.image[:, ::-1]))
    to_world = mi.ScalarTransform4f().rotate([0, 1, 0], 180.0)
    return {"environment": {"type": "envmap", "bitmap": bitmap, "to_world": to_world}}


def _plastic(
    colour: Mapping[str, object] | Iterable[float], roughness: float, specular: float = 0.45
) -> dict[str, object]:
    reflectance = (
        colour if isinstance(colour, Mapping) else {"type": "rgb", "value": [float(c) for c in colour]}
    )
    return {
        "type": "twosided",
        "bsdf": {
            "type": "principled",
            "base_color": reflectance,
            "roughness": roughness,
            "specular": specular,
        },
    }


def _texture(image: NDArray[np.float32]) -> dict[str, object]:
    return {"type": "bitmap", "bitmap": mi.Bitmap(image), "raw": True, "wrap_mode": "clamp"}


def _shape(
    mesh: Mesh, bsdf: dict[str, object], uv: Array | None = None, colours: Array | None = None
) -> mi.Mesh:
    properties = mi.Properties()
    properties["bsdf"] = mi.load_dict(bsdf)
    shape = mi.Mesh(
        "mesh",
        len(mesh.vertices),
        len(mesh.faces),
        has_vertex_normals=True,
        has_vertex_texcoords=uv is not None,
        props=properties,
    )
    if colours is not None:
        shape.add_attribute("vertex_color", 3, colours.astype(np.float32).ravel().tolist())
    parameters = mi.traverse(shape)
    parameters["vertex_positions"] = mesh.vertices.astype(np.float32).ravel()
    parameters["vertex_normals"] = mesh.normals.astype(np.float32).ravel()
    parameters["faces"] = mesh.faces.astype(np.uint32).ravel()
    if uv is not None:
        parameters["vertex_texcoords"] = uv.astype(np.float32).ravel()
    parameters.update()
    return shape


def _skin(placed: Array, person: Person, texture_side: int) -> mi.Mesh:
    mesh, uv = skin_mesh(placed)
    painted = paint_skin(person.look, cover(canvas(texture_side).positions, person.hair), texture_side)
    return _shape(mesh, _plastic(_texture(painted), 0.48, 0.35), uv=uv)


def _body(placed: Array, person: Person) -> dict[str, mi.Mesh]:
    """The body below the head's UV island: bare above the neckline, clothed below."""
    cloth, neck = dressed_body(placed, person)
    return {
        "chest": _shape(cloth, _plastic(person.cloth, 0.85, 0.2)),
        "neck": _shape(neck, _plastic(person.look.skin, 0.48, 0.35)),
    }


def _eye(placed: Array, side: str, person: Person) -> mi.Mesh:
    mesh, uv = eyeball(placed, side)
    return _shape(mesh, _plastic(_texture(paint_eye(person.look)), 0.12, 0.6), uv=uv)


def _hair_shape(hair: Mesh, tone: Array, rng: np.random.Generator) -> mi.Mesh:
    colours = np.clip(tone * strand_shades(hair, rng)[:, None], 0, 0.9)
    return _shape(
        hair, _plastic({"type": "mesh_attribute", "name": "vertex_color"}, 0.5, 0.25), colours=colours
    )
