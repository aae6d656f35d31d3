"""Zero-1-to-3: cameras, timesteps, preparation of portraits, and folders of other conversions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file

from baselines.registry import open_baseline
from baselines.zero123.cameras import pose_of, relative_pose, spherical
from baselines.zero123.networks import CCProjection, image_encoder_of
from baselines.zero123.preparation import centred, prepared
from baselines.zero123.sampling import sample, timesteps_of
from core.errors import InputError
from core.model_folders import empty_model
from portraits.cameras import label_from_angles
from tests.baselines.toys import toy_request, write_folder
from tests.parity.recipe import golden, key_list

HEAD = 0.65


def test_spherical_angles_match_triplanenets_cameras():
    """TriPlaneNet's golden cameras have polar angles of 86.069 and 90 degrees, azimuths of 15.457 and
    -18.538."""
    theirs = golden("triplanenet")
    source, target = theirs["camera"].numpy(), theirs["novel_camera"].numpy()
    found = np.degrees(spherical(np.concatenate([source, target]))[:, :2])
    assert np.allclose(found, [[86.069, 15.457], [90.0, -18.538]], atol=1e-3)
    pose = relative_pose(source[0], target, HEAD)
    polar, azimuth = np.radians([3.931, -33.996])
    assert np.allclose(pose[0, :3], [polar, np.sin(azimuth), np.cos(azimuth)], atol=1e-4)
    assert abs(pose[0, 3]) < 0.01 / HEAD


def test_signs_of_the_relative_pose():
    """Moving the camera to +x gives a positive azimuth, down a positive polar angle, away a positive radius
    (in units of `HEAD`)."""
    source = label_from_angles(0.0, 0.0)
    moved = [
        label_from_angles(0.3, 0.0),
        label_from_angles(0.0, -0.3),
        label_from_angles(0.0, 0.0, radius=3.35),
    ]
    pose = relative_pose(source, np.stack(moved), HEAD)
    assert pose[0, 1] > 0.2
    assert pose[1, 0] > 0.2
    assert pose[2, 3] == pytest.approx(1.0, abs=1e-5)
    assert np.allclose(relative_pose(source, source[None], HEAD), pose_of(*np.zeros((3, 1))), atol=1e-7)


def test_timesteps_of_both_samplers():
    original = timesteps_of("original", 50)
    assert len(original) == 49
    assert original[:2] == [961, 941]
    assert original[-1] == 1
    diffusers = timesteps_of("diffusers", 50)
    assert diffusers == [981, *original]
    assert len(timesteps_of("original", 75)) == 76  # the grid has 77 entries
    assert timesteps_of("original", 4) == [501, 251, 1]
    assert max(timesteps_of("original", 500)) < 1000
    for sampler, steps in (("original", 1), ("original", 501), ("diffusers", 0)):
        with pytest.raises(InputError, match="sampling steps"):
            timesteps_of(sampler, steps)


def test_sampling_with_eta_needs_step_noise():
    with pytest.raises(ValueError, match="give step_noise"):
        sample(lambda latents, _: latents, torch.zeros(1, 4, 2, 2))


def test_true_noise_prediction_recovers_the_clean_latents():
    """Deterministic DDIM with the true noise as the prediction."""
    clean, noise = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0).float()
    start = kept[981].sqrt() * clean + (1 - kept[981]).sqrt() * noise
    found = sample(lambda *_: noise, start, "diffusers", 50)
    last = kept[0].sqrt() * clean + (1 - kept[0]).sqrt() * noise
    assert torch.allclose(found, last, atol=1e-4)


# Portraits


def square(side: int, box: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A red box (left, top, right, bottom) on blue, and its mask."""
    left, top, right, bottom = box
    portrait = np.full((side, side, 3), (0, 0, 255), np.uint8)
    mask = np.zeros((side, side), np.uint8)
    portrait[top:bottom, left:right] = (255, 0, 0)
    mask[top:bottom, left:right] = 255
    return portrait, mask


@pytest.mark.parametrize(
    ("box", "size"),
    [((100, 40, 500, 440), (200, 200)), ((10, 0, 210, 500), (80, 200)), ((0, 0, 50, 20), (50, 20))],
)
def test_centring_a_head_can_be_undone(box, size):
    """Heads are centred on white, large ones reduced to 200 pixels; `placement.back` restores the
    position."""
    portrait, mask = square(512, box)
    image, placement = centred(portrait, mask, 256, "somebody")
    pixels = np.asarray(image)
    inside = (pixels == (255, 0, 0)).all(-1)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    assert (len(columns), len(rows)) == size
    assert abs(columns[0] + columns[-1] - 255) <= 1
    assert abs(rows[0] + rows[-1] - 255) <= 1
    assert (pixels[~inside] == 255).all()
    back = np.asarray(placement.back(image)).astype(int)
    expected = np.asarray(Image.fromarray(mask).resize((256, 256), Image.Resampling.BOX)) > 127
    red = (back[..., 0] > 200) & (back[..., 2] < 100)
    assert (red != expected).mean() < 0.01


