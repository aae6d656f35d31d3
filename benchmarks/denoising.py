"""`python -m benchmarks.denoising`: time of a guided denoising step and of a training step of stage 1.

The baseline is the step of the released sampler, built from the same networks: F_ref runs on a copy of the
reference for each view, F_cam runs in both passes and embeds its condition images again, and the reference's
keys and values are projected for each view. Variants are timed interleaved, so that noise affects all of them
equally, and on a CPU in processor time. The floor is the time of the fewest floating-point operations of any
variant, at this machine's rate of matrix products.

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

from core.errors import InputError, one_line
from core.tensor_memory import TensorMemory
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


# Stable Diffusion 1.5's UNet at 512x512, and a narrower one for two CPU cores.
SIZES = {"reduced": Size((64, 128, 256, 256), 16), "sd15": Size((320, 640, 1280, 1280), 64)}
TOKENS, DOWNSAMPLING = 77, 8
FLOOR = "The floor is the time of the fewest operations at the rate of matrix products."


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
        """The timestep as a tensor (count,)."""
        return torch.full((count,), self.timestep, device=self.latents.device)

    def bank(self, copies: int = 1) -> ReferenceBank:
        """The bank of `copies` consecutive copies of each portrait."""
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
    """Networks with random weights, with F_cam and V if `attached`, and a batch of `views` views for them.

    On the meta device they take no memory, and their operations can be counted.
    """
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
    """A bank as the released sampler uses it: features copied for each view, and projected for each view."""

    def __init__(self, bank: ReferenceBank, portraits: int) -> None:
        self.bank, self.portraits = bank, portraits

    def keys_values(self, name: str, attention: Attention) -> KeysValues:
        """Keys and values (N, L, C); those of the V views of a portrait are equal."""
        return self.bank.keys_values(name, attention)


def guided(parts: Parts, bank: "Bank | CopiedBank", hint: Tensor) -> Tensor:
    """Both passes of a guided step."""
    denoiser, timesteps = parts.denoiser, parts.timesteps(len(parts.latents))
    conditional = denoiser(parts.latents, timesteps, bank, hint=hint, views=parts.views)
    unconditional = denoiser(parts.latents, timesteps, views=parts.views)
    return unconditional + 3 * (conditional - unconditional)


def released_step(parts: Parts) -> Tensor:
    """The baseline: everything runs for each view, and F_cam in both passes."""
    denoiser, timesteps = parts.denoiser, parts.timesteps(len(parts.latents))
    denoiser.control_residuals(parts.latents, timesteps, denoiser.embed_condition(parts.condition))
    bank = CopiedBank(parts.bank(copies=parts.views), len(parts.portrait))
    return guided(parts, bank, denoiser.embed_condition(parts.condition))


def steps(parts: Parts) -> dict[str, Callable[[], Tensor]]:
    """The variants of a guided step: the baseline first, the one with the fewest operations last."""
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
    own = parts.bank(copies)
    bank = own if copies == 1 else CopiedBank(own, len(parts.portrait))
    epsilon = denoiser(parts.latents, parts.timesteps(len(parts.latents)), bank, views=parts.views)
    loss = epsilon.float().square().mean()
    loss.backward()
    return loss.detach()


def training(parts: Parts) -> dict[str, Callable[[], Tensor]]:
    """The variants of a training step of stage 1, with a target for each of the latents; for parts without
    F_cam and V."""
    parts.denoiser.requires_grad_(False)
    return {
        "a copy for each target": lambda: training_step(parts, parts.views, checkpointing=False),
        "ours": lambda: training_step(parts, 1, checkpointing=False),
        "ours, checkpointed": lambda: training_step(parts, 1, checkpointing=True),
    }


def seconds(run: Callable[[], Tensor], device: str) -> float:
    """Seconds of one run: synchronised wall time on a GPU, processor time over all threads on a CPU."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def best_times(
    runs: dict[str, Callable[[], Tensor]], rounds: int, device: str, title: str
) -> dict[str, float]:
    """The best time in seconds of each run, timed interleaved in `rounds` rounds after one warm-up."""
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
    """The floating-point operations of a run's matrix products and convolutions: two for each
    multiplication."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second of the fastest of several large matrix products."""
    side = 8192 if device == "cuda" else 1536
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / min(seconds(lambda: left @ right, device) for _ in range(8))


def peak_bytes(run: Callable[[], Tensor], device: str) -> int:
    """The peak memory in bytes of a training step without the weights: activations, gradients, temporaries.

    On a GPU it is what PyTorch allocates, on a CPU the size of its tensors.
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
    """A Markdown table: time of each variant, its speed-up over the first, and its share of the floor."""
    first = next(iter(times.values()))
    titles = ["variant", "ms", "faster", "GFLOP", "floor / time"] + (["MB"] if memory else [])
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
    """Print a table for the guided step and one for the training step.

    Args:
        scale: sd15 is Stable Diffusion 1.5 at 512x512, the default on a GPU; reduced is for a CPU.
        device: By default a GPU if there is one.
        dtype: bfloat16 on a GPU, float32 on a CPU by default.
        views: Views of the guided step.
        batch: Targets of the training step.
        portraits: Portraits of the training step, over which the targets are divided; 8 targets each in the
            paper.
        rounds: Number of timings of each variant, of which the best is reported.
        channels_last: Use channels-last memory in all variants.
        compile: Use torch.compile in all variants.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no GPU")
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
        times = best_times(steps(real), rounds, device, "guided step")
    print(f"\nOne guided step, {views} views. {FLOOR}")
    print(table(times, work, min(work.values()) / rate, None))

    real, counted = parts(batch, portraits=portraits, attached=False)
    work = {name: operations(run) for name, run in training(counted).items()}
    variants = training(real)
    memory = {name: peak_bytes(run, device) for name, run in variants.items()}
    times = best_times(variants, rounds, device, "training step")
    print(f"\nOne training step of stage 1, {batch} targets of {portraits} portraits. {FLOOR}")
    print("MB: peak memory without the weights.")
    print(table(times, work, min(work.values()) / rate, memory))


def main() -> None:
    """Run the command. Invalid input ends in one line."""
    parser = ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_function_arguments(benchmark)
    settings = parser.parse_args().as_dict()
    with one_line():
        benchmark(**settings)


if __name__ == "__main__":
    main()
