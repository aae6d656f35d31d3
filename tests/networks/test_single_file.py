"""Single files of Stable Diffusion 1.5, written with our table of CompVis names and read with diffusers'."""

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from core.errors import InputError
from core.tensors import read_tensors
from lightning_modules.networks.pretrained import load_backbone
from lightning_modules.networks.text import embed_nothing
from lightning_modules.released.names import UNET, VAE, unet_names, vae_names
from tests.networks.toy import PROMPT_CHANNELS, toy_unet, toy_vae

TEXT = "cond_stage_model.transformer.text_model"


@pytest.fixture(scope="module")
def networks():
    return narrow_networks()


@pytest.fixture(scope="module")
def tensors(networks):
    return single_file_tensors(*networks)


def narrow_networks():
    """Stable Diffusion 1.5's networks at a tenth of the width."""
    unet = toy_unet(
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(32, 64, 128, 128),
        layers_per_block=2,
        norm_num_groups=32,
        attention_head_dim=8,
    )
    vae = toy_vae(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 128, 128),
        layers_per_block=2,
        norm_num_groups=32,
    )
    settings = {"hidden_size": PROMPT_CHANNELS, "intermediate_size": 16, "num_hidden_layers": 2}
    settings |= {"vocab_size": 100, "num_attention_heads": 1, "bos_token_id": 98, "eos_token_id": 99}
    return unet, vae, CLIPTextModel(CLIPTextConfig(**settings)).eval()


def single_file_tensors(unet, vae, text):
    """The tensors of a single file in half precision, as published."""
    found = {unet_names(unet, UNET)[name]: x for name, x in unet.state_dict().items()}
    for name, x in vae.state_dict().items():
        # CompVis' VAE has convolutions where diffusers has linear layers
        linear = ".attentions." in name and x.ndim == 2
        found[vae_names(vae)[name]] = x[..., None, None] if linear else x
    for name, x in text.state_dict().items():
        found[f"{TEXT}.{name.removeprefix('text_model.')}"] = x
    found[f"{TEXT}.embeddings.position_ids"] = torch.arange(77)[None]
    found["alphas_cumprod"] = torch.ones(1000)
    return {name: x.half() if x.is_floating_point() else x for name, x in found.items()}


def write(tensors, path):
    save_file({name: x.contiguous() for name, x in tensors.items()}, path)
    return path


@pytest.mark.parametrize("name", ["v1-5.safetensors", "v1-5.ckpt"])
def test_single_file_loads_every_network(networks, tensors, tmp_path, name):
    path = tmp_path / name
    write(tensors, path) if name.endswith("safetensors") else torch.save({"state_dict": tensors}, path)
    loaded = load_backbone(str(path))
    unet, vae, text = networks
    for ours, other in ((unet, loaded.unet), (vae, loaded.vae)):
        assert all(torch.equal(x.half().float(), other.state_dict()[n]) for n, x in ours.state_dict().items())
    torch.testing.assert_close(loaded.empty_prompt, embed_nothing(text), rtol=1e-2, atol=1e-2)
    assert loaded.unet.config.attention_head_dim == 8
    assert loaded.downsampling == 8
    assert loaded.scheduler.alphas_cumprod[-1].item() == pytest.approx(0.0047, rel=1e-2)


def test_the_training_state_in_published_files_is_left_out(networks, tensors, tmp_path):
    """Lightning's of 2022 has its callbacks' classes as keys, and scores that may be numpy's."""
    state = {"best_model_score": np.float64(0.5), "best_model_path": "somewhere"}
    path = tmp_path / "v1-5-pruned-emaonly.ckpt"
    torch.save({"state_dict": tensors, "callbacks": {ModelCheckpoint: state}, "global_step": 3}, path)
    loaded = load_backbone(str(path)).unet.state_dict()
    assert all(torch.equal(x.half().float(), loaded[name]) for name, x in networks[0].state_dict().items())
    with pytest.raises(InputError, match=r"holds more than tensors .*ModelCheckpoint"):
        read_tensors(path)
    torch.save({"state_dict": tensors, "callbacks": {EarlyStopping: state}}, path)
    with pytest.raises(InputError, match=r"holds more than tensors .*EarlyStopping"):
        load_backbone(str(path))
    torch.save([tensors], path)
    with pytest.raises(InputError, match="holds a list, not a state dict"):
        load_backbone(str(path))


def test_single_files_of_other_models_are_named(tensors, tmp_path):
    first, key = f"{UNET}.input_blocks.0.0.weight", f"{UNET}.input_blocks.1.1.proj_in.weight"
    without_vae = {name: x for name, x in tensors.items() if not name.startswith(VAE)}
    other_text = {"cond_stage_model.model.ln_final.bias": torch.ones(2)}
    cases = {
        "is Stable Diffusion 2 or SD-Turbo": tensors | other_text,
        "is Stable Diffusion XL": tensors | {"conditioner.embedders.0.x": torch.ones(2)},
        "is an inpainting model": tensors | {first: tensors[first].repeat(1, 3, 1, 1)[:, :9]},
        "Turbo, not Stable Diffusion 1.5": tensors | {key: tensors[key][..., 0, 0]},
        "not a single file of Stable Diffusion 1.5: it has no first_stage_model": without_vae,
        "missing time_embedding": {n: x for n, x in tensors.items() if "time_embed.0" not in n},
    }
    for number, (message, contents) in enumerate(cases.items()):
        with pytest.raises(InputError, match=message):
            load_backbone(str(write(contents, tmp_path / f"{number}.safetensors")))
