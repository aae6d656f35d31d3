"""`python -m benchmarks.denoising`: what a guided denoising step and a training step of stage 1 cost.

Against the straightforward step of the released sampler, built from the same parts and measured in the same
run, round and round so that a machine's moods fall on all alike, on a CPU in processor time: there F_ref runs
on a copy of the reference for each view at every step, F_cam runs in both passes and sees its condition
images anew, and the reference's keys and values are projected for each view. And against the floor: the
floating-point operations that any way of computing the step must do, at the rate at which this machine
multiplies matrices.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jsonargparse import ArgumentParser
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.layers import KeysValues
from lightning_modules.networks.reference import AppearanceReference, Bank, ReferenceBank
from lightning_modules.networks.speed import tune
from lightning_modules.networks.view_control import view_control
from shards.errors import InputError, one_line

Scale = Literal["reduced", "sd15"]


@dataclass(frozen=True)
class Size:
    """F's widths, level by level, and the side of its latents."""

    widths: tuple[int, ...]
    latent: int


# Stable Diffusion 1.5's UNet at 512x512, and one of its shape that two CPU cores run in seconds.
SIZES = {"reduced": Size((64, 128, 256, 256), 16), "sd15": Size((320, 640, 1280, 1280), 64)}
TOKENS, DOWNSAMPLING = 77, 8
FLOOR = "The floor is the last way's operations at the rate of matrix products."


@dataclass
class Parts:
    """The networks, and a batch of one portrait for them."""

    denoiser: Denoiser
    reference: AppearanceReference
    latents: Tensor
    condition: Tensor
    portrait: Tensor
    timestep: int = 501

    @property
    def views(self) -> int:
        """V."""
        return len(self.latents)

    def timesteps(self, count: int) -> Tensor:
        """(count,)."""
        return torch.full((count,), self.timestep, device=self.latents.device)

    def bank(self, copies: int = 1) -> Bank:
        """F_ref on copies of the portrait."""
        portraits = self.portrait.expand(copies, -1, -1, -1, -1)
        return self.reference(portraits, self.timesteps(copies), self.denoiser.empty_prompt)


def build(
    size: Size, views: int, device: str, dtype: torch.dtype, channels_last: bool, compile: bool
) -> Parts:
    """Networks of random weights and a batch to run them on."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(block_out_channels=size.widths, cross_attention_dim=768)
        cross_view = CrossView.from_unet(unet, middle="unconditional")
        denoiser = Denoiser(unet, torch.randn(1, TOKENS, 768), view_control(unet, DOWNSAMPLING), cross_view)
        reference = AppearanceReference.from_unet(unet)
        side = size.latent
        latents, portrait = torch.randn(views, 4, side, side), torch.randn(1, 1, 4, side, side)
        condition = torch.randn(views, 3, side * DOWNSAMPLING, side * DOWNSAMPLING)
    for network in (denoiser, reference):
        tune(network.eval(), channels_last=channels_last, dtype=dtype, compile=compile)
    return Parts(denoiser, reference, latents.to(dtype), condition.to(dtype), portrait.to(dtype))


class CopiedBank:
    """The bank of one portrait as the released sampler has it: a copy for each view, projected for each
    view."""

    portraits = 1

    def __init__(self, bank: ReferenceBank) -> None:
        self.bank = bank

    def keys_values(self, name: str, attention: Attention) -> KeysValues:
        """Keys and values (V, L, C) of V equal features."""
        return self.bank.keys_values(name, attention)


def guided(parts: Parts, bank: Bank, hint: Tensor) -> Tensor:
    """The two passes of a guided step."""
    denoiser, timesteps = parts.denoiser, parts.timesteps(parts.views)
    conditional = denoiser(parts.latents, timesteps, bank, hint=hint, views=parts.views)
    unconditional = denoiser(parts.latents, timesteps, views=parts.views)
    return unconditional + 3 * (conditional - unconditional)


def released_step(parts: Parts) -> Tensor:
    """The straightforward step: everything for each view, F_cam in both passes."""
    denoiser, timesteps = parts.denoiser, parts.timesteps(parts.views)
    denoiser.control_residuals(parts.latents, timesteps, denoiser.embed_condition(parts.condition))
    bank = CopiedBank(parts.bank(copies=parts.views))
    return guided(parts, bank, denoiser.embed_condition(parts.condition))


def steps(parts: Parts) -> dict[str, Callable[[], Tensor]]:
    """The ways of doing one guided step, the straightforward one first, the least work last."""
    hint = parts.denoiser.embed_condition(parts.condition)
    fixed = parts.denoiser.project(parts.bank())
    return {
        "released": lambda: released_step(parts),
        "ours": lambda: guided(parts, parts.bank(), hint),
        "ours, fixed timestep": lambda: guided(parts, fixed, hint),
    }


def training_step(parts: Parts, copies: int, checkpointing: bool) -> Tensor:
    """Forward and backward of stage 1: the loss (Eq. 1) through the bank into F_ref, F frozen."""
    denoiser, reference = parts.denoiser, parts.reference
    denoiser.gradient_checkpointing = reference.gradient_checkpointing = checkpointing
    reference.zero_grad(set_to_none=True)
    bank = parts.bank(copies)
    if copies > 1:
        bank = CopiedBank(bank)
    bare = Denoiser(denoiser.unet, denoiser.empty_prompt, gradient_checkpointing=checkpointing)
    epsilon = bare(parts.latents, parts.timesteps(parts.views), bank, views=parts.views)
    loss = epsilon.float().square().mean()
    loss.backward()
    return loss.detach()


def training(parts: Parts) -> dict[str, Callable[[], Tensor]]:
    """The ways of doing one training step of stage 1 on as many targets as there are latents."""
    parts.denoiser.requires_grad_(False)
    return {
        "a copy for each target": lambda: training_step(parts, parts.views, checkpointing=False),
        "ours": lambda: training_step(parts, 1, checkpointing=False),
        "ours, checkpointed": lambda: training_step(parts, 1, checkpointing=True),
    }


def seconds(run: Callable[[], Tensor], device: str) -> float:
    """One run's time, to the end of what it started; on a CPU the processor's time, over all its threads."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def in_turn(runs: dict[str, Callable[[], Tensor]], rounds: int, device: str, title: str) -> dict[str, float]:
    """The best time of each, measured round and round after one of each that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    with tqdm(total=(rounds + 1) * len(runs), desc=title, unit="run") as bar:
        for turn in range(rounds + 1):
            for name, run in runs.items():
                spent = seconds(run, device)
                if turn:
                    times[name].append(spent)
                bar.update()
    return {name: min(spent) for name, spent in times.items()}


def operations(run: Callable[[], Tensor]) -> int:
    """The floating-point operations of a run: two for each multiplication of its matrices and
    convolutions."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second of the best of a few large matrix products."""
    side = 8192 if device == "cuda" else 1536
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / min(seconds(lambda: left @ right, device) for _ in range(8))


