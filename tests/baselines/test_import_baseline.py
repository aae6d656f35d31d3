"""Import of released files, on toy networks in files of the released layouts."""

import logging
import os
import sys
import types
from argparse import Namespace
from collections import OrderedDict, defaultdict
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from baselines.archives import read_archive, state_dict
from baselines.folders import NETWORKS, Card
from baselines.import_baseline import main
from baselines.layers import BATCHES_SEEN
from baselines.registry import open_baseline
from core.errors import InputError
from generators.gan.folder import read_settings, save_generator
from tests.baselines.toys import toy_eg3d, toy_encoders, toy_goae, toy_request
from tests.parity.recipe import key_list, weights

W_AVG = "backbone.mapping.w_avg"


class Outside:
    """A class that cannot be imported when the file is read."""

    def __init__(self, value: object) -> None:
        self.value = value


class EasyDict(dict):
    """In place of dnnlib's EasyDict."""


@pytest.fixture
def unimportable_classes(monkeypatch):
    """Put the classes above into modules that can be removed before reading."""
    for cls, name in ((Outside, "trainer.callbacks"), (EasyDict, "dnnlib.util")):
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setitem(sys.modules, name.partition(".")[0], types.ModuleType(name.partition(".")[0]))
        monkeypatch.setattr(cls, "__module__", name)
        setattr(module, cls.__name__, cls)


class Hostile:
    """Runs a command if it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch hostile",)


def save(contents: object, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(contents, path)
    return path


def counters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """BatchNorm's `num_batches_tracked`, which released files hold."""
    return {
        name.replace(".running_mean", BATCHES_SEEN): torch.tensor(7)
        for name in tensors
        if name.endswith(".running_mean")
    }


# Files that hold more than tensors


@pytest.mark.usefixtures("unimportable_classes")
def test_objects_of_unknown_classes_become_placeholders(tmp_path):
    contents = {
        "state_dict": {"module.a.weight": torch.ones(2)},
        "callbacks": {Outside: Outside([1, Outside(np.float32(2))])},
        "settings": EasyDict(width=3),
        "counts": defaultdict(list, a=[1]),
        "arguments": Namespace(path=Path("here")),
    }
    path = save(contents, tmp_path / "trained.ckpt")
    for name in ("trainer.callbacks", "dnnlib.util"):
        del sys.modules[name]
    found = read_archive(path)
    assert found["settings"] == {"width": 3}
    assert found["counts"] == {"a": [1]}
    assert type(found["settings"]) is OrderedDict
    assert list(state_dict(found, "trained.ckpt")) == ["a.weight"]
    assert "trainer.callbacks" not in sys.modules


def test_code_in_pickles_is_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save({"state_dict": {"a": torch.ones(1)}, "other": Hostile()}, tmp_path / "hostile.ckpt")
    with pytest.raises(InputError, match="holds more than tensors"):
        read_archive(path)
    assert not (tmp_path / "hostile").exists()


@pytest.mark.parametrize(
    ("contents", "fault"),
    [({}, "no tensors by name"), ({"state_dict": [1]}, "no tensors by name"), ({"a": 1}, "no tensors at a")],
)
def test_invalid_state_dicts_are_refused(contents, fault):
    with pytest.raises(InputError, match=fault):
        state_dict(contents, "file")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"version https://git-lfs"])
