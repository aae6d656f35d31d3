"""LoRAs on F: predictions, unloading, and files that are refused."""

import json
import shutil
from copy import deepcopy

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from core.errors import InputError
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.portrait import save_portrait_model
from lightning_modules.sampling.loras import Lora, check_loras, with_loras
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.synthesis import NetworkOptions, open_pipeline
from tests.networks.toy import noise, prompt, toy_model, toy_unet
from tests.sampling.test_pipeline import equal, orbit, picture, pictures

ASKED = {"portrait": picture(size=48), "cameras": orbit(2), "conditions": pictures(2), "progress": False}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "conv1", "ff.net.0.proj", "time_emb_proj"]
RANK, ALPHA = 4, 2
CONFIG = {"r": RANK, "lora_alpha": ALPHA, "target_modules": LAYERS}


@pytest.fixture(scope="module")
def model():
    """A toy model, which tests do not change."""
    return toy_model()


@pytest.fixture
def pipeline(model):
    return DiffPortrait3DPipeline.of(deepcopy(model))


@pytest.fixture(scope="module")
def style(tmp_path_factory):
    """The path of a LoRA, alone in its folder, and its tensors."""
    return made_by_peft(tmp_path_factory.mktemp("lora") / "style.safetensors")


def own_unet():
    """The F of `toy_model`."""
    return toy_unet(sample_size=4)


def made_by_peft(path, unet=None, seed=0):
    """A LoRA as diffusers' training scripts save it."""
    unet = unet or own_unet()
    unet.add_adapter(LoraConfig(**CONFIG))
    tensors = {
        name: 0.1 * noise(*x.shape, seed=seed + number)
        for number, (name, x) in enumerate(sorted(get_peft_model_state_dict(unet).items()))
    }
    StableDiffusionPipeline.save_lora_weights(
        path.parent, tensors, weight_name=path.name, unet_lora_adapter_metadata=CONFIG
    )
    return path, tensors


def made_by_kohya(path, tensors):
    """The same LoRA under the names of kohya's scripts, with its alphas beside the tensors."""
    named = {}
    for name, x in tensors.items():
        layer, part = name.removesuffix(".weight").rsplit(".", 1)
        place = f"lora_unet_{layer.replace('.', '_')}"
        named[f"{place}.{'lora_down' if part == 'lora_A' else 'lora_up'}.weight"] = x
        named[f"{place}.alpha"] = torch.tensor(float(ALPHA))
    save_file(named, path)
    return path


def merged(unet, tensors, weight):
    """F with W + weight · α / r · B·A in place of W, in double precision."""
    state = unet.state_dict()
    for name in {name.rsplit(".", 2)[0] for name in tensors}:
        down, up = (tensors[f"{name}.{part}.weight"].double() for part in ("lora_A", "lora_B"))
        product = (up.flatten(1) @ down.flatten(1)).reshape(state[f"{name}.weight"].shape)
        state[f"{name}.weight"] += (weight * ALPHA / RANK * product).float()
    unet.load_state_dict(state)
    return unet


def prediction(unet):
    denoiser = Denoiser(unet, prompt()).eval()
    with torch.no_grad():
        return denoiser(noise(2, 4, 4, 4), torch.full((2,), 501), views=2)


@pytest.mark.parametrize("weight", [1.0, 0.5, -1.0])
@pytest.mark.parametrize("written", ["diffusers", "kohya"])
def test_lora_matches_merged_weights(pipeline, style, tmp_path, weight, written):
    path, tensors = style
    if written == "kohya":
        path = made_by_kohya(tmp_path / "kohya.safetensors", tensors)
    assert len(tensors) > 40
    plain = prediction(pipeline.unet)
    pipeline.load_lora_weights(path, weight=weight)
    expected = prediction(merged(own_unet(), tensors, weight))
    torch.testing.assert_close(prediction(pipeline.unet), expected, **CLOSE)
    assert not torch.allclose(expected, plain, atol=1e-2)


def test_two_loras_add_up(pipeline, style, tmp_path):
    first, one = style
    second, two = made_by_peft(tmp_path / "two.safetensors", seed=500)
    pipeline.load_lora_weights(first, weight=0.5)
    pipeline.load_lora_weights(second)
    expected = prediction(merged(merged(own_unet(), one, 0.5), two, 1.0))
    torch.testing.assert_close(prediction(pipeline.unet), expected, **CLOSE)


