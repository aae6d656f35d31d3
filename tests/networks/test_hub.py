"""Downloads from the Hugging Face Hub, and the weight layouts that a folder may have."""

import json
import shutil
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import OfflineModeIsEnabled, filter_repo_objects
from transformers import CLIPTextConfig, CLIPTextModel

from core.errors import InputError
from core.model_folders import WEIGHTS
from lightning_modules.networks import hub
from lightning_modules.networks.hub import FILES, choose_weights
from lightning_modules.networks.portrait import save_portrait_model
from lightning_modules.networks.pretrained import load_backbone, save_backbone
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from tests.networks.toy import PROMPT_CHANNELS, toy_backbone, toy_model


@pytest.fixture
def text_encoder():
    """A CLIP text encoder of toy width."""
    torch.manual_seed(0)
    settings = {"hidden_size": PROMPT_CHANNELS, "intermediate_size": 16, "num_hidden_layers": 1}
    settings |= {"vocab_size": 100, "num_attention_heads": 2, "bos_token_id": 98, "eos_token_id": 99}
    return CLIPTextModel(CLIPTextConfig(**settings))


@pytest.fixture
def save(tmp_path, text_encoder):
    """A function that saves a backbone as diffusers does, with options of its `save_pretrained`."""

    def save_as(name, **options):
        kept, place = toy_backbone(), tmp_path / name
        save_backbone(kept, str(tmp_path / "ours"))
        shutil.copytree(tmp_path / "ours" / "scheduler", place / "scheduler")
        shutil.rmtree(tmp_path / "ours")
        for part, network in (("unet", kept.unet), ("vae", kept.vae), ("text_encoder", text_encoder)):
            network.save_pretrained(place / part, **options)
        return place

    return save_as


COMMIT = "a" * 40
LAYOUTS = {
    "plain": {},
    "fp16 only": {"variant": "fp16"},
    "pickled": {"safe_serialization": False},
    "in pieces": {"max_shard_size": "40KB"},
    "fp16 in pieces": {"variant": "fp16", "max_shard_size": "40KB"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_weight_layouts_load(save, layout):
    options = LAYOUTS[layout]
    if "safe_serialization" in options:  # transformers no longer writes pickles
        folder = save("backbone")
        shutil.rmtree(folder / "unet")
        toy_backbone().unet.save_pretrained(folder / "unet", **options)
    else:
        folder = save("backbone", **options)
    loaded = load_backbone(str(folder))
    assert all(
        torch.equal(x, loaded.unet.state_dict()[name]) for name, x in toy_backbone().unet.state_dict().items()
    )
    assert loaded.empty_prompt.shape == (1, 77, PROMPT_CHANNELS)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    weights = choose_weights(names, "unet", [WEIGHTS])
    assert set(weights) == {name for name in names if name.startswith("unet/") and "config" not in name}
    assert set(filter_repo_objects(names, allow_patterns=FILES)) == set(names)


def test_choose_weights_prefers_full_precision_safetensors():
    names = [
        f"unet/{WEIGHTS}{variant}.{kind}" for variant in ("", ".fp16") for kind in ("bin", "safetensors")
    ]
    assert choose_weights(names, "unet", [WEIGHTS]) == [f"unet/{WEIGHTS}.safetensors"]
    assert choose_weights(names, "vae", [WEIGHTS]) == []


def test_damaged_shard_index_is_an_input_error(save):
    folder = save("backbone", max_shard_size="40KB")
    index = folder / "unet" / f"{WEIGHTS}.safetensors.index.json"
    values = json.loads(index.read_text())
    first = next(iter(values["weight_map"].values()))
    for changed, message in (
        ({}, "no weight_map"),
        ({"weight_map": {"conv_in.weight": "../secrets.safetensors"}}, "is no plain file name"),
    ):
        index.write_text(json.dumps(changed))
        with pytest.raises(InputError, match=message):
            load_backbone(str(folder))
    index.write_text(json.dumps(values))
    (folder / "unet" / first).unlink()
    with pytest.raises(InputError, match=f"{first} missing, listed in .*: download the folder again"):
        load_backbone(str(folder))


@pytest.fixture
def repository(monkeypatch, tmp_path):
    """A stand-in for a hub repository with both precisions of all weights: its API and its download mock."""
    save_backbone(toy_backbone(), str(tmp_path / "backbone"))
    names = [f"{part}/{WEIGHTS}{v}.safetensors" for part in ("unet", "vae") for v in ("", ".fp16")]
    api, download = Mock(), Mock(return_value=str(tmp_path / "backbone"))
    files = [SimpleNamespace(rfilename=name) for name in (*names, "v1-5-pruned.ckpt", "unet/config.json")]
    api.return_value.model_info.return_value.siblings = files
    monkeypatch.setattr(hub, "HfApi", api)
    monkeypatch.setattr(hub, "snapshot_download", download)
    return api.return_value, download


def test_only_one_precision_is_downloaded(repository):
    _, download = repository
    assert load_backbone("owner/name").downsampling == 4
    assert download.call_args.args == ("owner/name",)
    patterns = download.call_args.kwargs["allow_patterns"]
    assert f"unet/{WEIGHTS}.safetensors" in patterns
    assert not any("fp16" in pattern or "ckpt" in pattern for pattern in patterns)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache of the hub on a machine without internet."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def add_to_cache(cache, name, folder):
    """Put a folder into the hub's cache, laid out as huggingface_hub does."""
    place = cache / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    shutil.copytree(folder, place / "snapshots" / COMMIT)


@pytest.mark.parametrize("layout", ["plain", "fp16 only", "in pieces"])
def test_cached_backbone_loads_offline(save, cache, layout):
    add_to_cache(cache, "owner/name", save("backbone", **LAYOUTS[layout]))
    loaded = load_backbone("owner/name").unet.state_dict()
    for name, x in toy_backbone().unet.state_dict().items():
        torch.testing.assert_close(loaded[name], x, rtol=0, atol=0)


def test_cached_model_loads_offline(cache, tmp_path):
    save_portrait_model(toy_model(), str(tmp_path / "model"))
    add_to_cache(cache, "owner/model", tmp_path / "model")
    assert DiffPortrait3DPipeline.from_pretrained("owner/model").image_size == 16


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("load", [load_backbone, DiffPortrait3DPipeline.from_pretrained])
def test_hub_id_that_is_not_cached_is_one_line_offline(load):
    with pytest.raises(
        InputError, match="owner/name: no such folder, and not available from the hub"
    ) as said:
        load("owner/name")
    assert "\n" not in str(said.value)


def test_offline_falls_back_to_the_cache(repository):
    api, download = repository
    api.model_info.side_effect = OfflineModeIsEnabled("offline")
    assert load_backbone("owner/name").downsampling == 4
    assert download.call_args.kwargs["allow_patterns"] == FILES
    download.side_effect = LocalEntryNotFoundError("no connection")
    with pytest.raises(InputError, match="owner/name: no such folder, and not available from the hub"):
        load_backbone("owner/name")