def test_damaged_files_are_refused(content, tmp_path):
    path = tmp_path / "105000.ckpt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"105000\.ckpt"):
        main(["zero123", str(path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


# TriPlaneNet


def triplanenet_file(folder: Path, **changes: object) -> Path:
    """`triplanenet_v2_final.pth` as its trainer saves it."""
    own = toy_encoders(bool(changes.pop("shuffled", False)))
    del own["latent_avg"]
    generator = {f"decoder.{name}": x for name, x in toy_eg3d().state_dict().items()}
    tensors = own | generator | counters(own) | changes
    contents = {"state_dict": tensors, "opts": {"n_styles": 10}, "best_val_loss": 0.1, "step": 5}
    return save(contents, folder / "triplanenet_v2_final.pth")


def options() -> EasyDict:
    """A generator's rendering settings, as EG3D's constructor takes them."""
    module = "training.superresolution.SuperresolutionHybrid8XDC"
    return EasyDict(
        depth_resolution=6,
        depth_resolution_importance=5,
        ray_start=2.25,
        ray_end=3.3,
        box_warp=1,
        c_scale=1,
        superresolution_module=module,
        superresolution_noise_mode="none",
        sr_antialias=True,
        clamp_mode="softplus",
        disparity_space_sampling=False,
    )


def average_file(folder: Path, average: Tensor, **changes: object) -> Path:
    """`ffhq512-128.pth`."""
    arguments = EasyDict(rendering_kwargs=options(), sr_num_fp16_res=4, img_resolution=512)
    contents = {"latent_avg": average, "init_kwargs": arguments, "G_ema": {}} | changes
    return save({name: x for name, x in contents.items() if x is not None}, folder / "ffhq512-128.pth")


def test_triplanenet_imports_from_one_file_with_notes(tmp_path, caplog, capsys):
    """Values missing in the file are replaced with a warning and a note in the folder."""
    out = tmp_path / "out"
    with caplog.at_level(logging.WARNING):
        main(["triplanenet", str(triplanenet_file(tmp_path)), "--out", str(out)])
    assert "latent_avg: the generator's w_avg" in caplog.text
    assert len(Card.read(out, "triplanenet").notes) == 2
    printed = capsys.readouterr().out
    assert "nearest pixels" in printed
    assert "terms: code MIT" in printed
    tensors = load_file(out / NETWORKS)
    assert torch.equal(tensors["latent_avg"], toy_eg3d().state_dict()[W_AVG])
    settings = read_settings(out / "generator")
    assert (settings.rendering, settings.coarse, settings.clamps["superresolution.block1"]) == (128, 48, 256)


@pytest.mark.usefixtures("unimportable_classes")
def test_triplanenet_imports_from_both_files(tmp_path, caplog):
    average = torch.arange(8.0)
    files = [
        str(triplanenet_file(tmp_path, shuffled=True)),
        "--average",
        str(average_file(tmp_path, average.repeat(10, 1))),
    ]
    main(["triplanenet", *files, "--out", str(tmp_path / "out")])
    assert not caplog.text
    assert Card.read(tmp_path / "out", "triplanenet").notes == ()
    assert torch.equal(load_file(tmp_path / "out" / NETWORKS)["latent_avg"], average)
    settings = read_settings(tmp_path / "out" / "generator")
    assert (settings.rendering, settings.coarse, settings.fine, settings.label_scale) == (128, 6, 5, 1)
    assert settings.clamps == {f"superresolution.block{number}": 256 for number in range(2)}
    second = open_baseline("triplanenet", tmp_path / "out").encoders.triplanenet_encoder
    assert second.pixel_shuffle
    assert second(torch.zeros(1, 9, 64, 64), torch.zeros(1, 12, 64, 64)).shape == (1, 12, 64, 64)


@pytest.mark.usefixtures("unimportable_classes")
def test_average_must_be_one_vector(tmp_path):
    network = str(triplanenet_file(tmp_path))
    for average, changes, fault in (
        (torch.randn(10, 8), {}, "differs between styles"),
        (None, {}, "no latent_avg in it"),
        (torch.zeros(8), {"init_kwargs": None}, "no rendering settings"),
        (torch.zeros(7), {}, r"misshapen latent_avg \(7,\), not \(8,\)"),
    ):
        path = average_file(tmp_path, average, **changes)
        with pytest.raises(InputError, match=fault):
            main(["triplanenet", network, "--average", str(path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"other.weight": torch.ones(1)}, "unexpected other.weight"),
        ({"psp_encoder.body.9.other": torch.ones(1)}, "unexpected psp_encoder.body.9.other"),
        ({"psp_encoder.latlayer1.bias": torch.ones(9)}, r"misshapen psp_encoder.latlayer1.bias \(9,\)"),
        ({"decoder.decoder.net.0.bias": torch.ones(9)}, "misshapen decoder.net.0.bias"),
    ],
)
def test_triplanenet_names_are_strict(changes, fault, tmp_path):
    with pytest.raises(InputError, match=fault):
        main(["triplanenet", str(triplanenet_file(tmp_path, **changes)), "--out", str(tmp_path / "out")])


def test_other_network_is_refused_as_triplanenet(tmp_path):
    path = save({"state_dict": toy_goae()}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="no TriPlaneNet v2 file: it has nothing under psp_encoder"):
        main(["triplanenet", str(path), "--out", str(tmp_path / "out")])


# GOAE


def goae_files(folder: Path, **changes: object) -> list[str]:
    """`encoder_FFHQ.pt`, `afa_FFHQ.pt` and a generator's folder."""
    tensors = toy_goae() | changes
    parts = {}
    for part in ("encoder", "afa"):
        own = {x.partition(".")[2]: value for x, value in tensors.items() if x.startswith(f"{part}.")}
        parts[part] = own | counters(own)
    block = "swin_model.layers.0.blocks.1"
    parts["encoder"] |= {
        f"{block}.attn.relative_coords_table": torch.zeros(1, 31, 31, 2),
        f"{block}.attn.relative_position_index": torch.zeros(256, 256, dtype=torch.long),
        f"{block}.attn_mask": torch.zeros(16, 256, 256),
    }
    files = [str(save(own, folder / f"{part}_FFHQ.pt")) for part, own in parts.items()]
    if not (folder / "generator").exists():
        save_generator(toy_eg3d(), folder / "generator", "toy")
    return [*files, str(folder / "generator")]


def test_goae_import_keeps_all_weights(tmp_path, capsys):
    """Constants and counters are optional; everything else is kept."""
    out = tmp_path / "out"
    main(["goae", *goae_files(tmp_path), "--out", str(out)])
    assert "no licence is given for the code and the weights" in capsys.readouterr().out
    tensors = load_file(out / NETWORKS)
    assert all(torch.equal(tensors[name], x) for name, x in toy_goae().items())
    assert open_baseline("goae", out).views(toy_request(1)).shape == (1, 128, 128, 3)
    with pytest.raises(InputError, match="exists already"):
        main(["goae", *goae_files(tmp_path), "--out", str(out)])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"encoder.other.weight": torch.ones(1)}, "unexpected other.weight"),
        ({"afa.other.weight": torch.ones(1)}, "unexpected other.weight"),
        ({"encoder.mapper_base_channel.2.weight": torch.ones(9, 64)}, "9 numbers do not split into 4 heads"),
        ({"encoder.mapper_base_spatial.0.weight": torch.ones(3, 3)}, "3 tokens are no square"),
        ({"encoder.mapper_coarse_channel.0.bias": torch.ones(9)}, "misshapen mapper_coarse_channel.0.bias"),
    ],
)
def test_goae_names_are_strict(changes, fault, tmp_path):
    with pytest.raises(InputError, match=fault):
        main(["goae", *goae_files(tmp_path, **changes), "--out", str(tmp_path / "out")])


