"""Layer-by-layer execution of a Stable Diffusion UNet, shared by F (3.1), F_ref (3.2) and F_cam (3.3).

The forward pass of diffusers' UNet cannot be interrupted between its layers, as the paper needs: V follows
each of them, F_ref ends before its last self-attention, and F's self-attentions read another network's
tokens. Therefore the UNet is represented as a list of `Layer`s, one for each skip connection, which are run
one by one. The weights stay in diffusers' modules.

Shape letters: N items of a batch, C channels, H W latent size, L tokens (H*W), T prompt tokens, M bank
tokens.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from core.errors import InputError

Result = TypeVar("Result")
KeysValues = tuple[Tensor, Tensor]
ReadBank = Callable[[str, Attention], KeysValues | None]


class UNetParts(Protocol):
    """The modules needed from a network; diffusers' UNet and ControlNet have them, and so has F_ref."""

    conv_in: nn.Module
    time_proj: nn.Module
    time_embedding: nn.Module
    down_blocks: nn.ModuleList
    mid_block: nn.Module
    up_blocks: nn.ModuleList
    named_modules: Callable[..., Any]


class Context(NamedTuple):
    """Inputs shared by all layers of one pass.

    `time` is the time embedding (N, D), `prompt` the prompt (1, T, D'), or (G, T, D') for G equal parts of
    the items, and `read` returns the additional keys and values of a self-attention, which only the first
    `reading` items use (None: all).
    """

    time: Tensor
    prompt: Tensor
    read: ReadBank | None = None
    reading: int | None = None


class Layer(NamedTuple):
    """A residual block, its transformer and a resampler, in this order, each optional.

    `name` is the transformer's name in the UNet, or the residual block's if there is no transformer.
    """

    name: str
    resnet: ResnetBlock2D | None = None
    transformer: Transformer2DModel | None = None
    resample: Downsample2D | Upsample2D | None = None


def down_layers(unet: UNetParts) -> list[Layer]:
    """The layers of the encoder, one for each skip connection except the first (that of `conv_in`)."""
    layers = []
    for i, block in enumerate(unet.down_blocks):
        layers += _blocks(f"down_blocks.{i}", block)
        for j, downsampler in enumerate(block.downsamplers or ()):
            layers.append(Layer(f"down_blocks.{i}.downsamplers.{j}", resample=downsampler))
    return layers


def mid_layers(unet: UNetParts) -> list[Layer]:
    """The layers of the middle block: a transformer follows each residual block except the last."""
    return _blocks("mid_block", unet.mid_block)


def up_layers(unet: UNetParts) -> list[Layer]:
    """The layers of the decoder, one for each skip connection; the last of a block includes its upsampler."""
    layers = []
    for i, block in enumerate(unet.up_blocks):
        layers += _blocks(f"up_blocks.{i}", block)
        for upsampler in block.upsamplers or ():
            layers[-1] = layers[-1]._replace(resample=upsampler)
    return layers


def _blocks(name: str, block: nn.Module) -> list[Layer]:
    transformers = list(getattr(block, "attentions", ()))
    layers = []
    for j, resnet in enumerate(block.resnets):
        if j < len(transformers):
            layers.append(Layer(f"{name}.attentions.{j}", resnet, transformers[j]))
        else:
            layers.append(Layer(f"{name}.resnets.{j}", resnet))
    return layers


def attention_name(layer: Layer, index: int) -> str:
    """The name of the self-attention of a layer's transformer block, the key in a bank."""
    return f"{layer.name}.transformer_blocks.{index}.attn1"


def self_attentions(layers: list[Layer]) -> dict[str, Attention]:
    """All self-attentions by name, in the order of execution."""
    return {
        attention_name(layer, index): block.attn1
        for layer in layers
        if layer.transformer is not None
        for index, block in enumerate(layer.transformer.transformer_blocks)
    }


