"""A person in an environment with baked light, rendered from EG3D cameras by ray casting.

Shape letters: K views, S image side, O rays along a pixel's side, P ray hits.
"""

import mitsuba as mi
import numpy as np
from numpy.typing import ArrayLike, NDArray

from generators.base import Renders
from generators.parametric.anatomy import Array, Indices
from generators.parametric.environment import Environment, background
from generators.parametric.light import BOUNCE, Reflections, bake, cast, median_cut
from generators.parametric.person import Person
from generators.parametric.scene import LARGE_TEXTURE, TEXTURE_SIDE, develop
from generators.parametric.surfaces import Body, person_surfaces
from portraits.cameras import label_from_angles, split_label

FILTER_SIGMA = 0.45  # pixels
MOST_RAYS = 4  # along a pixel's side
PILOT_SEEDS = 1 << 20, 1 << 21  # seeds for measuring noise, far from those of images
HEAD_CENTRE = np.array([0.0, 0.0, 0.0])


class LitScene:
    """One instant: a person with an expression in an environment.

    Shadows and diffuse light are baked once; each view casts rays and adds highlights. The only randomness is
    the position of rays within pixels.
    """

    def __init__(
        self,
        person: Person,
        actions: dict[str, float],
        environment: Environment,
        hair_seed: int,
        size: int,
        rays: int = 3,
    ) -> None:
        """`size` is the side of images; each pixel has `rays` squared rays; `cast_for` changes them."""
        self.environment, self.size = environment, size
        texture = next((t for side, t in TEXTURE_SIDE.items() if size <= side), LARGE_TEXTURE)
        self.body = Body(person_surfaces(person, actions, hair_seed, texture))
        self.scene = _scene(self.body)
        body = self.body
        self.baked = bake(
            self.scene, body.vertices, body.normals, body.wrap, median_cut(environment), HEAD_CENTRE
        )
        self.reflections = Reflections(environment, {s.gloss.roughness for s in body.surfaces})
        mean = self.baked.irradiance.mean(0)
        self.diffuse = self.baked.irradiance + BOUNCE * (1 - self.baked.openness) * body.colours * mean
        self._set_rays(rays)

    def cast_for(self, noise: float) -> None:
        """Choose the fewest rays per pixel, up to `MOST_RAYS` squared, with which two renders of the frontal
        view with other seeds have a PSNR of `noise` dB or more.

        It is measured with one ray; the error falls at least with the square root of the number of rays."""
        self._set_rays(1)
        found = self._agreement(label_from_angles(0.0, 0.0))
        enough = (r for r in range(1, MOST_RAYS) if found + 20 * np.log10(r) >= noise)
        self._set_rays(next(enough, MOST_RAYS))

    def _set_rays(self, rays: int) -> None:
        self.rays, self.filter = rays, _filter(self.size, rays)

    def _agreement(self, label: Array) -> float:
        """The PSNR in dB of two renders of one view with other seeds."""
        one, other = (self.render(label, seed).images.astype(np.float64) for seed in PILOT_SEEDS)
        error = np.square((one - other) / 255).mean()
        return float(-10 * np.log10(max(error, 1e-12)))

    def render(self, labels: ArrayLike, seed: int = 0) -> Renders:
        """Render views at EG3D labels (K, 25)."""
        images, masks = [], []
        for index, label in enumerate(np.atleast_2d(labels)):
            radiance, hit = self._radiance(label, seed + index)
            alpha = np.clip(self._filtered(hit[..., None].astype(np.float32)), 0, 1)
            linear = self._filtered(radiance) + (1 - alpha) * background(self.environment, label, self.size)
            images.append(develop(linear * self.environment.exposure))
            masks.append(np.round(alpha[..., 0] * 255).astype(np.uint8))
        return Renders(np.stack(images), np.stack(masks))

    def _radiance(self, label: Array, seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Linear RGB (S*O, S*O, 3) of the person, and a mask (S*O, S*O) of ray hits."""
        side = self.size * self.rays
        found = cast(self.scene, perspective(label), side, "dd:depth,pp:position,ii:prim_index", seed)
        hit = found[..., 0] > 0
        points, faces = found[hit][:, 1:4], found[hit][:, 4].astype(int)
        radiance = np.zeros((side, side, 3), np.float32)
        pose, _ = split_label(label)
        radiance[hit] = self._shade(points, faces, pose[:3, 3])
        return radiance, hit

    def _shade(self, points: Array, faces: Indices, eye: Array) -> NDArray[np.float32]:
        """Linear RGB (P, 3) of points (P, 3) on triangles `faces` (P,), seen from `eye` (3,)."""
        body = self.body
        weights = body.barycentric(faces, points)
        colour = body.albedo(faces, weights) * body.interpolate(self.diffuse, faces, weights)
        normal = _unit(body.interpolate(body.normals, faces, weights))
        to_eye = _unit(eye - points)
        cosine = (normal * to_eye).sum(1, keepdims=True)
        mirrored = 2 * cosine * normal - to_eye
        grazing = (1 - np.clip(cosine, 0, 1)) ** 5
        openness = body.interpolate(self.baked.openness, faces, weights)
        owners = body.owner[body.faces[faces, 0]]
        for number, surface in enumerate(body.surfaces):
            here, gloss = owners == number, surface.gloss
            if here.any():
                base = gloss.reflectance
                edge = max(1 - gloss.roughness, base) * (1 - gloss.roughness)
                fresnel = base + (max(edge, base) - base) * grazing[here]
                seen = self.reflections.along(mirrored[here], gloss.roughness)
                colour[here] += fresnel * openness[here] ** 1.5 * seen
        return colour.astype(np.float32)

    def _filtered(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.einsum("ij,jkc,lk->ilc", self.filter, image, self.filter, optimize=True)


def perspective(label: Array) -> dict[str, object]:
    """Mitsuba's camera for a label (25,), without film and sampler."""
    pose, intrinsics = split_label(label)
    return {
        "type": "perspective",
        # Mitsuba's camera axes are x left and y up; EG3D's x right and y down.
        "to_world": mi.ScalarTransform4f((pose @ np.diag([-1.0, -1.0, 1.0, 1.0])).tolist()),
        "fov": float(np.degrees(2 * np.arctan(0.5 / intrinsics[0, 0]))),
        "principal_point_offset_x": float(intrinsics[0, 2] - 0.5),
        "principal_point_offset_y": float(intrinsics[1, 2] - 0.5),
        "near_clip": 0.05,
    }


def _scene(body: Body) -> mi.Scene:
    mesh = mi.Mesh("person", len(body.vertices), len(body.faces))
    parameters = mi.traverse(mesh)
    parameters["vertex_positions"] = body.vertices.ravel()
    parameters["faces"] = body.faces.astype(np.uint32).ravel()
    parameters.update()
    return mi.load_dict({"type": "scene", "person": mesh})


def _filter(size: int, rays: int) -> NDArray[np.float32]:
    """Weights (S, S*O) of a Gaussian pixel filter along one side."""
    centres, at = np.arange(size) + 0.5, (np.arange(size * rays) + 0.5) / rays
    weights = np.exp(-0.5 * ((at - centres[:, None]) / FILTER_SIGMA) ** 2)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _unit(vectors: Array) -> Array:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