def test_goae_files_in_the_wrong_order_are_refused(tmp_path):
    encoder, correction, generator = goae_files(tmp_path)
    with pytest.raises(InputError, match="not GOAE's encoder: it has no tensor"):
        main(["goae", correction, encoder, generator, "--out", str(tmp_path / "out")])
    with pytest.raises(InputError, match="archive"):
        main(["goae", encoder, correction, encoder, "--out", str(tmp_path / "out")])


# Zero-1-to-3


@lru_cache(maxsize=1)
def small_zero123() -> dict[str, Tensor]:
    return weights(key_list("zero123_small"))


def zero123_file(folder: Path, averaged: bool = True, **changes: object) -> Path:
    """A checkpoint as Lightning saves it, with the unused buffers and text weights of the released one."""
    tensors = small_zero123()
    unread = {
        "betas": torch.zeros(4),
        "sqrt_recipm1_alphas_cumprod": torch.zeros(4),
        "posterior_mean_coef2": torch.zeros(4),
        "cond_stage_model.model.ln_final.weight": torch.zeros(4),
        "cond_stage_model.model.token_embedding.weight": torch.zeros(4),
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(3),
    }
    if averaged:
        unet = {name: x for name, x in tensors.items() if name.startswith("model.")}
        tensors = tensors | {"model_ema." + name[6:].replace(".", ""): x + 1 for name, x in unet.items()}
    tensors = {name: x for name, x in {**tensors, **unread, **changes}.items() if x is not None}
    return save({"state_dict": tensors, "epoch": 1}, folder / "105000.ckpt")


