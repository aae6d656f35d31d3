"""Virtual cameras: a calibrated camera rotated to look at the head. Its image is a homography of the photo,
so that its label is exact."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from portraits.alignment.head import HeadFrame
from portraits.cameras import FOCAL, PIVOT, RADIUS, label, look_at

Array = NDArray[np.floating]

MAX_OVERSAMPLING = 12


@dataclass(frozen=True)
class VirtualView:
    """A virtual camera: its EG3D `camera` label (25,), and the homography (3, 3) from normalised coordinates
    of its square image to pixels of the photo (pixel centres are whole numbers)."""

    camera: NDArray[np.float32]
    homography: Array

    def inside(self, width: int, height: int, grid: int = 33) -> float:
        """The share of the square that lies within a photo of this size."""
        centres = (np.arange(grid) + 0.5) / grid
        u, v = np.meshgrid(centres, centres)
        places = np.stack([u, v, np.ones_like(u)], axis=-1) @ self.homography.T
        x, y = places[..., 0] / places[..., 2], places[..., 1] / places[..., 2]
        seen = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5) & (places[..., 2] > 0)
        return float(seen.mean())

    def cut(self, image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
        """Crop the square at `size` pixels from a photo (H, W) or (H, W, 3): resampled once at the photo's
        own resolution, then averaged down. Black outside the photo."""
        finer = int(np.clip(np.ceil(self._native_side() / size), 1, MAX_OVERSAMPLING))
        side = size * finer
        from_pixels = np.array([[1 / side, 0, 0.5 / side], [0, 1 / side, 0.5 / side], [0, 0, 1]])
        seen = cv2.warpPerspective(
            image, self.homography @ from_pixels, (side, side), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        )
        if finer > 1:
            seen = cv2.resize(seen, (size, size), interpolation=cv2.INTER_AREA)
        return np.asarray(seen, dtype=np.uint8)

    def _native_side(self) -> float:
        """The square's side in pixels of the photo, at its centre."""
        ends = np.array([[0.49, 0.5, 1], [0.51, 0.5, 1], [0.5, 0.49, 1], [0.5, 0.51, 1]]) @ self.homography.T
        pixels = ends[:, :2] / ends[:, 2:]
        return float(max(np.linalg.norm(pixels[1] - pixels[0]), np.linalg.norm(pixels[3] - pixels[2])) / 0.02)


def virtual_view(pose: Array, intrinsics: Array, head: HeadFrame) -> VirtualView:
    """Rotate a camera (cam2world (4, 4) in the world, intrinsics (3, 3) in pixels) about its centre to look
    at EG3D's pivot of the head, upright in the head's frame.

    The distance to the head is kept, and the focal length is proportional to it, so that heads have the same
    size in the image as in EG3D's crops."""
    seen = head.camera(pose)
    turned = look_at(seen[:3, 3], PIVOT)
    focal = FOCAL * np.linalg.norm(seen[:3, 3]) / RADIUS
    own = np.array([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])
    between = seen[:3, :3].T @ turned[:3, :3]
    return VirtualView(label(turned, own), intrinsics @ between @ np.linalg.inv(own))
