"""Tables of our tensor names and the released checkpoint's, for conversion in both directions.

The released networks use CompVis' names (`input_blocks.4.1…`), ours diffusers'
(`down_blocks.1.attentions.0…`). Tables are built by iterating over one of our networks, and so fit any width
and depth.
"""

from collections.abc import Iterable, Mapping

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.layers import Layer, UNetParts, down_layers, mid_layers, up_layers

UNET = "model.diffusion_model"
REFERENCE = "control_model"
CONTROL = "pose_control_model"
VAE = "first_stage_model"
TEXT = "cond_stage_model.transformer"

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_names(unet: UNetParts, prefix: str) -> dict[str, str]:
    """Our tensor names to the released ones for F, or for the UNet parts of F_ref or F_cam."""
    places = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    own = {module: name for name, module in unet.named_modules()}
    for n, layer in enumerate(down_layers(unet), start=1):
        places |= _layers(f"input_blocks.{n}", [layer], own)
    places |= _layers("middle_block", mid_layers(unet), own)
    for n, layer in enumerate(up_layers(unet) if hasattr(unet, "up_blocks") else []):
        places |= _layers(f"output_blocks.{n}", [layer], own)
    return _tensors(unet, places, prefix)


def control_names(control: ControlNetModel) -> dict[str, str]:
    """Our tensor names to the released ones for F_cam."""
    hint = control.controlnet_cond_embedding
    places = {
        "controlnet_cond_embedding.conv_in": "input_hint_block.0",
        "controlnet_cond_embedding.conv_out": f"input_hint_block.{2 + 2 * len(hint.blocks)}",
        "controlnet_mid_block": "middle_block_out.0",
    }
    for k in range(len(hint.blocks)):
        places[f"controlnet_cond_embedding.blocks.{k}"] = f"input_hint_block.{2 + 2 * k}"
    for k in range(len(control.controlnet_down_blocks)):
        places[f"controlnet_down_blocks.{k}"] = f"zero_convs.{k}.0"
    return unet_names(control, CONTROL) | _tensors(control, places, CONTROL)


def cross_view_names(cross_view: CrossView) -> dict[str, str]:
    """Our tensor names to the released ones for V."""
    roots = {f"down.{n}": f"input_blocks_motion_module.{n}.0" for n in range(len(cross_view.down))}
    roots["mid"] = "middle_block_motion_module.0"
    for n, row in enumerate(cross_view.up):
        roots |= {f"up.{n}.{m}": f"output_blocks_motion_module.{n}.{m}" for m in range(len(row))}
    places = {}
    for ours, theirs in roots.items():
        root = f"{theirs}.temporal_transformer"
        places[ours] = root
        for b in range(cross_view.config.layers):
            places[f"{ours}.blocks.{b}"] = block = f"{root}.transformer_blocks.{b}"
            for a in range(cross_view.config.attentions):
                attention = f"{ours}.blocks.{b}.attentions.{a}"
                places[f"{attention}.norm"] = f"{block}.norms.{a}"
                places[f"{attention}.attention"] = f"{block}.attention_blocks.{a}"
                places[f"{attention}.positions"] = f"{block}.attention_blocks.{a}.pos_encoder.pe"
    return _tensors(cross_view, places, UNET)


def vae_names(vae: AutoencoderKL) -> dict[str, str]:
    """Our tensor names to the released ones for the VAE, whose released attention has convolutions."""
    places = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    levels, layers = len(vae.config.block_out_channels), vae.config.layers_per_block
    places |= _vae_coder("encoder", "down", range(levels), layers)
    places |= _vae_coder("decoder", "up", reversed(range(levels)), layers + 1)
    return _tensors(vae, places, VAE)


def _vae_coder(side: str, direction: str, levels: Iterable[int], layers: int) -> dict[str, str]:
    """`levels` are the released levels in the order of our blocks; the released decoder counts backwards."""
    places = {f"{side}.{name}": f"{side}.{name}" for name in ("conv_in", "conv_out")}
    places[f"{side}.conv_norm_out"] = f"{side}.norm_out"
    places |= _vae_resnet(f"{side}.mid_block.resnets.0", f"{side}.mid.block_1")
    places |= _vae_resnet(f"{side}.mid_block.resnets.1", f"{side}.mid.block_2")
    attention = f"{side}.mid_block.attentions.0"
    places |= {f"{attention}.{ours}": f"{side}.mid.attn_1.{theirs}" for ours, theirs in VAE_ATTENTION.items()}
    for i, level in enumerate(levels):
        block, other = f"{side}.{direction}_blocks.{i}", f"{side}.{direction}.{level}"
        for j in range(layers):
            places |= _vae_resnet(f"{block}.resnets.{j}", f"{other}.block.{j}")
        places[f"{block}.{direction}samplers.0"] = f"{other}.{direction}sample"
    return places


def _vae_resnet(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.conv_shortcut": f"{theirs}.nin_shortcut"} | {
        f"{ours}.{name}": f"{theirs}.{name}" for name in ("norm1", "conv1", "norm2", "conv2")
    }


def _layers(theirs: str, layers: list[Layer], own: Mapping[nn.Module, str]) -> dict[str, str]:
    """The modules of layers, numbered in the order of execution, as in CompVis' sequential blocks."""
    parts = [part for layer in layers for part in layer[1:] if part is not None]
    places = {}
    for k, part in enumerate(parts):
        name = own[part]
        places[name] = f"{theirs}.{k}"
        if isinstance(part, ResnetBlock2D):
            places |= {f"{name}.{mine}": f"{theirs}.{k}.{other}" for mine, other in RESNET.items()}
        elif isinstance(part, Downsample2D):
            places[f"{name}.conv"] = f"{theirs}.{k}.op"
    return places


def _tensors(network: nn.Module, places: Mapping[str, str], prefix: str) -> dict[str, str]:
    """The released name of each of a network's tensors below one of `places`, by the innermost one."""
    table = {}
    for name in network.state_dict():
        parts = name.split(".")
        for cut in range(len(parts), 0, -1):
            place = places.get(".".join(parts[:cut]))
            if place is not None:
                table[name] = ".".join([prefix, place, *parts[cut:]])
                break
    return table
