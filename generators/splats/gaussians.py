"""3D Gaussians and where they are seen in an image (EWA splatting, Zwicker et al. 2001).

Shape letters: N Gaussians, S image side.
"""

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

DILATION = 0.3  # pixels² added to projected variances, as Kerbl et al. do, so that none falls between pixels
NEAR = 0.01  # nearer Gaussians are not drawn
MARGIN = 1.3  # Gaussians beyond this multiple of the field of view are linearised at its edge


@dataclass(frozen=True)
class Gaussians:
    """N 3D Gaussians in the parameters that are optimised.

    Args:
        means: (N, 3) in EG3D's world
        log_scales: (N, 3) logarithms of the standard deviations along their own axes
        rotations: (N, 4) quaternions w, x, y, z of any length, from their own axes to the world's
        opacity_logits: (N,) logits of the opacity at the mean
        colours: (N, 3) sRGB, 0 to 1; not restricted to that range
    """

    means: Tensor
    log_scales: Tensor
    rotations: Tensor
    opacity_logits: Tensor
    colours: Tensor

    def __len__(self) -> int:
        return len(self.means)

    @property
    def opacities(self) -> Tensor:
        """(N,) in (0, 1)."""
        return self.opacity_logits.sigmoid()

    @property
    def covariances(self) -> Tensor:
        """(N, 3, 3) in the world."""
        axes = rotation_matrices(self.rotations) * self.log_scales.exp().unsqueeze(1)
        return axes @ axes.mT

    def tensors(self) -> dict[str, Tensor]:
        """All parameters by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __getitem__(self, chosen: Tensor | slice) -> Self:
        """The Gaussians of an index or mask."""
        return type(self)(**{name: value[chosen] for name, value in self.tensors().items()})

    def to(self, device: torch.device) -> Self:
        """The Gaussians on a device."""
        return type(self)(**{name: value.to(device) for name, value in self.tensors().items()})

    def detach(self) -> Self:
        """The same Gaussians without gradients."""
        return type(self)(**{name: value.detach() for name, value in self.tensors().items()})


def joined(*parts: Gaussians) -> Gaussians:
    """All Gaussians of several sets, in order."""
    return Gaussians(
        *(torch.cat(values) for values in zip(*(p.tensors().values() for p in parts), strict=True))
    )


def rotation_matrices(quaternions: Tensor) -> Tensor:
    """Rotation matrices (N, 3, 3) of quaternions (N, 4), w, x, y, z, of any length."""
    w, x, y, z = F.normalize(quaternions, dim=-1).unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


@dataclass(frozen=True)
class Projected:
    """Gaussians in an image: centres (N, 2) in pixels, (0.5, 0.5) the middle of the first; covariances
    (N, 2, 2) in pixels²; depths (N,) along the optical axis; whether they are `visible`, (N,)."""

    centres: Tensor
    covariances: Tensor
    depths: Tensor
    visible: Tensor


def project(gaussians: Gaussians, label: Tensor, side: int) -> Projected:
    """The Gaussians as the camera of an EG3D label (25,) sees them in an image of `side` pixels.

    The perspective projection is linearised at each mean (EWA), and variances are dilated by `DILATION`.
    """
    pose, intrinsics = (
        label[:16].view(4, 4),
        label[16:].view(3, 3) * label.new_tensor([[side], [side], [1.0]]),
    )
    turn = pose[:3, :3].mT
    x, y, z = ((gaussians.means - pose[:3, 3]) @ turn.mT).unbind(-1)
    visible = z > NEAR
    depth = torch.where(visible, z, 1)
    zero = torch.zeros_like(depth)
    flat = torch.stack([x / depth, y / depth], -1)
    centres = flat @ intrinsics[:2, :2].mT + intrinsics[:2, 2]
    limit = MARGIN * 0.5 * side / intrinsics[(0, 1), (0, 1)]
    at = torch.minimum(torch.maximum(flat, -limit), limit)
    rows = [1 / depth, zero, -at[:, 0] / depth, zero, 1 / depth, -at[:, 1] / depth]
    jacobian = intrinsics[:2, :2] @ torch.stack(rows, -1).unflatten(-1, (2, 3)) @ turn
    covariances = jacobian @ gaussians.covariances @ jacobian.mT + DILATION * torch.eye(2).to(label)
    return Projected(centres, covariances, z, visible)
