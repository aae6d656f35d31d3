import json
import pickle
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.errors import InputError
from core.tensors import load_strict, read_tensors
from lightning_modules.networks.pretrained import load_backbone, save_backbone
from lightning_modules.networks.text import embed_nothing
from shards import latent_cache
from tests.networks.toy import PROMPT_CHANNELS, noise, toy_backbone, toy_vae


@pytest.fixture
def folder(tmp_path):
    save_backbone(toy_backbone(), str(tmp_path / "backbone"))
    return tmp_path / "backbone"


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_backbone_folder_round_trip(folder):
    kept, loaded = toy_backbone(), load_backbone(str(folder))
    for part in ("unet", "vae"):
        weights = getattr(kept, part).state_dict()
        again = getattr(loaded, part).state_dict()
        assert weights.keys() == again.keys()
        assert all(torch.equal(weights[name], again[name]) for name in weights)
        assert not getattr(loaded, part).training
    assert torch.equal(kept.empty_prompt, loaded.empty_prompt)
    assert torch.equal(kept.scheduler.alphas_cumprod, loaded.scheduler.alphas_cumprod)
    assert loaded.downsampling == 4


def test_diffusers_loads_the_folder(folder):
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    loaded = UNet2DConditionModel.from_pretrained(folder / "unet")
    assert torch.equal(loaded.conv_in.weight, toy_backbone().unet.conv_in.weight)
    AutoencoderKL.from_pretrained(folder / "vae")
    DDIMScheduler.from_pretrained(folder / "scheduler")


def test_half_precision_is_stored_and_loaded_as_float32(tmp_path):
    backbone = toy_backbone()
    save_backbone(backbone, str(tmp_path / "half"), dtype=torch.float16)
    stored = load_file(tmp_path / "half" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {x.dtype for x in stored.values()} == {torch.float16}
    loaded = load_backbone(str(tmp_path / "half"))
    assert loaded.unet.dtype == loaded.empty_prompt.dtype == torch.float32
    assert backbone.unet.dtype == torch.float32
    assert load_backbone(str(tmp_path / "half"), dtype=torch.bfloat16).vae.dtype == torch.bfloat16


def test_published_pndm_scheduler_loads(folder):
    published = {
        "_class_name": "PNDMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
        "clip_sample": False,
    }
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(published))
    assert torch.equal(
        load_backbone(str(folder)).scheduler.alphas_cumprod, toy_backbone().scheduler.alphas_cumprod
    )


def test_vae_attention_names_of_older_diffusers_load(folder):
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    older = {"to_q": "query", "to_k": "key", "to_v": "value"}
    tensors = {}
    for name, x in load_file(path).items():
        renamed = name.replace("to_out.0", "proj_attn")
        for new, old in older.items():
            renamed = renamed.replace(new, old)
        tensors[renamed] = x
    save_file(tensors, path)
    for loaded in (load_backbone(str(folder)).vae, latent_cache.load_vae(str(folder), "cpu")):
        weights = loaded.state_dict()
        assert all(torch.equal(x, weights[name]) for name, x in toy_backbone().vae.state_dict().items())


def toy_text_encoder(folder):
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=99,
        hidden_size=PROMPT_CHANNELS,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=7,
    )
    encoder = CLIPTextModel(config).eval()
    encoder.save_pretrained(folder)
    return encoder


def test_empty_prompt_is_computed_once_and_kept(folder):
    encoder = toy_text_encoder(folder / "text_encoder")
    (folder / "empty_prompt.safetensors").unlink()
    tokens = torch.tensor([[97, 98, 98, 98, 98, 98, 98]])
    expected = encoder(tokens).last_hidden_state
    assert torch.equal(embed_nothing(encoder), expected)
    assert torch.equal(load_backbone(str(folder)).empty_prompt, expected)
    (folder / "text_encoder" / "model.safetensors").unlink()
    assert torch.equal(load_backbone(str(folder)).empty_prompt, expected)


def test_transformers_is_needed_only_without_an_empty_prompt(folder, monkeypatch):
    toy_text_encoder(folder / "text_encoder")
    monkeypatch.setitem(sys.modules, "transformers", None)
    load_backbone(str(folder))
    (folder / "empty_prompt.safetensors").unlink()
    with pytest.raises(InputError, match="needs transformers: pip install transformers"):
        load_backbone(str(folder))