def test_unloading_restores_f_and_its_views_bit_for_bit(pipeline, style, tmp_path):
    path, _ = style
    plain = pipeline(**ASKED, steps=2)
    weights = {name: x.clone() for name, x in pipeline.unet.state_dict().items()}
    modules = [type(module) for module in pipeline.unet.modules()]
    with with_loras(pipeline, [Lora(path)]):
        assert not equal(pipeline(**ASKED, steps=2), plain)
        with pytest.raises(InputError, match=r"unload_lora_weights\(\) first"):
            pipeline.save_pretrained(tmp_path / "model")
    after = pipeline.unet.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(x, after[name]) for name, x in weights.items())
    assert [type(module) for module in pipeline.unet.modules()] == modules
    assert equal(pipeline(**ASKED, steps=2), plain)
    pipeline.unload_lora_weights()


def test_f_ref_and_f_cam_get_no_lora(pipeline, style):
    path, _ = style
    parts = (pipeline.appearance_reference, pipeline.view_control, pipeline.cross_view)
    names = [set(part.state_dict()) for part in parts]
    pipeline.load_lora_weights(path)
    assert [set(part.state_dict()) for part in parts] == names


def test_replicas_get_the_lora(pipeline, style):
    path, _ = style
    pipeline.replicate(["cpu"]).load_lora_weights(path)
    (copy,) = pipeline.replicas
    torch.testing.assert_close(prediction(copy.unet), prediction(pipeline.unet), **CLOSE)
    pipeline.unload_lora_weights()
    torch.testing.assert_close(prediction(pipeline.replicas[0].unet), prediction(own_unet()))


def test_lora_is_cast_to_the_models_dtype(pipeline, style, tmp_path):
    _, tensors = style
    save_file({f"unet.{name}": x.half() for name, x in tensors.items()}, tmp_path / "half.safetensors")
    pipeline.to(torch.bfloat16).load_lora_weights(tmp_path / "half.safetensors")
    assert {x.dtype for x in pipeline.unet.parameters()} == {torch.bfloat16}


def test_lora_file_lookup_matches_diffusers(pipeline, style):
    folder = style[0].parent
    pipeline.load_lora_weights(folder)
    pipeline.load_lora_weights(folder, weight_name="style.safetensors", adapter_name="again")
    with pytest.raises(InputError, match="adapter_name 'again': there is a LoRA of this name"):
        pipeline.load_lora_weights(folder, adapter_name="again")
    with pytest.raises(InputError, match=r"other\.safetensors: there is no such file"):
        pipeline.load_lora_weights(folder, weight_name="other.safetensors")


def test_adapters_are_weighed_disabled_and_deleted_as_in_diffusers(pipeline, style, tmp_path):
    first, one = style
    second, two = made_by_peft(tmp_path / "two.safetensors", seed=500)
    pipeline.load_lora_weights(first, adapter_name="one")
    pipeline.load_lora_weights(second, adapter_name="two")

    def weighed(first_weight, second_weight):
        expected = merged(merged(own_unet(), one, first_weight), two, second_weight)
        torch.testing.assert_close(prediction(pipeline.unet), prediction(expected), **CLOSE)

    pipeline.set_adapters(["one", "two"], [0.5, -1.0])
    weighed(0.5, -1.0)
    pipeline.disable_lora()
    assert torch.equal(prediction(pipeline.unet), prediction(own_unet()))
    pipeline.enable_lora()
    weighed(0.5, -1.0)
    pipeline.set_adapters("two")
    weighed(0.0, 1.0)
    assert (pipeline.get_active_adapters(), pipeline.get_list_adapters()) == (
        ["two"],
        {"unet": ["one", "two"]},
    )
    pipeline.set_adapters(["one", "two"], 0.5)
    pipeline.delete_adapters("one")
    weighed(0.0, 0.5)
    for given, message in (
        (("one",), "one: no such LoRA; loaded: two"),
        (("two", [1, 2]), "give a number for"),
    ):
        with pytest.raises(InputError, match=message):
            pipeline.set_adapters(*given)
    pipeline.delete_adapters(["two"])
    assert torch.equal(prediction(pipeline.unet), prediction(own_unet()))
    assert pipeline.get_list_adapters() == {}


def test_loading_takes_diffusers_arguments(pipeline, style, tmp_path):
    shutil.copytree(style[0].parent, tmp_path / "repository" / "loras")
    pipeline.load_lora_weights(
        tmp_path / "repository", subfolder="loras", weight_name="style.safetensors", local_files_only=True
    )
    assert pipeline.get_list_adapters() == {"unet": ["lora_0"]}
    with pytest.raises(InputError, match="hotswap: not an argument of this load_lora_weights"):
        pipeline.load_lora_weights(style[0], hotswap=True)
    with pytest.raises(InputError, match=r"a \.safetensors file, not a dict: .*save_file writes one"):
        pipeline.load_lora_weights(style[1])


