import pytest
import torch
from diffusers.loaders import single_file_utils

from core.errors import InputError
from core.tensors import shape_faults
from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.view_control import view_control
from lightning_modules.released import names
from lightning_modules.released.checkpoint import layout_of, released_layout, released_part, shapes_of
from lightning_modules.released.structure import unet_config
from tests.networks.toy import toy_unet, toy_vae
from tests.parity.recipe import key_list, weights


@pytest.mark.parametrize("which", ["small", "full"])
def test_every_released_tensor_maps_to_one_parameter(which):
    shapes = key_list(which)
    layout = released_layout(shapes, heads=8)
    assert layout.faults(shapes) == ""
    placed = [theirs for part in layout.parts for theirs in part.names.values()]
    assert len(placed) == len(set(placed))
    assert set(placed) | set(layout.unread) == set(shapes)
    assert not set(placed) & set(layout.unread)


def test_parameter_counts_match_the_release():
    """In millions: F with V 1,443 (V 583), F_cam 361, F_ref 861 including its unused layers."""
    layout = released_layout(key_list("full"), heads=8)
    millions = {
        part.folder: sum(torch.Size(shape).numel() for shape in part.own_shapes.values()) / 1e6
        for part in layout.parts
    }
    assert millions["unet"] + millions["cross_view"] == pytest.approx(1443, abs=1)
    assert millions["cross_view"] == pytest.approx(583, abs=1)
    unread = sum(torch.Size(shape).numel() for shape in layout.unread.values()) / 1e6
    assert millions["appearance_reference"] + unread == pytest.approx(861, abs=1)
    assert millions["view_control"] == pytest.approx(361, abs=1)
    assert all(name.startswith("control_model.") for name in layout.unread)


SCALES = {
    "two levels": {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "transformer_layers_per_block": [1, 2],
    },
    "wider, deeper": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (96, 96, 160),
        "layers_per_block": 3,
        "transformer_layers_per_block": [1, 2, 1],
        "cross_attention_dim": 40,
    },
}


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES.keys())
def test_layout_is_inferred_from_shapes(scale):
    scale = scale | {"norm_num_groups": 32, "attention_head_dim": 8}
    with torch.device("meta"):
        unet = toy_unet(**scale)
        control = view_control(unet, 8)
        cross_view = CrossView.from_unet(unet, middle="unconditional", positions=24, layers=2, attentions=3)
    layout = layout_of(unet, control, cross_view)
    shapes = dict(layout.unread)
    for part in layout.parts:
        shapes |= part.shapes
    found = released_layout(shapes, heads=8)
    assert found.faults(shapes) == ""
    for part, again in zip(layout.parts, found.parts, strict=True):
        assert shape_faults(part.own_shapes, again.own_shapes) == ""
        assert part.names == again.names
    config = unet_config(shapes, heads=8)
    for name, value in scale.items():
        expected = list(value) if isinstance(value, tuple) else value
        if name != "transformer_layers_per_block":
            assert config[name] == expected


def test_unet_names_match_diffusers_conversion():
    shapes = key_list("small")
    unet = released_layout(shapes, heads=8).part("unet")
    tensors = {name: x for name, x in weights(shapes).items() if "motion" not in name and name in unet.shapes}
    config = dict(unet.model.config) | {"class_embed_type": None, "addition_embed_type": None}
    theirs = single_file_utils.convert_ldm_unet_checkpoint(dict(tensors), config)
    ours = unet.to_ours(tensors)
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(x, ours[name]) for name, x in theirs.items())


def test_vae_names_match_diffusers_conversion():
    vae = toy_vae()
    part = released_part("vae", vae, names.vae_names(vae))
    assert part.names.keys() == vae.state_dict().keys()
    released = part.to_released(vae.state_dict())
    assert released["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (8, 8, 1, 1)
    theirs = single_file_utils.convert_ldm_vae_checkpoint(dict(released), dict(vae.config))
    assert theirs.keys() == vae.state_dict().keys()
    assert all(torch.equal(x, vae.state_dict()[name]) for name, x in theirs.items())
    assert shapes_of(part.to_ours(released)) == shapes_of(vae.state_dict())


@pytest.mark.parametrize("place", range(0, 2474, 800))
def test_missing_tensor_is_named(place):
    shapes = key_list("small")
    name = sorted(shapes)[place]
    del shapes[name]
    assert released_layout(shapes, heads=8).faults(shapes) == f"missing {name}"


@pytest.mark.parametrize("place", range(7, 2474, 800))
def test_misshapen_tensor_is_named(place):
    shapes = key_list("small")
    name = sorted(shapes)[place]
    shapes[name] = (*shapes[name][:-1], shapes[name][-1] + 1)
    assert released_layout(shapes, heads=8).faults(shapes).startswith(f"misshapen {name}")


def test_unexpected_tensor_is_named():
    shapes = key_list("small") | {"model.diffusion_model.extra.weight": (1,)}
    assert released_layout(shapes, heads=8).faults(shapes) == "unexpected model.diffusion_model.extra.weight"


@pytest.mark.parametrize(
    ("shapes", "heads", "message"),
    [
        ({"conv_in.weight": (320, 4, 3, 3)}, 8, "not a DiffPortrait3D checkpoint"),
        (key_list("small"), 5, "no multiple of 5 heads and 32 groups: --heads says"),
    ],
)
def test_other_checkpoints_are_input_errors(shapes, heads, message):
    with pytest.raises(InputError, match=message):
        released_layout(shapes, heads)


def test_cross_view_has_its_own_number_of_heads():
    layout = released_layout(key_list("small"), heads=4, view_heads=2)
    assert layout.part("unet").model.config.attention_head_dim == 4
    assert layout.part("cross_view").model.config.heads == 2
    assert released_layout(key_list("small"), heads=4).part("cross_view").model.config.heads == 8
    with pytest.raises(InputError, match="no multiple of 3 heads: --view_heads says"):
        released_layout(key_list("small"), heads=8, view_heads=3)
