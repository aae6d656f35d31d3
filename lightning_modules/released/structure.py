"""Inference of the released networks' settings from the shapes of a checkpoint's tensors.

Each setting is determined by majority among all tensors that depend on it, so that a single missing or
damaged tensor does not change the architecture and is named by the comparison that follows
(`released.checkpoint`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mode
from typing import Any

from core.errors import InputError
from lightning_modules.released.names import CONTROL, TEXT, UNET, VAE

Shapes = Mapping[str, tuple[int, ...]]

NORM_GROUPS = 32  # groups of every group normalisation in the released code
LATENT_SCALE = 0.18215
# Settings that are fixed in the released code, but not in diffusers and our V.
UNET_FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "norm_num_groups": NORM_GROUPS,
    "norm_eps": 1e-5,
    "mid_block_scale_factor": 1,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "timestep_post_act": None,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
}
CROSS_VIEW_FIXED: dict[str, Any] = {"norm_num_groups": NORM_GROUPS, "ff_mult": 4}
RESNET_WIDTH = r"0\.(in_layers\.2|out_layers\.[03])\.(weight|bias)"


@dataclass(frozen=True)
class Level:
    """Common properties of the layers between two downsamplings."""

    width: int
    resnets: int
    transformers: int
    """Number of transformer blocks after each residual block; 0 for a level without attention."""


def unet_config(shapes: Shapes, heads: int) -> dict[str, Any]:
    """The arguments of F's `UNet2DConditionModel`; `heads` cannot be inferred from shapes.

    Raises InputError if the checkpoint has no such UNet, or one that diffusers does not support.
    """
    levels = unet_levels(shapes)
    resnets = {level.resnets for level in levels}
    if len(resnets) > 1:
        raise InputError(f"{UNET}: levels with {sorted(resnets)} residual blocks: they must have the same")
    crowded = [level.width for level in levels if level.width % heads or level.width % NORM_GROUPS]
    if crowded:
        raise InputError(
            f"{UNET}: width {crowded[0]} is no multiple of {heads} heads and {NORM_GROUPS} groups: "
            "--heads says how many heads there are"
        )
    attending = [level.transformers > 0 for level in levels]
    depths = [max(level.transformers, 1) for level in levels]
    if not attending[-1]:
        depths[-1] = max(_count(shapes, rf"{UNET}\.middle_block\.1\.transformer_blocks\.(\d+)\."), 1)
    return {
        "in_channels": _vote(shapes, rf"{UNET}\.input_blocks\.0\.0\.weight", 1),
        "out_channels": _vote(shapes, rf"{UNET}\.out\.2\.(weight|bias)", 0),
        "block_out_channels": [level.width for level in levels],
        "layers_per_block": resnets.pop(),
        "down_block_types": ["CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attending],
        "up_block_types": ["CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attending)],
        "transformer_layers_per_block": depths,
        "cross_attention_dim": _vote(shapes, rf"{UNET}\..*attn2\.to_[kv]\.weight", 1),
        "attention_head_dim": heads,
        "norm_num_groups": NORM_GROUPS,
        "sample_size": 64,
    }


def unet_levels(shapes: Shapes) -> list[Level]:
    """F's encoder, level by level."""
    block = rf"{UNET}\.input_blocks\.{{}}\."
    levels: list[list[tuple[int, int]]] = [[]]
    for n in range(1, _count(shapes, block.format(r"(\d+)"))):
        if any(re.match(block.format(n) + r"0\.op\.", name) for name in shapes):
            levels.append([])
            continue
        width = _vote(shapes, block.format(n) + RESNET_WIDTH, 0)
        levels[-1].append((width, _count(shapes, block.format(n) + r"1\.transformer_blocks\.(\d+)\.")))
    if not all(levels):
        raise InputError(f"{UNET}: a level without residual blocks: not a DiffPortrait3D checkpoint")
    return [
        Level(mode(width for width, _ in level), len(level), max(depth for _, depth in level))
        for level in levels
    ]