def kept_bytes(run: Callable[[], Tensor], parts: Parts, device: str) -> int:
    """Peak memory of a training step above the weights on a GPU; on a CPU, what is kept for the backward
    pass."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    weights = {
        x.untyped_storage().data_ptr()
        for part in (parts.denoiser, parts.reference)
        for x in part.parameters()
    }
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run()
    return sum(kept.values())


def table(times: dict[str, float], work: dict[str, int], floor: float, memory: dict[str, int] | None) -> str:
    """Markdown: what each way takes, how much faster than the first, how far from the floor."""
    first = next(iter(times.values()))
    titles = ["way", "ms", "faster", "GFLOP", "floor / time"] + (["MB"] if memory else [])
    lines = ["| " + " | ".join(titles) + " |", "|---" + "|---:" * (len(titles) - 1) + "|"]
    for name, spent in times.items():
        cells = [name, f"{spent * 1e3:.1f}", f"{first / spent:.2f}x", f"{work[name] / 1e9:.1f}"]
        cells += [f"{floor / spent:.0%}"] + ([f"{memory[name] / 1e6:.0f}"] if memory else [])
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def benchmark(
    scale: Scale | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    dtype: Literal["float32", "bfloat16"] | None = None,
    views: int = 8,
    batch: int = 16,
    rounds: int = 5,
    channels_last: bool = True,
    compile: bool = False,
) -> None:
    """Print the two tables.

    Args:
        scale: sd15 is Stable Diffusion 1.5 at 512x512, the default on a GPU; reduced is for a CPU.
        device: A GPU where there is one.
        dtype: bfloat16 on a GPU, float32 on a CPU by default.
        views: Views of the guided step.
        batch: Targets of the training step.
        rounds: How often each way is timed; the best counts.
        channels_last: Channels-last memory, for all ways alike.
        compile: torch.compile, for all ways alike.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda, and PyTorch sees no GPU here")
    scale = scale or ("sd15" if device == "cuda" else "reduced")
    precision = getattr(torch, dtype or ("bfloat16" if device == "cuda" else "float32"))
    rate = matrix_rate(device, precision)
    print(f"{scale}, {device}, {precision}, matrices at {rate / 1e9:.0f} GFLOP/s\n")

    parts = build(SIZES[scale], views, device, precision, channels_last, compile)
    with torch.no_grad():
        ways = steps(parts)
        work = {name: operations(run) for name, run in ways.items()}
        times = in_turn(ways, rounds, device, "guided step")
    print(f"\nOne guided step, {views} views. {FLOOR}")
    print(table(times, work, min(work.values()) / rate, None))

    parts = build(SIZES[scale], batch, device, precision, channels_last, compile)
    ways = training(parts)
    work = {name: operations(run) for name, run in ways.items()}
    memory = {name: kept_bytes(run, parts, device) for name, run in ways.items()}
    times = in_turn(ways, rounds, device, "training step")
    kept = "peak above the weights" if device == "cuda" else "kept for the backward pass"
    print(f"\nOne training step of stage 1, {batch} targets of one portrait; memory: {kept}.")
    print(table(times, work, min(work.values()) / rate, memory))


def main() -> None:
    """The command. A user's mistake ends in one line."""
    parser = ArgumentParser(description="What a guided denoising step and a training step of stage 1 cost.")
    parser.add_function_arguments(benchmark)
    settings = parser.parse_args().as_dict()
    with one_line():
        benchmark(**settings)


if __name__ == "__main__":
    main()