def embed_time(unet: UNetParts, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
    """Embed timesteps (N,) as (N, D), which every residual block adds."""
    return unet.time_embedding(unet.time_proj(timesteps).to(dtype))


def check_latents(unet: UNetParts, latents: Tensor) -> None:
    """Raise InputError unless the UNet supports latents (N, C, H, W) in channels, size and precision."""
    factor = 2 ** sum(1 for block in unet.down_blocks if block.downsamplers)
    channels = unet.conv_in.in_channels
    if unet.conv_in.weight.dtype == torch.float16 and latents.device.type == "cpu":
        raise InputError("float16 weights on a CPU: load them in float32 or bfloat16, or use a GPU")
    if latents.ndim != 4 or latents.shape[1] != channels:
        raise InputError(f"latents of shape {tuple(latents.shape)}: the network takes (N, {channels}, H, W)")
    if latents.shape[2] % factor or latents.shape[3] % factor:
        raise InputError(
            f"a latent of {latents.shape[2]}x{latents.shape[3]} does not divide by {factor}, which this UNet "
            f"needs: use images whose side is a multiple of {factor} times the VAE's down-sampling"
        )


def run_layer(layer: Layer, hidden: Tensor, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
    """Run one layer on hidden states (N, C, H, W).

    Also returns the normalised input (N, L, C) of each self-attention by name, the features of a bank.
    """
    features: dict[str, Tensor] = {}
    if layer.resnet is not None:
        hidden = layer.resnet(hidden, context.time)
    if layer.transformer is not None:
        tokens = to_tokens(layer.transformer, hidden)
        for index, block in enumerate(layer.transformer.transformer_blocks):
            name = attention_name(layer, index)
            tokens, features[name] = run_block(name, block, tokens, context)
        hidden = from_tokens(layer.transformer, tokens, hidden)
    if layer.resample is not None:
        hidden = layer.resample(hidden)
    return hidden, features


def to_tokens(transformer: Transformer2DModel, hidden: Tensor) -> Tensor:
    """(N, C, H, W) to (N, L, C): a transformer's input projection."""
    return transformer.proj_in(transformer.norm(hidden)).flatten(2).transpose(1, 2)


def from_tokens(transformer: Transformer2DModel, tokens: Tensor, residual: Tensor) -> Tensor:
    """(N, L, C) to (N, C, H, W): a transformer's output projection, added to its residual."""
    hidden = tokens.transpose(1, 2).unflatten(2, residual.shape[2:])
    return transformer.proj_out(hidden) + residual


def run_block(
    name: str, block: BasicTransformerBlock, tokens: Tensor, context: Context
) -> tuple[Tensor, Tensor]:
    """Run a transformer block on tokens (N, L, C): self-attention with the bank, attention to the prompt,
    feed-forward.

    Returns the new tokens and the self-attention's normalised input, both (N, L, C).
    """
    normed = block.norm1(tokens)
    beside = None if context.read is None else context.read(name, block.attn1)
    tokens = tokens + attend_beside(block.attn1, normed, beside, context.reading)
    tokens = tokens + attend(block.attn2, block.norm2(tokens), *project(block.attn2, context.prompt))
    return tokens + block.ff(block.norm3(tokens)), normed


def project(attention: Attention, tokens: Tensor) -> KeysValues:
    """Project tokens (N, M, C) to an attention's keys and values, (N, M, C) each."""
    return attention.to_k(tokens), attention.to_v(tokens)


def attend_beside(
    attention: Attention, tokens: Tensor, extra: KeysValues | None, reading: int | None = None
) -> Tensor:
    """Self-attention over tokens (N, L, C) ⊕ extra keys and values (B, M, C), N a multiple of B (Eq. 4).

    Each extra row is used by the N / B consecutive items of its portrait; items from `reading` on, if given,
    use none.
    """
    if reading is not None:
        first, rest = tokens.tensor_split([reading])
        return torch.cat([attend_beside(attention, first, extra), attend_beside(attention, rest, None)])
    own = project(attention, tokens)
    if extra is None:
        return attend(attention, tokens, *own)
    keys, values = (_concatenate(mine, other) for mine, other in zip(own, extra, strict=True))
    return attend(attention, tokens, keys, values)


def _concatenate(own: Tensor, extra: Tensor) -> Tensor:
    portraits = extra.shape[0]
    own = own.unflatten(0, (portraits, -1))  # (B, V, L, C)
    extra = extra.unsqueeze(1).expand(-1, own.shape[1], -1, -1)  # (B, V, M, C), a view
    return torch.cat([own, extra], dim=2).flatten(0, 1)


def attend(attention: Attention, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Multi-head attention of tokens (N, L, C) over keys and values (N, M, C), or (G, M, C) that N / G
    consecutive items share."""
    queries = attention.to_q(tokens)
    if keys.shape[0] < tokens.shape[0] or keys.shape[0] == 1:
        # The queries of items that share keys are joined into one long item, so that no keys are repeated.
        queries = queries.unflatten(0, (keys.shape[0], -1)).flatten(1, 2)
    split = [x.unflatten(2, (attention.heads, -1)).transpose(1, 2) for x in (queries, keys, values)]
    mixed = mix(*split)  # (N, heads, L, C / heads)
    mixed = mixed.transpose(1, 2).flatten(2).reshape(*tokens.shape[:2], -1)
    return attention.to_out[1](attention.to_out[0](mixed))


def mix(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Scaled dot-product attention of (N, heads, L, D) over (N, heads, M, D).

    On a CPU, half precisions are converted to float32: the backward pass of the bfloat16 kernel would take
    half of a training step.
    """
    if queries.device.type != "cpu" or queries.dtype not in (torch.bfloat16, torch.float16):
        return F.scaled_dot_product_attention(queries, keys, values)
    with torch.autocast("cpu", enabled=False):
        mixed = F.scaled_dot_product_attention(queries.float(), keys.float(), values.float())
    return mixed.to(queries.dtype)


def maybe_checkpoint(enabled: bool, function: Callable[..., Result], *args: object) -> Result:
    """`function(*args)`, with activation checkpointing if `enabled`."""
    if enabled and torch.is_grad_enabled():
        return checkpoint(function, *args, use_reentrant=False)
    return function(*args)
