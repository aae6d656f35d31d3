import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lightning_modules.export_released import main as export_main
from lightning_modules.export_released import released_tensors
from lightning_modules.import_released import HOLDINGS, UNREAD, released_schedule
from lightning_modules.import_released import main as import_main
from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.portrait import (
    REFERENCE,
    PortraitModel,
    load_portrait_model,
    save_portrait_model,
)
from lightning_modules.networks.pretrained import Backbone, load_backbone, save_backbone
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.networks.text import embed_nothing
from lightning_modules.networks.view_control import view_control
from lightning_modules.released import names
from lightning_modules.released.checkpoint import layout_of, released_part
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.view_control import ViewControlStage
from tests.networks.test_single_file import narrow_networks, single_file_tensors, write
from tests.networks.toy import noise, shake, toy_backbone, toy_unet, toy_vae
from tests.parity.recipe import weights

TOKENS, CHANNELS = 7, 32
NARROW = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (32, 64),
    "norm_num_groups": 32,
    "attention_head_dim": 8,
}


@pytest.fixture(scope="module")
def released():
    """A released checkpoint of two levels with the three networks alone."""
    with torch.device("meta"):
        unet = toy_unet(**NARROW)
        layout = layout_of(unet, view_control(unet, 8), CrossView.from_unet(unet, middle="unconditional"))
    shapes = dict(layout.unread)
    for part in layout.parts:
        shapes |= part.shapes
    return weights(shapes)


@pytest.fixture
def backbone(tmp_path):
    made = toy_backbone()
    made = Backbone(made.vae, made.unet, made.scheduler, noise(1, TOKENS, CHANNELS))
    save_backbone(made, str(tmp_path / "sd15"))
    return tmp_path / "sd15"


def assert_usage_error(command, *arguments):
    with pytest.raises(SystemExit) as end:
        command([str(argument) for argument in arguments])
    assert end.value.code == 2


def converted(released, backbone, tmp_path, **changes):
    torch.save(released | changes, tmp_path / "model.th")
    arguments = ["--out", tmp_path / "model", "--backbone", backbone]
    import_main([str(tmp_path / "model.th"), *map(str, arguments)])
    return tmp_path / "model"


def same(left, right):
    return left.keys() == right.keys() and all(
        left[name].dtype == x.dtype and torch.equal(left[name], x) for name, x in right.items()
    )


def test_import_and_export_round_trip(released, backbone, tmp_path, capsys):
    folder = converted(released, backbone, tmp_path)
    printed = capsys.readouterr().out
    assert all(name in printed for name in load_file(folder / UNREAD))
    model = load_portrait_model(str(folder))
    unet = model.backbone.unet
    assert unet.config.block_out_channels == [32, 64]
    assert torch.equal(unet.conv_in.weight, released["model.diffusion_model.input_blocks.0.0.weight"])
    assert torch.equal(model.backbone.empty_prompt, noise(1, TOKENS, CHANNELS))
    latents = noise(2, 4, 8, 8)
    bank = model.reference(latents.unsqueeze(1)[:1], torch.tensor([5]), model.backbone.empty_prompt)
    out = model.denoiser()(latents, torch.tensor([5, 5]), bank, noise(2, 3, 64, 64), views=2)
    assert out.isfinite().all()

    export_main([str(folder), "--out", str(tmp_path / "again.th")])
    assert same(torch.load(tmp_path / "again.th", weights_only=True), released)
    export_main([str(folder), "--out", str(tmp_path / "again.safetensors")])
    assert same(load_file(tmp_path / "again.safetensors"), released)


@pytest.mark.slow
def test_the_backbone_may_be_a_single_file(released, tmp_path):
    networks = narrow_networks()
    path = write(single_file_tensors(*networks), tmp_path / "v1-5-pruned-emaonly.safetensors")
    loaded = load_backbone(str(converted(released, path, tmp_path)))
    _, vae, text = networks
    assert all(torch.equal(x.half().float(), loaded.vae.state_dict()[n]) for n, x in vae.state_dict().items())
    torch.testing.assert_close(loaded.empty_prompt, embed_nothing(text), rtol=1e-2, atol=1e-2)
    assert torch.equal(loaded.scheduler.alphas_cumprod, released_schedule().alphas_cumprod)