def hint_channels(shapes: Shapes) -> tuple[int, ...]:
    """The widths of F_cam's hint encoder, at full resolution and after each halving."""
    convolutions = _count(shapes, rf"{CONTROL}\.input_hint_block\.(\d+)\.")
    places = range(0, convolutions - 1, 4)
    return tuple(_vote(shapes, rf"{CONTROL}\.input_hint_block\.{k}\.(weight|bias)", 0) for k in places)


def cross_view_config(shapes: Shapes, heads: int) -> dict[str, Any]:
    """V's arguments of `CrossView.from_unet`; `heads` cannot be inferred from shapes.

    Raises InputError if the widths are not multiples of it.
    """
    crowded = [level.width for level in unet_levels(shapes) if level.width % heads]
    if crowded:
        raise InputError(
            f"V: width {crowded[0]} is no multiple of {heads} heads: --view_heads says how many there are"
        )
    root = rf"{UNET}\.\w+_motion_module\..*temporal_transformer"
    return {
        "middle": "unconditional",
        "positions": _vote(shapes, rf"{root}\..*\.pos_encoder\.pe", 1),
        "heads": heads,
        "layers": _count(shapes, rf"{root}\.transformer_blocks\.(\d+)\."),
        "attentions": _count(shapes, rf"{root}\..*\.attention_blocks\.(\d+)\."),
    }


def vae_config(shapes: Shapes) -> dict[str, Any]:
    """The arguments of the VAE's `AutoencoderKL`."""
    level = rf"{VAE}\.encoder\.down\.{{}}\.block\."
    levels = range(_count(shapes, rf"{VAE}\.encoder\.down\.(\d+)\."))
    return {
        "in_channels": _vote(shapes, rf"{VAE}\.encoder\.conv_in\.weight", 1),
        "out_channels": _vote(shapes, rf"{VAE}\.decoder\.conv_out\.(weight|bias)", 0),
        "latent_channels": _vote(shapes, rf"{VAE}\.post_quant_conv\.(weight|bias)", 0),
        "block_out_channels": [
            _vote(shapes, level.format(i) + r"\d+\.conv[12]\.(weight|bias)", 0) for i in levels
        ],
        "layers_per_block": _count(shapes, level.format(0) + r"(\d+)\."),
        "down_block_types": ["DownEncoderBlock2D" for _ in levels],
        "up_block_types": ["UpDecoderBlock2D" for _ in levels],
        "norm_num_groups": NORM_GROUPS,
        "sample_size": 512,
        "scaling_factor": LATENT_SCALE,
    }


def text_config(shapes: Shapes) -> dict[str, Any]:
    """The settings of the CLIP text encoder, whose heads are 64 wide, as in all CLIP models."""
    root = rf"{TEXT}\.text_model"
    width = _vote(shapes, rf"{root}\.final_layer_norm\.(weight|bias)", 0)
    return {
        "model_type": "clip_text_model",
        "architectures": ["CLIPTextModel"],
        "hidden_size": width,
        "projection_dim": width,
        "num_attention_heads": max(width // 64, 1),
        "intermediate_size": _vote(shapes, rf"{root}\.encoder\.layers\.\d+\.mlp\.fc1\.(weight|bias)", 0),
        "num_hidden_layers": _count(shapes, rf"{root}\.encoder\.layers\.(\d+)\."),
        "vocab_size": (vocabulary := _vote(shapes, rf"{root}\.embeddings\.token_embedding\.weight", 0)),
        "max_position_embeddings": _vote(shapes, rf"{root}\.embeddings\.position_embedding\.weight", 0),
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "hidden_act": "quick_gelu",
    }


def _vote(shapes: Shapes, pattern: str, dimension: int) -> int:
    """The most frequent size in a dimension, among tensors whose names match a pattern."""
    named = re.compile(pattern + "$")
    sizes = [
        shape[dimension] for name, shape in shapes.items() if named.match(name) and len(shape) > dimension
    ]
    if not sizes:
        readable = pattern.replace("\\", "")
        raise InputError(
            f"no tensor is named {readable}: the checkpoint is incomplete, or not one of DiffPortrait3D"
        )
    return mode(sizes)


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number matched by the pattern's group; 0 if there is none."""
    named = re.compile(pattern)
    return max((int(match.group(1)) + 1 for match in map(named.match, shapes) if match), default=0)
