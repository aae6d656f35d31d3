"""All baselines through their common interface, at toy width."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from baselines.base import Request
from baselines.folders import NETWORKS
from baselines.registry import BASELINES, check_baseline, open_baseline
from baselines.rendering import crop, pixels_of, view_images
from core.errors import InputError
from portraits.pixels import to_images
from tests.baselines.toys import SIZES, toy_request, write_folder

SETTINGS = {"zero123": {"steps": 3}, "triplanenet": {"depths": 1}, "goae": {}}
KINDS = tuple(SETTINGS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each kind of baseline."""
    root = tmp_path_factory.mktemp("baselines")
    return {kind: write_folder(kind, root / kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_views_are_deterministic_and_depend_on_camera_and_portrait(kind, folders):

    system = open_baseline(kind, folders[kind], settings=SETTINGS[kind])
    request = toy_request()
    views = system.views(request)
    assert system.native_size == SIZES[kind]
    assert views.shape == (2, system.native_size, system.native_size, 3)
    assert views.dtype == np.uint8
    assert np.array_equal(views, system.views(request))
    assert not np.array_equal(views[0], views[1])
    other = toy_request(portraits=255 - request.portraits)
    assert not np.array_equal(views, system.views(other))
    assert system.name
    assert system.licence


@pytest.mark.parametrize("kind", ["triplanenet", "goae"])
def test_views_are_independent_of_each_other(kind, folders):
    system = open_baseline(kind, folders[kind])
    both = toy_request()
    alone = toy_request(cameras=both.cameras[1:])
    assert np.array_equal(system.views(both)[1], system.views(alone)[0])


def test_goae_mixes_planes_only_for_novel_views(folders):
    """At the portrait's own camera the view is the reconstruction, elsewhere it is rendered from mixed
    planes."""
    system = open_baseline("goae", folders["goae"])
    request = toy_request()
    own = toy_request(cameras=np.concatenate([request.portrait_cameras, request.cameras[:1]]))
    views = system.views(own)
    large = crop(request, system.native_size)
    small = large.resize((64, 64), Image.Resampling.BICUBIC)
    with torch.inference_mode():
        made = system.reconstruct(
            pixels_of(small, "cpu"), pixels_of(large, "cpu"), torch.from_numpy(request.portrait_cameras)
        )
        mixed = view_images(system.generator, made.identity, own.cameras, system.how)
    front = made.mask * made.better.planes[:, 0] + (1 - made.mask) * made.plain.planes[:, 0]
    assert torch.allclose(made.identity.planes[:, 0], front)
    assert torch.equal(made.identity.planes[:, 1:], made.better.planes[:, 1:])
    assert 0 < made.mask.mean() < 1
    assert np.array_equal(views[0], to_images(made.view.image[0, 0]))
    assert not np.array_equal(views[0], mixed[0])
    assert np.array_equal(views[1], mixed[1])


def test_goae_rendering_size_must_fit_the_mask(folders):
    with pytest.raises(InputError, match="half of that or more"):
        open_baseline("goae", folders["goae"], settings={"rendering": 16})


@pytest.mark.parametrize("background", ["keep", "white", "centred"])
def test_zero123_backgrounds_and_seeds(background, folders):
    """Views depend on the seed, and preparing a background needs masks."""
    settings = {"steps": 2, "background": background, "sampler": "diffusers"}
    system = open_baseline("zero123", folders["zero123"], settings=settings)
    views = system.views(toy_request(1))
    assert views.shape == (1, 64, 64, 3)
    assert not np.array_equal(views, system.views(toy_request(1, seed=1)))
    if background != "keep":
        with pytest.raises(InputError, match="give masks, or background=keep"):
            system.views(toy_request(1, masks=None))


def test_zero123_views_do_not_depend_on_the_batch_size(folders):

    made = [
        open_baseline("zero123", folders["zero123"], settings={"steps": 3, "batch": batch}).views(
            toy_request(3)
        )
        for batch in (1, 3)
    ]
    assert np.abs(made[0].astype(int) - made[1]).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_missing_and_foreign_folders_are_refused(kind, folders, tmp_path):
    with pytest.raises(InputError, match="diffportrait3d import-baseline"):
        check_baseline(kind, tmp_path)
    other = next(name for name in KINDS if name != kind and name != "zero123")
    with pytest.raises(InputError, match=r"holds|no unet/config"):
        check_baseline(kind, folders[other])


@pytest.mark.parametrize("kind", ["triplanenet", "goae"])
def test_weight_names_are_strict(kind, folders, tmp_path):
    folder = shutil.copytree(folders[kind], tmp_path / kind)
    tensors = load_file(folder / NETWORKS)
    name = next(name for name in tensors if name.endswith("body.1.res_layer.1.weight"))
    tensors[f"{name.partition('.')[0]}.other"] = tensors.pop(name)
    save_file(tensors, folder / NETWORKS)
    with pytest.raises(
        InputError, match=f"missing ({name.partition('.')[0]}.)?body.1.res_layer.1.weight; unexp"
    ):
        open_baseline(kind, folder)
    (folder / NETWORKS).unlink()
    with pytest.raises(InputError, match=f"no {NETWORKS}"):
        check_baseline(kind, folder)


def test_invalid_card_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders["goae"], tmp_path / "goae")
    card = json.loads((folder / "baseline.json").read_text())
    (folder / "baseline.json").write_text(json.dumps({**card, "extra": 1}))
    with pytest.raises(InputError, match=r"baseline.json: extra"):
        check_baseline("goae", folder)


@pytest.mark.parametrize(
    ("kind", "settings", "fault"),
    [
        ("nobody", {}, "no such baseline; choose from zero123"),
        ("goae", {"blurr": 1}, "settings of goae: blurr"),
        ("goae", {"blur": 0}, "a blur above 0"),
        ("triplanenet", {"depths": "two"}, "settings of triplanenet: depths"),
        ("zero123", {"steps": 501}, "501 sampling steps: the original sampler supports 2 to 500"),
        ("zero123", {"sampler": "heun"}, "settings of zero123: sampler"),
        ("zero123", {"eta": 2.0}, "eta is from 0 to 1"),
    ],
)
def test_invalid_settings_are_refused(kind, settings, fault, tmp_path):
    with pytest.raises(InputError, match=fault):
        check_baseline(kind, tmp_path, settings)


def test_settings_have_defaults():
    for load in BASELINES.values():
        load().Settings()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"portraits": np.zeros((1, 8, 9, 3), np.uint8)}, "not .R, S, S, 3."),
        ({"portrait_cameras": np.zeros((1, 25), np.float32)}, "portrait cameras: camera 0 is not a rigid"),
        ({"cameras": np.zeros((2, 24), np.float32)}, r"EG3D labels are \(K, 25\)"),
        ({"masks": np.zeros((1, 4, 4), np.uint8)}, "masks have shape"),
        ({"conditions": np.zeros((3, 8, 8, 3), np.uint8)}, "3 conditions for 2 cameras"),
    ],
)
def test_invalid_requests_are_refused(changes, fault):
    with pytest.raises(InputError, match=fault):
        toy_request(**changes)


def test_request_needs_a_camera_per_portrait():
    request = toy_request()
    with pytest.raises(InputError, match="1 cameras for 2 portraits"):
        Request("twice", np.concatenate([request.portraits] * 2), request.portrait_cameras, request.cameras)
