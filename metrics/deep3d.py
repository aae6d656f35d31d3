"""Head poses by Deep3DFaceRecon (Deng et al. 2019), as in the paper, from a checkpoint that the user
provides.

The checkpoint is that of Deep3DFaceRecon_pytorch (`epoch_20.pth`): a dictionary whose entry `net_recon` is
the network's state dict. N faces, S crop side.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.models import resnet50

from core.errors import InputError
from core.tensors import load_strict, read_tensors
from metrics.catalogue import DEEP3D, own_file
from metrics.faces import Reading
from portraits.alignment.camera import FLIP
from portraits.alignment.crop import CENTRE_CROP, RESCALE, Square, cut
from portraits.cameras import LABEL_SIZE, RADIUS, label

CROP_SIDE = 224
# side of the network's crop in units of the five 3D landmarks; EG3D's is 700 / 300
OWN_CROP = CROP_SIDE / 102.0
COEFFICIENTS = {
    "id": 80,
    "exp": 64,
    "tex": 80,
    "angle": 3,
    "gamma": 27,
    "tx_ty": 2,
    "tz": 1,
}  # in the order of the network's output layers
CAMERA_DISTANCE = 10.0  # distance of the network's camera from the face, in its units
UNIT, ORIGIN = 0.27, np.array([0.0, 0.006, 0.161])  # its unit and origin in EG3D's frame, from EG3D's code


class CoefficientNetwork(nn.Module):
    """A ResNet-50 with one linear layer for each group of coefficients, on crops (N, 3, 224, 224) in [0, 1].

    Args:
        backbone: the feature network; by default that of the published checkpoint
        width: number of its features
    """

    def __init__(self, backbone: nn.Module | None = None, width: int = 2048) -> None:
        super().__init__()
        if backbone is None:
            backbone = resnet50(weights=None)
            backbone.fc = nn.Identity()
        self.backbone = backbone
        self.final_layers = nn.ModuleList(nn.Conv2d(width, count, 1) for count in COEFFICIENTS.values())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Coefficients (N, …) by name."""
        features = self.backbone(images).flatten(1)[:, :, None, None]
        return {
            name: layer(features).flatten(1)
            for name, layer in zip(COEFFICIENTS, self.final_layers, strict=True)
        }


class Deep3DCameras:
    """Cameras from Deep3DFaceRecon's angles and translation, converted to labels as in EG3D.

    Args:
        path: the checkpoint; by default the one in the cache folder
        network: the network to load it into; by default the published one

    Raises InputError if the checkpoint is missing or belongs to another network.
    """

    def __init__(self, path: str | None = None, network: CoefficientNetwork | None = None) -> None:
        file = own_file(DEEP3D if path is None else f"{DEEP3D}={path}")
        tensors = read_tensors(file).get("net_recon")
        if not isinstance(tensors, Mapping):
            raise InputError(
                f"{file} has no network `net_recon`: give the checkpoint of Deep3DFaceRecon_pytorch"
            )
        self._network: CoefficientNetwork = network or CoefficientNetwork()
        load_strict(self._network, tensors, str(file))
        self._network.eval().requires_grad_(False)

    def __call__(self, faces: Sequence[Reading]) -> NDArray[np.float64]:
        """EG3D labels (N, 25) of the faces' crops."""
        if not faces:
            return np.empty((0, LABEL_SIZE))
        pixels = np.stack([own_crop(face) for face in faces])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255)
        found = self._network(images)
        translation = torch.cat([found["tx_ty"], found["tz"]], dim=1).double().numpy()
        angles = found["angle"].double().numpy()
        return np.stack([label_of(*pair) for pair in zip(angles, translation, strict=True)]).astype(
            np.float64
        )


def own_crop(face: Reading) -> NDArray[np.uint8]:
    """The network's crop (224, 224, 3) of a face: with the same centre as EG3D's, and slightly narrower."""
    square = face.square
    side = square.side * OWN_CROP / (CENTRE_CROP / RESCALE)
    shift = (square.side - side) / 2
    own = Square(square.left + shift, square.top + shift, side)
    return np.asarray(cut(Image.fromarray(face.image), own, CROP_SIDE))


def label_of(angles: NDArray[np.float64], translation: NDArray[np.float64]) -> NDArray[np.float32]:
    """The EG3D label (25,) for a face's angles (3,) about x, y and z, radians, and translation (3,)."""
    rotation = rotation_of(angles)
    place = -rotation @ (translation - (0.0, 0.0, CAMERA_DISTANCE)) * UNIT + ORIGIN
    pose = np.eye(4)
    pose[:3, :3] = rotation @ FLIP
    pose[:3, 3] = place * (RADIUS / np.linalg.norm(place))
    return label(pose)


def rotation_of(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """The transpose of Rz Ry Rx (3, 3) for angles (3,) about x, y and z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return (about_z @ about_y @ about_x).T