def conv_in(folder: Path) -> Tensor:
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")["conv_in.weight"]


def test_zero123_import_prefers_the_moving_average(tmp_path, capsys):
    """The UNet's moving average is used if the file has one, unless `--averaged false`."""
    own = small_zero123()["model.diffusion_model.input_blocks.0.0.weight"]
    path = str(zero123_file(tmp_path))
    main(["zero123", path, "--out", str(tmp_path / "averaged")])
    assert "UNet the average over training (EMA)" in capsys.readouterr().out
    assert torch.equal(conv_in(tmp_path / "averaged"), own + 1)
    main(["zero123", path, "--averaged", "false", "--out", str(tmp_path / "last")])
    assert torch.equal(conv_in(tmp_path / "last"), own)
    assert Card.read(tmp_path / "last", "zero123").notes == ("UNet: not averaged",)


def test_zero123_import_gives_diffusers_names(tmp_path):
    """The folder has the parameter names of the published diffusers conversion (3 of CLIP's 24 layers)."""
    main(["zero123", str(zero123_file(tmp_path, averaged=False)), "--out", str(tmp_path / "out")])
    ours = {
        f"{part}/{name}"
        for part in ("unet", "vae", "image_encoder", "cc_projection")
        for path in (tmp_path / "out" / part).glob("*.safetensors")
        for name in load_file(path)
    }
    layer = "image_encoder/vision_model.encoder.layers."
    theirs = {
        name
        for name in key_list("zero123_diffusers")
        if not name.startswith(layer) or int(name.removeprefix(layer).partition(".")[0]) < 3
    }
    assert ours == theirs
    system = open_baseline("zero123", tmp_path / "out")
    assert system.native_size == 256


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"other.weight": torch.ones(1)}, "unexpected other.weight"),
        ({"model.diffusion_model.out.0.weight": None}, "missing conv_norm_out.weight"),
        ({"model.diffusion_model.other.weight": torch.ones(1)}, "unexpected model.diffusion_model.other"),
        ({"first_stage_model.quant_conv.bias": torch.ones(3)}, "misshapen quant_conv.bias"),
        (
            {"cond_stage_model.model.visual.proj": None},
            "missing or misshapen cond_stage_model.model.visual.proj",
        ),
        ({"cc_projection.bias": None}, "missing projection.bias"),
        ({"model_ema.diffusion_modelout2bias": torch.ones(4)}, "the average of the UNet .EMA. is not whole"),
    ],
)
def test_zero123_names_are_strict(changes, fault, tmp_path):
    path = zero123_file(tmp_path, averaged=False, **changes)
    with pytest.raises(InputError, match=fault):
        main(["zero123", str(path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_other_checkpoint_is_refused_as_zero123(tmp_path):
    path = save({"state_dict": {"model.diffusion_model.out.2.bias": torch.zeros(4)}}, tmp_path / "sd.ckpt")
    with pytest.raises(InputError, match=r"nothing under first_stage_model\., cond_stage"):
        main(["zero123", str(path), "--out", str(tmp_path / "out")])
