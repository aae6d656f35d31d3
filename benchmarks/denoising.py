"""`python -m benchmarks.denoising`: what a guided denoising step and a training step of stage 1 cost.

Against the straightforward step of the released sampler, built from the same parts and measured in the same
run, round and round so that a machine's moods fall on all alike, on a CPU in processor time: there F_ref runs
on a copy of the reference for each view at every step, F_cam runs in both passes and sees its condition
images anew, and the reference's keys and values are projected for each view. And against the floor: the
floating-point operations that any way of computing the step must do, at the rate at which this machine
multiplies matrices.

Shape letters: B portraits, V views of a portrait, N = B*V, C channels, H W latent size, L tokens (H*W).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jsonargparse import ArgumentParser
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from benchmarks.memory import TensorMemory
from core.errors import InputError, one_line
from lightning_modules.networks.cross_view import CrossView
from lightning_modules.networks.denoiser import Denoiser
from lightning_modules.networks.layers import KeysValues
from lightning_modules.networks.reference import AppearanceReference, Bank, ReferenceBank
from lightning_modules.networks.speed import tune
from lightning_modules.networks.view_control import view_control

Scale = Literal["reduced", "sd15"]


@dataclass(frozen=True)
class Size:
    """F's widths, level by level, and the side of its latents."""

    widths: tuple[int, ...]
    latent: int


# Stable Diffusion 1.5's UNet at 512x512, and one of its shape that two CPU cores run in seconds.
SIZES = {"reduced": Size((64, 128, 256, 256), 16), "sd15": Size((320, 640, 1280, 1280), 64)}
TOKENS, DOWNSAMPLING = 77, 8
FLOOR = "The floor is the fewest of these operations at the rate of matrix products."


@dataclass
class Parts:
    """The networks, and a batch for them: latents (N, 4, H, W) of the views, condition images (N, 3, S, S),
    and the portraits' latents (B, 1, 4, H, W)."""

    denoiser: Denoiser
    reference: AppearanceReference
    latents: Tensor
    condition: Tensor
    portrait: Tensor
    timestep: int = 501

    @property
    def views(self) -> int:
        """V."""
        return len(self.latents) // len(self.portrait)

    def timesteps(self, count: int) -> Tensor:
        """(count,)."""
        return torch.full((count,), self.timestep, device=self.latents.device)

    def bank(self, copies: int = 1) -> Bank:
        """F_ref on copies of each portrait, beside each other."""
        portraits = self.portrait.repeat_interleave(copies, 0)
        return self.reference(portraits, self.timesteps(len(portraits)), self.denoiser.empty_prompt)


def build(
    size: Size,
    views: int,
    device: str,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    compile: bool = False,
    portraits: int = 1,
    attached: bool = True,
) -> Parts:
    """Networks of random weights, F_cam and V among them where they are `attached`, and a batch to run them
    on: `views` in all. On the meta device it takes no memory, and can be counted."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(block_out_channels=size.widths, cross_attention_dim=768)
        control = view_control(unet, DOWNSAMPLING) if attached else None
        cross_view = CrossView.from_unet(unet, middle="unconditional") if attached else None
        denoiser = Denoiser(unet, torch.randn(1, TOKENS, 768), control, cross_view)
        reference = AppearanceReference.from_unet(unet)
        side = size.latent
        latents, portrait = torch.randn(views, 4, side, side), torch.randn(portraits, 1, 4, side, side)
        condition = torch.randn(views, 3, side * DOWNSAMPLING, side * DOWNSAMPLING)
    for network in (denoiser, reference):
        tune(network.eval(), channels_last=channels_last, dtype=dtype, compile=compile)
    return Parts(denoiser, reference, latents.to(dtype), condition.to(dtype), portrait.to(dtype))


class CopiedBank:
    """The bank of `portraits` as the released sampler has it: a copy for each view, projected for each."""

    def __init__(self, bank: ReferenceBank, portraits: int) -> None:
        self.bank, self.portraits = bank, portraits

    def keys_values(self, name: str, attention: Attention) -> KeysValues:
        """Keys and values (N, L, C) of features of which V in a row are equal."""
        return self.bank.keys_values(name, attention)


def guided(parts: Parts, bank: Bank, hint: Tensor) -> Tensor:
    """The two passes of a guided step."""
    denoiser, timesteps = parts.denoiser, parts.timesteps(len(parts.latents))
    conditional = denoiser(parts.latents, timesteps, bank, hint=hint, views=parts.views)
    unconditional = denoiser(parts.latents, timesteps, views=parts.views)
    return unconditional + 3 * (conditional - unconditional)


def released_step(parts: Parts) -> Tensor:
    """The straightforward step: everything for each view, F_cam in both passes."""
    denoiser, timesteps = parts.denoiser, parts.timesteps(len(parts.latents))
    denoiser.control_residuals(parts.latents, timesteps, denoiser.embed_condition(parts.condition))
    bank = CopiedBank(parts.bank(copies=parts.views), len(parts.portrait))
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
        bank = CopiedBank(bank, len(parts.portrait))
    epsilon = denoiser(parts.latents, parts.timesteps(len(parts.latents)), bank, views=parts.views)
    loss = epsilon.float().square().mean()
    loss.backward()
    return loss.detach()


def training(parts: Parts) -> dict[str, Callable[[], Tensor]]:
    """The ways of doing one training step of stage 1 on as many targets as there are latents; of parts with
    nothing `attached`."""
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


def peak_bytes(run: Callable[[], Tensor], device: str) -> int:
    """The most memory that a training step takes above the weights: activations, gradients and all between.

    On a GPU what PyTorch allocates; on a CPU its tensors.
    """
    if device != "cuda":
        with TensorMemory() as memory:
            run()
        return memory.peak
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


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
    portraits: int = 2,
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
        portraits: Portraits of the training step, with as many targets each; the paper has 8 of one.
        rounds: How often each way is timed; the best counts.
        channels_last: Channels-last memory, for all ways alike.
        compile: torch.compile, for all ways alike.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda, and PyTorch sees no GPU here")
    if min(views, batch, portraits, rounds) < 1 or batch % portraits:
        raise InputError(
            f"--views {views} --batch {batch} --portraits {portraits} --rounds {rounds}: give 1 or more of "
            "each, and as many targets for each portrait"
        )
    size = SIZES[scale or ("sd15" if device == "cuda" else "reduced")]
    precision = getattr(torch, dtype or ("bfloat16" if device == "cuda" else "float32"))
    rate = matrix_rate(device, precision)
    print(f"{size}, {device}, {precision}, matrices at {rate / 1e9:.0f} GFLOP/s\n")

    def parts(count: int, **more: Any) -> tuple[Parts, Parts]:
        return build(size, count, device, precision, channels_last, compile, **more), build(
            size, count, "meta", **more
        )

    real, counted = parts(views)
    with torch.no_grad():
        work = {name: operations(run) for name, run in steps(counted).items()}
        times = in_turn(steps(real), rounds, device, "guided step")
    print(f"\nOne guided step, {views} views. {FLOOR}")
    print(table(times, work, min(work.values()) / rate, None))

    real, counted = parts(batch, portraits=portraits, attached=False)
    work = {name: operations(run) for name, run in training(counted).items()}
    ways = training(real)
    memory = {name: peak_bytes(run, device) for name, run in ways.items()}
    times = in_turn(ways, rounds, device, "training step")
    print(f"\nOne training step of stage 1, {batch} targets of {portraits} portraits. {FLOOR}")
    print("MB: at most, above the weights.")
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