def complete(released):
    """A whole file in half precision with VAE, text encoder and a trainer's buffers; the text encoder."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=99,
        hidden_size=CHANNELS,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=1,
        max_position_embeddings=TOKENS,
        projection_dim=CHANNELS,
        bos_token_id=97,
        eos_token_id=98,
    )
    encoder = transformers.CLIPTextModel(config).eval()
    text = {f"text_model.{name.removeprefix('text_model.')}": x for name, x in encoder.state_dict().items()}
    with torch.device("meta"):
        vae = toy_vae(block_out_channels=(32, 32, 32), norm_num_groups=32)
    vae_shapes = released_part("vae", vae, names.vae_names(vae)).shapes
    more = {
        **weights(vae_shapes),
        **{f"cond_stage_model.transformer.{name}": x for name, x in text.items()},
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(TOKENS).unsqueeze(0),
        "betas": released_schedule().betas,
        "logvar": torch.zeros(1000),
    }
    everything = {name: x.half() if x.is_floating_point() else x for name, x in (released | more).items()}
    return everything, encoder


def test_vae_and_text_encoder_are_imported_from_the_file(released, tmp_path):
    everything, encoder = complete(released)
    torch.save({"state_dict": everything, "global_step": 540000}, tmp_path / "model.th")
    import_main([str(tmp_path / "model.th"), "--out", str(tmp_path / "model")])
    backbone = load_backbone(str(tmp_path / "model"))
    assert backbone.vae.config.scaling_factor == 0.18215
    assert backbone.downsampling == 4
    tokens = torch.tensor([[97] + [98] * (TOKENS - 1)])
    expected = encoder.half().float()(tokens).last_hidden_state
    torch.testing.assert_close(backbone.empty_prompt, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(backbone.scheduler.alphas_cumprod, released_schedule().alphas_cumprod)
    assert same(released_tensors(tmp_path / "model"), everything)


def test_import_converts_to_the_given_dtype(released, backbone, tmp_path):
    torch.save(released, tmp_path / "model.th")
    arguments = ["--out", tmp_path / "model", "--backbone", backbone, "--dtype", "bfloat16"]
    import_main([str(tmp_path / "model.th"), *map(str, arguments)])
    for part in ("unet", "appearance_reference", "view_control", "cross_view", "vae"):
        stored = load_file(tmp_path / "model" / part / "diffusion_pytorch_model.safetensors")
        assert {x.dtype for x in stored.values()} == {torch.bfloat16}


@pytest.mark.parametrize("heads", [8, 4, 2])
def test_trained_model_exports_and_imports_equally(tmp_path, heads):
    """V has 8 heads, independently of F."""
    unet = toy_unet(**NARROW | {"attention_head_dim": heads})
    backbone = Backbone(toy_vae(), unet, released_schedule(), noise(1, TOKENS, CHANNELS))
    reference = shake(AppearanceReference.from_unet(unet))
    control, cross_view = shake(view_control(unet, 8)), shake(CrossView.from_unet(unet, positions=0))
    model = PortraitModel(backbone, reference, control, cross_view)
    save_portrait_model(model, str(tmp_path / "trained"))
    export_main([str(tmp_path / "trained"), "--out", str(tmp_path / "model.th")])
    tensors = torch.load(tmp_path / "model.th", weights_only=True)
    # layers that F_ref omits are taken from F; layers that V omits are zero
    tail = "output_blocks.3.1.transformer_blocks.0.attn1.to_q.weight"
    assert torch.equal(tensors[f"control_model.{tail}"], tensors[f"model.diffusion_model.{tail}"])
    absent = [name for name in tensors if name.endswith(".pe") or "middle_block_motion_module" in name]
    assert len(absent) == 2 * (3 + 4 + 1 + 1) + 26
    assert all(not tensors[name].any() for name in absent)

    save_backbone(backbone, str(tmp_path / "sd15"))
    arguments = ["--out", tmp_path / "back", "--backbone", tmp_path / "sd15", "--heads", heads]
    import_main([str(tmp_path / "model.th"), *map(str, arguments)])
    back = load_portrait_model(str(tmp_path / "back"))
    latents, timesteps = noise(4, 4, 8, 8), torch.full((4,), 300)
    outputs = []
    for each in (model, back):
        bank = each.reference(noise(2, 1, 4, 8, 8), timesteps[:2], backbone.empty_prompt)
        denoiser = each.denoiser().eval()
        outputs.append(denoiser(latents, timesteps, bank, noise(4, 3, 64, 64), views=2))
        outputs.append(denoiser(latents, timesteps, views=2))
    torch.testing.assert_close(outputs[:2], outputs[2:])


def test_models_without_a_released_counterpart_are_input_errors(tmp_path, capsys):
    unet = toy_unet(**NARROW)
    backbone = Backbone(toy_vae(), unet, released_schedule(), noise(1, TOKENS, CHANNELS))
    parts = AppearanceReference.from_unet(unet), view_control(unet, 8)
    always = PortraitModel(backbone, *parts, CrossView.from_unet(unet, middle="always"))
    save_portrait_model(always, str(tmp_path / "always"))
    assert_usage_error(export_main, tmp_path / "always", "--out", tmp_path / "model.th")
    assert "middle=unconditional or middle=never" in capsys.readouterr().err
    save_portrait_model(PortraitModel(backbone, *parts), str(tmp_path / "early"))
    assert_usage_error(export_main, tmp_path / "early", "--out", tmp_path / "model.th")
    assert "has no cross_view/" in capsys.readouterr().err
    assert not (tmp_path / "model.th").exists()


@pytest.mark.parametrize(
    ("changes", "of_v", "message"),
    [
        ({}, {"ff_mult": 2}, "the authors' code has ff_mult=4, this model's CrossView 2"),
        ({"norm_num_groups": 16}, {}, "has norm_num_groups=32"),
        ({"flip_sin_to_cos": False}, {}, "has flip_sin_to_cos=True, this model's UNet2DConditionModel False"),
        ({"act_fn": "mish"}, {}, "has act_fn='silu'"),
        ({"attention_head_dim": [4, 8]}, {}, r"the same number of heads in every layer, this model [4, 8]"),
        ({"use_linear_projection": True}, {}, "use_linear_projection=True"),
    ],
)
def test_settings_fixed_in_the_authors_code_are_input_errors(tmp_path, capsys, changes, of_v, message):
    unet = toy_unet(**NARROW | changes)
    backbone = Backbone(toy_vae(), unet, released_schedule(), noise(1, TOKENS, CHANNELS))
    parts = AppearanceReference.from_unet(unet), view_control(unet, 8), CrossView.from_unet(unet, **of_v)
    save_portrait_model(PortraitModel(backbone, *parts), str(tmp_path / "trained"))
    assert_usage_error(export_main, tmp_path / "trained", "--out", tmp_path / "model.th")
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model.th").exists()


def test_inspect_prints_and_writes_nothing(released, tmp_path, capsys):
    torch.save(released, tmp_path / "model.th")
    import_main([str(tmp_path / "model.th"), "--inspect"])
    printed = capsys.readouterr().out
    assert "| control_model |" in printed
    assert "F: widths [32, 64], 1 residual blocks per level" in printed
    assert "Does not fit: nothing" in printed
    save_file({"weight": noise(2, 2)}, tmp_path / "other.safetensors")
    import_main([str(tmp_path / "other.safetensors"), "--inspect"])
    assert "Not a released DiffPortrait3D" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"model.th", "other.safetensors"}


class Payload:
    def __reduce__(self):
        return (print, ("code ran",))


def test_invalid_files_are_one_line_errors_and_write_nothing(released, backbone, tmp_path, capsys):
    name = next(iter(released))
    bad = {
        "unexpected": (released | {"extra": noise(1)}, "unexpected extra"),
        "missing": ({k: x for k, x in released.items() if k != name}, f"missing {name}"),
        "misshapen": (released | {name: noise(3, 3)}, f"misshapen {name}"),
        "code": (released | {name: Payload()}, "holds more than tensors"),
        "number": (released | {"step": 5}, "not a state dict of tensors: step"),
        "list": ([1, 2], "holds a list"),
        "schedule": (released | {"betas": torch.linspace(1e-4, 0.02, 1000)}, "betas are not"),
    }
    for case, (contents, message) in bad.items():
        torch.save(contents, tmp_path / f"{case}.th")
        assert_usage_error(
            import_main, tmp_path / f"{case}.th", "--out", tmp_path / "model", "--backbone", backbone
        )
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
        assert line.startswith("error: ")
    torch.save(released, tmp_path / "cut.th")
    (tmp_path / "cut.th").write_bytes((tmp_path / "cut.th").read_bytes()[:100_000])
    for arguments, message in (
        ([tmp_path / "cut.th", "--out", tmp_path / "model"], "truncated"),
        ([tmp_path / "none.th", "--out", tmp_path / "model"], "does not exist"),
        ([tmp_path / "unexpected.th", "--out", backbone], "unexpected"),
    ):
        assert_usage_error(import_main, *arguments)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    assert not (tmp_path / "model.partial").exists()


def test_missing_arguments_are_input_errors(released, backbone, tmp_path, capsys):
    torch.save(released, tmp_path / "model.th")
    for arguments, message in (
        ([], "--out is missing"),
        (["--out", tmp_path / "model"], "no vae and no text_encoder: name a Stable Diffusion 1.5 folder"),
        (["--out", backbone], "exists already"),
    ):
        assert_usage_error(import_main, tmp_path / "model.th", *arguments)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("unet", {"addition_embed_type": "text_time"}, "not Stable Diffusion 1.5"),
        ("vae", {"scaling_factor": None}, "scaling_factor is None"),
    ],
)
def test_wrong_backbone_is_an_input_error(released, backbone, tmp_path, capsys, file, changes, message):
    """Shapes do not tell: SDXL's VAE and first text encoder have those of Stable Diffusion 1.5."""
    config = backbone / file / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    torch.save(released, tmp_path / "model.th")
    assert_usage_error(
        import_main, tmp_path / "model.th", "--out", tmp_path / "model", "--backbone", backbone
    )
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_provenance_is_written(released, backbone, tmp_path):
    folder = converted(released, backbone, tmp_path)
    holdings = json.loads((folder / HOLDINGS).read_text())
    assert holdings["from"] == "model.th"
    assert holdings["parts"] == ["unet", "appearance_reference", "view_control", "cross_view"]


def test_imported_model_loads_in_stages_and_pipeline(released, backbone, tmp_path):
    folder = converted(released, backbone, tmp_path)
    stage = ViewControlStage(backbone=str(folder), appearance=str(folder / REFERENCE))
    assert stage.reference_timestep == "current"
    pipeline = DiffPortrait3DPipeline.from_pretrained(folder)
    assert pipeline.config.reference_timestep == "current"
    assert pipeline.image_size == 512 // 2  # the toy VAE downsamples by 4, the released one by 8
