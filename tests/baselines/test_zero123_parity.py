"""Zero-1-to-3 against outputs of the public code, with the weights of `tests.parity.recipe`."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from baselines.zero123.cameras import pose_of
from baselines.zero123.checkpoint import networks_of
from baselines.zero123.networks import Networks
from baselines.zero123.sampling import guided, sample
from portraits.pixels import to_pixels
from tests.baselines.compare import assert_close
from tests.parity.recipe import golden, key_list, weights

STEPS = 4
GUIDANCE = 3.0


def opened(which: str, folder: Path) -> Networks:
    """The networks of a file in the original layout, without a moving average."""
    path = folder / "105000.ckpt"
    torch.save({"state_dict": weights(key_list(which)), "global_step": 105000}, path)
    return networks_of(path)[0]


def conditions(networks: Networks, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The UNet's inputs, by the goldens' names."""
    image = to_pixels(theirs["image"].numpy())[None].contiguous()
    polar, azimuth, radius = theirs["pose_polar_azimuth_radius"].double().numpy()
    angles = torch.tensor([[polar, azimuth]]).deg2rad().numpy()
    pose = torch.from_numpy(pose_of(angles[:, 0], angles[:, 1], radius.reshape(1)))
    embedding = networks.embedding(image)
    return {
        "clip_pixels_every_8th": networks.clip_pixels(image)[..., ::8, ::8],
        "clip_embedding": embedding,
        "context": networks.context(embedding, pose),
        "image_latent": networks.image_latent(image),
    }


def check(networks: Networks, which: str) -> None:
    """Compare all values that the goldens hold for one size."""
    stored = golden("zero123")
    theirs = {name.removeprefix(f"{which}."): x for name, x in stored.items()}
    ours = conditions(networks, theirs)
    source, context = ours["image_latent"], ours["context"]

    def unet(latents: Tensor, timestep: int, contexts: Tensor) -> Tensor:
        return networks.unet(latents, timestep, encoder_hidden_states=contexts).sample

    noise = theirs["x_T"]
    for timestep in (961, 301):
        with_them = unet(torch.cat([noise, source], 1), timestep, context)
        without = unet(torch.cat([noise, torch.zeros_like(source)], 1), timestep, torch.zeros_like(context))
        ours |= {
            f"noise_conditional_t{timestep}": with_them,
            f"noise_unconditional_t{timestep}": without,
        }

    def predict(latents: Tensor, timestep: int) -> Tensor:
        return guided(unet, latents, timestep, source, context, GUIDANCE)

    run = partial(sample, predict, noise, steps=STEPS)
    ours["ddim_original_eta0"] = latents = run(sampler="original", eta=0.0)
    ours["ddim_original_eta1"] = run(sampler="original", step_noise=theirs["step_noise"].__getitem__)
    ours["ddim_four_steps_eta0"] = run(sampler="diffusers")
    ours["decoded_every_4th_pixel"] = networks.decode(latents)[..., ::4, ::4]
    assert_close(ours, theirs)


@torch.no_grad()
def test_conditions_match_the_public_code(tmp_path):

    stored = golden("zero123")
    theirs = {name.removeprefix("small."): x for name, x in stored.items()}
    assert_close(conditions(opened("zero123_small", tmp_path), theirs), theirs)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["small", "full"])
@torch.no_grad()
def test_whole_pipeline_matches_the_public_code(which, tmp_path):
    networks = opened("zero123_small" if which == "small" else "zero123", tmp_path)
    check(networks, which)
