"""Deep3DFaceRecon's coefficients: geometry against five landmarks, and a network of toy width."""

import numpy as np
import pytest
import torch
from torch import nn

from core.errors import InputError
from metrics.deep3d import CoefficientNetwork, Deep3DCameras, label_of, own_crop, rotation_of
from metrics.faces import Reading
from metrics.pose import POSE, camera_angles
from portraits.alignment.camera import camera_from_landmarks
from portraits.alignment.detection import Face
from portraits.cameras import FOCAL, label_from_angles, project
from portraits.geometry import LANDMARKS_3D, STANDARD_LANDMARKS

SIDE, WIDTH = 128, 4


@pytest.mark.parametrize("angles", [(0, 0, 0), (0.2, 0.6, 0), (-0.3, -0.4, 0.2), (0.1, 0.9, -0.3)])
def test_label_of_matches_the_networks_camera(angles):
    angles, translation = np.array(angles, dtype=float), np.array([0.03, -0.02, 0.1])
    points = LANDMARKS_3D @ rotation_of(angles) + translation  # as ParametricFaceModel turns a face
    depths = 10 - points[:, 2]
    seen = np.stack([0.5 + FOCAL * points[:, 0] / depths, 0.5 - FOCAL * points[:, 1] / depths], axis=1)
    found, solved = label_of(angles, translation), camera_from_landmarks(seen)
    np.testing.assert_allclose(camera_angles(found), camera_angles(solved), atol=0.01)
    assert np.linalg.norm(found[[3, 7, 11]]) == pytest.approx(2.7, abs=1e-5)


def toy():
    """A network whose features are linear in the mean colour."""
    return CoefficientNetwork(nn.Sequential(nn.Conv2d(3, WIDTH, 1), nn.AdaptiveAvgPool2d(1)), WIDTH)


def reading():
    five = project(STANDARD_LANDMARKS, label_from_angles(0.0, 0.0, radius=2.7 + 0.161)) * SIDE - 0.5
    image = np.full((SIDE, SIDE, 3), 90, np.uint8)
    return Reading(image, Face(np.array([30.0, 30.0, 100.0, 110.0]), five, 1.0))


def test_checkpoint_gives_a_pose_metric(tmp_path):
    torch.manual_seed(0)
    network = toy()
    nn.init.constant_(network.final_layers[3].weight, 0)
    network.final_layers[3].bias.data = torch.tensor([0.1, 0.4, 0.0])
    path = tmp_path / "epoch_20.pth"
    torch.save({"net_recon": network.state_dict()}, path)
    (found,) = Deep3DCameras(str(path), toy())([reading()])
    np.testing.assert_allclose(
        camera_angles(found), camera_angles(label_of(np.array([0.1, 0.4, 0.0]), np.zeros(3))), atol=1e-5
    )
    with pytest.raises(InputError, match=r"epoch_20.pth: missing backbone"):
        POSE(f"deep3d={path}")  # the published width


def test_invalid_checkpoint_is_an_input_error(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"state": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="has no network `net_recon`"):
        Deep3DCameras(str(path))
    with pytest.raises(InputError, match=r"nowhere.pth does not exist"):
        Deep3DCameras(str(tmp_path / "nowhere.pth"))


def test_default_width_matches_deep3dfacerecon():
    with torch.device("meta"):
        names = {name: tuple(x.shape) for name, x in CoefficientNetwork().state_dict().items()}
    assert names["final_layers.3.weight"] == (3, 2048, 1, 1)
    assert names["backbone.layer4.2.conv3.weight"] == (2048, 512, 1, 1)
    assert not any(name.startswith("backbone.fc") for name in names)
    assert (
        sum(shape[0] for name, shape in names.items() if name.startswith("final") and "bias" in name) == 257
    )


def test_own_crop_has_deep3dfacerecons_scale():
    face = reading()
    face.image[:] = np.arange(SIDE, dtype=np.uint8)[None, :, None]  # a level a column
    crop = own_crop(face).astype(float)
    assert crop.shape == (224, 224, 3)
    across = (crop[100, 200, 0] - crop[100, 24, 0]) / 176
    assert across == pytest.approx(face.square.side * (224 / 102) / (700 / 300) / 224, abs=0.01)