def test_save_backbone_is_atomic_and_does_not_overwrite(tmp_path, folder):
    with pytest.raises(InputError, match="exists already"):
        save_backbone(toy_backbone(), str(folder))
    broken = toy_backbone()
    object.__setattr__(broken, "scheduler", None)
    with pytest.raises(AttributeError):
        save_backbone(broken, str(tmp_path / "other"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backbone"]


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "unet",
            {"use_linear_projection": True},
            "is Stable Diffusion 2 or SD-Turbo, .* use_linear_projection",
        ),
        ("unet", {"addition_embed_type": "text_time"}, "is Stable Diffusion XL, .*='text_time'"),
        ("unet", {"in_channels": 9}, "is an inpainting model, not Stable Diffusion 1.5: .* in_channels=9"),
        ("unet", {"in_channels": 8}, "is an image-editing model"),
        ("unet", {"time_cond_proj_dim": 256}, "is a latent consistency model"),
        ("unet", {"down_block_types": ["DownBlock3D"] * 3}, "blocks DownBlock3D"),
        ("unet", {"block_out_channels": [16, 24, 64]}, "misshapen"),
        ("unet", {"layers_per_block": 2}, "missing down_blocks"),
        ("unet", {"layers_per_block": "two"}, r"unet/config.json"),
        ("unet", {"_class_name": "UNet2DModel"}, "holds a UNet2DModel"),
        ("unet", {"cross_attention_dim": None}, "cross_attention_dim"),
        ("unet", {"down_block_types": None}, "blocks None"),
        ("unet", {"down_block_types": 10**400}, "blocks 1000"),
        ("unet", {"up_block_types": [["UpBlock2D"]]}, r"blocks \['UpBlock2D'\]"),
        ("unet", {"time_embedding_act_fn": "silu"}, "time_embedding_act_fn='silu'"),
        ("unet", {"num_class_embeds": 3}, "num_class_embeds=3"),
        ("vae", {"latent_channels": 16}, "misshapen"),
        ("vae", {"scaling_factor": None}, "scaling_factor is None"),
        ("vae", {"scaling_factor": 0}, "scaling_factor is 0, not"),
        ("vae", {"scaling_factor": float("inf")}, "scaling_factor is inf, not"),
        ("vae", {"scaling_factor": 10**400}, "scaling_factor is 10000000"),
        ("unet", {"layers_per_block": 10**7}, "layers_per_block: more than 100 layers"),
        ("unet", {"layers_per_block": [1, 10**7, 1]}, "layers_per_block: more than 100 layers"),
        ("vae", {"block_out_channels": [4] * 10**5}, "block_out_channels: 100000 entries"),
    ],
)
def test_other_models_are_input_errors(folder, file, changes, message):
    edit(folder / file / "config.json", **changes)
    with pytest.raises(InputError, match=message):
        load_backbone(str(folder))


def test_v_prediction_is_an_input_error(folder):
    edit(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    with pytest.raises(InputError, match="Stable Diffusion 2"):
        load_backbone(str(folder))


BAD_SCHEDULES = (
    {"beta_schedule": "steep"},
    {"num_train_timesteps": "many"},
    {"num_train_timesteps": 10**9},
    {"num_train_timesteps": 10**400},
    {"beta_start": "x"},
    {"beta_start": 1e308, "beta_end": 1e308},
    {"beta_start": 2.0, "beta_end": 3.0},
    {"trained_betas": {}},
)


def test_invalid_noise_schedule_is_an_input_error(folder):
    file = folder / "scheduler" / "scheduler_config.json"
    valid = file.read_text()
    for changes in BAD_SCHEDULES:
        file.write_text(valid)
        edit(file, **changes)
        with pytest.raises(InputError, match=r"scheduler_config.json is no noise schedule"):
            load_backbone(str(folder))


def test_vae_and_unet_channel_mismatch_is_an_input_error(tmp_path):
    other = replace(toy_backbone(), vae=toy_vae(latent_channels=8))
    save_backbone(other, str(tmp_path / "mixed"))
    with pytest.raises(InputError, match="the VAE has 8 latent channels, the UNet 4"):
        load_backbone(str(tmp_path / "mixed"))


def test_empty_prompt_of_another_width_is_an_input_error(folder):
    save_file({"empty_prompt": noise(1, 1, 5)}, folder / "empty_prompt.safetensors")
    with pytest.raises(InputError, match=r"empty prompt has shape \(1, 1, 5\)"):
        load_backbone(str(folder))


def test_other_folders_are_input_errors(folder, tmp_path):
    (folder / "unet").rename(folder / "transformer")  # Stable Diffusion 3
    with pytest.raises(InputError, match=r"is no diffusers folder of Stable Diffusion 1\.5: it has no unet/"):
        load_backbone(str(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no vae/config.json, no scheduler/scheduler_config.json"):
        load_backbone(str(tmp_path / "empty"))


def test_missing_files_are_input_errors(folder, tmp_path):
    (folder / "empty_prompt.safetensors").unlink()
    with pytest.raises(InputError, match=r"neither empty_prompt.safetensors nor text_encoder"):
        load_backbone(str(folder))
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match="vae has no diffusion_pytorch_model"):
        load_backbone(str(folder))
    with pytest.raises(InputError, match="no such folder"):
        load_backbone(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="is a file"):
        load_backbone(str(folder / "unet" / "config.json"))


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_truncated_weights_are_an_input_error(tmp_path, suffix):
    path = tmp_path / f"weights.{suffix}"
    tensors = {"weight": noise(100, 100)}
    save_file(tensors, path) if suffix == "safetensors" else torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match="is truncated or no"):
        read_tensors(path)


def test_legacy_pytorch_pickles_load(tmp_path):
    torch.save({"weight": noise(3, 3)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(read_tensors(tmp_path / "old.bin")["weight"], noise(3, 3))


class Payload:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize("write", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x, protocol=2))])
def test_code_in_pickles_is_not_executed(tmp_path, capsys, write):
    path = tmp_path / "weights.bin"
    write({"weight": Payload()}, path)
    with pytest.raises(InputError, match=r"weights\.bin"):
        read_tensors(path)
    assert "code ran" not in capsys.readouterr().out


def test_strict_loading_names_mismatches():
    module = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match="checkpoint: missing bias; unexpected other"):
        load_strict(module, {"weight": noise(2, 2), "other": noise(1)}, "checkpoint")
    with pytest.raises(InputError, match=r"misshapen weight \(3, 2\), not \(2, 2\)"):
        load_strict(module, {"weight": noise(3, 2), "bias": noise(2)}, "checkpoint")