def test_lora_option_is_parsed(style, tmp_path):
    path = tmp_path / "a style:1.safetensors"
    shutil.copy(style[0], path)
    assert Lora.parse(str(path)) == Lora(path, 1.0)
    assert Lora.parse(f"{path}:0.75") == Lora(path, 0.75)
    for text, message in {
        f"{path}:nan": "give a finite weight",
        str(tmp_path / "missing.safetensors"): "there is no such file",
        f"{path}:": "there is no such file",
    }.items():
        with pytest.raises(InputError, match=message):
            Lora.parse(text)
    (tmp_path / "style.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"only \.safetensors files are read"):
        Lora.parse(str(tmp_path / "style.bin"))


def test_model_is_opened_with_the_loras_of_the_command_line(model, style, tmp_path):
    path, tensors = style
    save_portrait_model(model, str(tmp_path / "model"))
    lora = Lora.parse(f"{path}:0.5")
    opened = open_pipeline(NetworkOptions(str(tmp_path / "model"), loras=(lora,)), ["cpu", "cpu"])
    expected = prediction(merged(own_unet(), tensors, 0.5))
    for unet in (opened.unet, opened.replicas[0].unet):
        torch.testing.assert_close(prediction(unet), expected, **CLOSE)


def test_solver_of_lcm_without_a_lora_is_a_warning(model, style, tmp_path, caplog):
    save_portrait_model(model, str(tmp_path / "model"))
    check_loras([Lora(style[0])], tmp_path / "model", "lcm")
    check_loras([], tmp_path / "model", "unipc")
    assert not caplog.messages
    check_loras([], tmp_path / "model", "lcm")
    assert caplog.messages == ["the solver lcm is meant for an LCM-LoRA: give one with --lora FILE"]


def test_loras_of_other_models_are_input_errors_before_weights_are_loaded(model, pipeline, tmp_path):
    save_portrait_model(model, str(tmp_path / "model"))
    wide, _ = made_by_peft(tmp_path / "sdxl.safetensors", toy_unet(cross_attention_dim=2048))
    deep, _ = made_by_peft(tmp_path / "deep.safetensors", toy_unet(layers_per_block=2))
    (tmp_path / "model/unet/diffusion_pytorch_model.safetensors").unlink()
    for path, message in {
        wide: r"a LoRA for Stable Diffusion XL \(prompts of 2048 channels\) does not fit this F \(of 32\)",
        deep: r"does not fit this F \(of 32\): it lacks .*resnets",
    }.items():
        with pytest.raises(InputError, match=message):
            check_loras([Lora(path)], tmp_path / "model")
        with pytest.raises(InputError, match=message):
            pipeline.load_lora_weights(path)
    assert not pipeline._loras
    torch.testing.assert_close(prediction(pipeline.unet), prediction(own_unet()))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x": noise(2, 2)}, "holds no LoRA of a UNet"),
        ({"lora_unet_a.hada_w1_a": noise(2, 2)}, "no LoRA that diffusers reads"),
        ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": noise(2, 2)}, "no LoRA"),
        ({"unet.conv_in.lora_A.weight": noise(2, 4, 3, 3)}, "it lacks conv_in"),
        ({"lora_unet_conv_in.dora_scale": noise(2, 4)}, "a DoRA, whose magnitudes"),
        ({"unet.conv_in.lora_A.weight": torch.full((2, 4, 3, 3), np.nan)}, "NaN or infinite values"),
    ],
)
def test_files_without_a_lora_are_input_errors(pipeline, tmp_path, tensors, message):
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match=message):
        pipeline.load_lora_weights(tmp_path / "odd.safetensors")


def test_damaged_lora_is_an_input_error(pipeline, style, tmp_path):
    path = tmp_path / "style.safetensors"
    path.write_bytes(style[0].read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated or no safetensors file"):
        pipeline.load_lora_weights(path)


def test_text_encoder_part_is_ignored_with_a_warning(pipeline, style, tmp_path, caplog):
    _, tensors = style
    text = {"text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": noise(4, 8)}
    own = {f"unet.{name}": x for name, x in tensors.items()}
    metadata = {"lora_adapter_metadata": json.dumps({f"unet.{key}": x for key, x in CONFIG.items()})}
    save_file(own | text, tmp_path / "both.safetensors", metadata=metadata)
    pipeline.load_lora_weights(tmp_path / "both.safetensors")
    assert "only its part for the UNet is used" in caplog.text
    expected = prediction(merged(own_unet(), tensors, 1.0))
    torch.testing.assert_close(prediction(pipeline.unet), expected, **CLOSE)


def test_sequentially_offloaded_layers_refuse_loras(pipeline, style):
    path, _ = style
    pipeline.enable_sequential_cpu_offload(device="cpu:0")  # stands for a GPU
    with pytest.raises(InputError, match="load LoRAs before enable_sequential_cpu_offload"):
        pipeline.load_lora_weights(path)
