"""Where a fit of 3D Gaussians starts: on a surface, and on a distant sphere for what is behind the head.

Shape letters: K views, S image side, M points.
"""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from core.errors import InputError
from generators.isosurface import Surface, colours_from_views
from generators.splats.gaussians import Gaussians
from generators.volume import rays
from portraits.cameras import project
from portraits.pixels import Images

NEIGHBOURS = 3  # the spacing of points is the mean distance to this many neighbours
SIZE = 0.5  # standard deviation of a Gaussian on the surface, in spacings
OPACITY = 0.8
SPHERE = 8.0  # EG3D's units: radius of the sphere of surroundings, some three times the cameras' distance
SPHERE_GRID = 12  # pixels sampled along each side of an image
SPHERE_POINTS = 2600  # number of points on the whole sphere, 4° apart
SPHERE_SIZE, SPHERE_OPACITY = 0.8, 0.95  # standard deviation in spacings, and opacity: no gaps between them
SPHERE_REACH = 5.0  # spacings: Gaussians further from all pixels are left out
BLENDED = 6  # pixels whose mean, weighted by inverse distance, colours a Gaussian of the surroundings


def on_surface(
    surface: Surface, images: Images, labels: ArrayLike, count: int, draw: np.random.Generator
) -> Gaussians:
    """At most `count` Gaussians at random vertices of a surface, coloured by the views (K, S, S, 3) that see
    them."""
    colours = colours_from_views(surface, images, labels)
    chosen = draw.permutation(len(surface.vertices))[:count]
    points = surface.vertices[chosen]
    return _balls(points, SIZE * _spacings(points), colours[chosen] / 255, OPACITY)


def on_sphere(images: Images, labels: Tensor, surface: Surface) -> Gaussians:
    """Gaussians for the surroundings, on a sphere of radius `SPHERE` about the origin.

    They are spread evenly over the parts of the sphere that the views (K, S, S, 3) at labels (K, 25) show,
    and coloured by the pixels beside the head.

    Raises InputError for cameras outside the sphere.
    """
    points, colours = _seen_on_sphere(images, labels, surface)
    spacing = SPHERE * math.sqrt(4 * math.pi / SPHERE_POINTS)
    places = SPHERE * _even_directions(SPHERE_POINTS)
    count = min(BLENDED, len(points))
    distance, near = (x.reshape(len(places), count) for x in cKDTree(points).query(places, k=count))
    kept = distance[:, 0] < SPHERE_REACH * spacing
    weight = 1 / (distance[kept, :, None] + 0.1 * spacing)
    blended = (colours[near[kept]] * weight).sum(1) / weight.sum(1)
    size = np.full(int(kept.sum()), SPHERE_SIZE * spacing)
    return _balls(places[kept], size, blended, SPHERE_OPACITY)


def _seen_on_sphere(
    images: Images, labels: Tensor, surface: Surface
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points (M, 3) where the rays of sampled pixels meet the sphere, and the pixels' colours (M, 3); only of
    pixels beside the head, or of all if there are none."""
    cast = rays(labels.double(), SPHERE_GRID)
    along = (cast.origins * cast.directions).sum(-1)
    space = SPHERE**2 - cast.origins.square().sum(-1)
    if not bool((space > 0).all()):
        raise InputError(
            f"3D Gaussians: a camera is {SPHERE:g} units or more from the origin, outside the sphere of the "
            "surroundings: use nearer cameras"
        )
    distance = torch.sqrt(along.square() + space) - along
    points = (cast.origins + distance.unsqueeze(-1) * cast.directions).flatten(0, 1).numpy()
    at = ((np.arange(SPHERE_GRID) + 0.5) * images.shape[1] / SPHERE_GRID).astype(int)
    colours = images[:, at][:, :, at].reshape(-1, 3) / 255.0
    beside = ~np.concatenate([_covered(surface, label).ravel() for label in labels.numpy()])
    return (points[beside], colours[beside]) if beside.any() else (points, colours)


def _covered(surface: Surface, label: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which cells of an image at a label (25,) show a vertex of the surface, (rows, columns)."""
    x, y = project(surface.vertices, label).T
    return np.histogram2d(y, x, bins=SPHERE_GRID, range=((0, 1), (0, 1)))[0] > 0


def _even_directions(count: int) -> NDArray[np.float64]:
    """Unit vectors (count, 3), nearly evenly spread: a Fibonacci lattice."""
    place = np.arange(count) + 0.5
    height, turn = 1 - 2 * place / count, np.pi * (1 + math.sqrt(5)) * place
    ring = np.sqrt(1 - height**2)
    return np.stack([ring * np.cos(turn), height, ring * np.sin(turn)], -1)


def _spacings(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean distances (M,) of points (M, 3) to their neighbours."""
    near = cKDTree(points).query(points, k=min(NEIGHBOURS + 1, len(points)))[0].reshape(len(points), -1)
    return np.maximum(near[:, 1:].mean(1) if near.shape[1] > 1 else np.full(len(points), 0.01), 1e-4)


def _balls(
    points: NDArray[np.float64], sizes: NDArray[np.float64], colours: NDArray[np.float64], opacity: float
) -> Gaussians:
    """Round Gaussians at points (M, 3) with standard deviations (M,) and sRGB colours (M, 3) in [0, 1]."""
    count = len(points)
    return Gaussians(
        torch.from_numpy(points).float(),
        torch.from_numpy(np.log(sizes)).float().unsqueeze(1).repeat(1, 3),
        torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
        torch.full((count,), math.log(opacity / (1 - opacity))),
        torch.from_numpy(colours).float(),
    )