def test_white_background_keeps_the_head():
    request = toy_request(side=256)
    image, placement = prepared(request, "white", 256)
    pixels = np.asarray(image)
    assert placement is None
    assert (pixels[request.masks[0] == 0] == 255).all()
    assert (pixels[request.masks[0] == 255] == request.portraits[0][request.masks[0] == 255]).all()
    kept, _ = prepared(request, "keep", 256)
    assert np.array_equal(np.asarray(kept), request.portraits[0])


def test_empty_mask_is_refused():
    request = toy_request(masks=np.zeros((1, 128, 128), np.uint8))
    with pytest.raises(InputError, match="the portrait's mask is empty"):
        prepared(request, "centred", 256)


# Folders


# As published with kxic/zero123-105000, written by older versions of diffusers and transformers.
UNET_CONFIG = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.17.0.dev0",
    "addition_embed_type_num_heads": 64,
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "in_channels": 8,
    "sample_size": 32,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
VAE_CONFIG = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.17.0.dev0",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "layers_per_block": 2,
    "sample_size": 256,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
IMAGE_CONFIG = {
    "_name_or_path": "openai/clip-vit-large-patch14",
    "hidden_act": "quick_gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
    "torch_dtype": "float32",
    "transformers_version": "4.27.4",
}


def test_published_configs_give_the_published_shapes():
    """Parameter names and shapes of the published diffusers conversion, from its configs."""
    place = Path("config.json")
    networks = {
        "unet": empty_model(UNet2DConditionModel, UNET_CONFIG, place),
        "vae": empty_model(AutoencoderKL, VAE_CONFIG, place),
        "image_encoder": image_encoder_of(IMAGE_CONFIG),
        "cc_projection": empty_model(CCProjection, {"in_channel": 772, "out_channel": 768}, place),
    }
    ours = {
        f"{part}/{name}": tuple(x.shape)
        for part, network in networks.items()
        for name, x in network.state_dict().items()
    }
    assert ours == key_list("zero123_diffusers")
    assert networks["vae"].config.scaling_factor == 0.18215


def rewrite(
    folder: Path, name: str, names: dict[str, str], other: str, extra: dict[str, torch.Tensor]
) -> None:
    """Replace a folder's weights by a pickle with older `names` and `extra` tensors."""
    path = folder / name
    tensors = load_file(path)
    path.unlink()
    renamed = {}
    for key, x in tensors.items():
        for new, old in names.items():
            key = key.replace(new, old)
        renamed[key] = x
    torch.save({**renamed, **extra}, folder / other)


def test_folders_of_older_versions_load_equally(tmp_path):
    """Pickles, old VAE names, CLIP's old `position_ids`, and the other name of the projection's folder."""
    new, old = write_folder("zero123", tmp_path / "new"), write_folder("zero123", tmp_path / "old")
    weights, pickled = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"
    former = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    rewrite(old / "vae", weights, former, pickled, {})
    ids = {"vision_model.embeddings.position_ids": torch.arange(5)[None]}
    rewrite(old / "image_encoder", "model.safetensors", {}, "pytorch_model.bin", ids)
    rewrite(old / "cc_projection", weights, {"projection.": "proj."}, pickled, {})
    (old / "cc_projection").rename(old / "clip_camera_projection")
    (old / "baseline.json").unlink()
    request = toy_request(1)
    views = [open_baseline("zero123", folder, "cpu", {"steps": 2}).views(request) for folder in (new, old)]
    assert np.array_equal(*views)


def test_stable_diffusion_unet_is_refused(tmp_path):
    folder = write_folder("zero123", tmp_path / "folder")
    path = folder / "unet" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "in_channels": 4}))
    with pytest.raises(InputError, match=r"misshapen conv_in.weight \(32, 8, 3, 3\), not \(32, 4, 3, 3\)"):
        open_baseline("zero123", folder)
    (folder / "image_encoder" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"image_encoder has no model\.safetensors"):
        open_baseline("zero123", folder)
