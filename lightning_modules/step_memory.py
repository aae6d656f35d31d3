"""The GPU memory that training and sampling need, computed from simulated tensors or measured."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from core.simulated_device import autocast, simulated_device
from core.tensor_memory import TensorMemory, tensor_bytes
from lightning_modules.networks.cross_view import CrossView, ViewTransformer
from lightning_modules.networks.noise_prior import NoisePrior
from lightning_modules.networks.portrait import PortraitModel
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.networks.shapes import unloaded_backbone
from lightning_modules.networks.view_control import view_control
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.settings import Sampling
from lightning_modules.stage import Batch, Stage
from lightning_modules.trained_part import TrainedPart
from lightning_modules.unloaded import BatchSize, empty_batch, training_loss, unloaded_stage
from portraits.cameras import label_from_angles

# Classes of the modules with which checkpointed segments begin, and names of the modules with which the code
# between segments begins.
SEGMENTS = (ResnetBlock2D, Downsample2D, ViewTransformer)
BETWEEN = ("conv_in", "conv_norm_out", "controlnet_cond_embedding", "controlnet_down_blocks.0")


@dataclass(frozen=True)
class TrainingRun:
    """What the memory of a training step depends on.

    Args:
        name: name of the run.
        stage: class of the stage.
        settings: arguments of the stage's constructor.
        batch: size of one GPU's batch, before accumulation.
        dtype: precision of autocast; None trains without autocast.
        averaged: keep an average of the trained weights on the card.
        buckets: gradients are copied into buckets, as by DDP without `gradient_as_bucket_view`.
    """

    name: str
    stage: type
    settings: dict[str, Any]
    batch: BatchSize
    dtype: torch.dtype | None
    averaged: bool
    buckets: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes of GPU memory by purpose.

    Args:
        weights: parameters, buffers, and for training the batch.
        gradients: gradients of the trained parameters, with DDP's copies of them.
        optimizer: the optimiser's state.
        average: the average of the trained weights.
        activations: the peak of everything else during a step.
        measured: the most that PyTorch allocated in a real run; None where there is no GPU.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    measured: int | None = None

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.average + self.activations


def training_memory(run: TrainingRun, device: str = "cuda") -> Memory:
    """The memory of a step on a card, by simulated tensors.

    It is that of steps after the first, whose gradients exist all the time where they are accumulated. Not
    counted: the CUDA context, workspaces of kernels, and the allocator's fragments.
    """
    with simulated_device():
        module, batch = build(run, torch.device(device))
        return step_memory(module, batch, run, device)


def build(run: TrainingRun, device: torch.device) -> tuple[TrainedPart, Batch]:
    """The stage and a batch for it on a device, ready to train."""
    with device:
        module = unloaded_stage(run.stage, run.settings)
    module.train()
    return module, empty_batch(module, run.batch, device)


def step_memory(module: TrainedPart, batch: Batch, run: TrainingRun, device: str) -> Memory:
    """As `training_memory`, for a module and a batch that exist already."""
    kind = torch.device(device).type
    trained = [p for p in module.parameters() if p.requires_grad]
    values = tensor_bytes(trained, kind)
    return Memory(
        weights=tensor_bytes([*module.parameters(), *module.buffers(), *tensors(batch)], kind),
        gradients=values * (2 if run.buckets else 1),
        optimizer=module.learning.state_bytes(trained),
        average=values if run.averaged else 0,
        activations=activation_bytes(module, batch, run.dtype, device),
    )


def tensors(batch: Batch) -> list[Tensor]:
    """The tensors of a batch."""
    return [x for x in batch.values() if isinstance(x, Tensor)]


def activation_bytes(module: TrainedPart, batch: Batch, dtype: torch.dtype | None, device: str) -> int:
    """Peak bytes of a forward and a backward pass beside weights and gradients.

    The larger of two: the peak of the forward pass; or what that keeps for the backward pass, plus the
    largest checkpointed segment, as the backward pass computes each segment again.
    """
    kind = torch.device(device).type
    with TensorMemory(kind) as memory:
        with autocast(device, dtype):
            loss = training_loss(module, batch)
        kept, peak = memory.now, memory.peak
    del loss
    return max(peak, kept + largest_segment(module, batch, dtype, device))


def largest_segment(module: TrainedPart, batch: Batch, dtype: torch.dtype | None, device: str) -> int:
    """The bytes that a checkpointed segment keeps when it is computed again; 0 without checkpointing."""
    if not isinstance(module, Stage) or not module.denoiser.gradient_checkpointing:
        return 0
    marks: list[tuple[int, bool]] = []  # bytes, and whether a segment begins
    with TensorMemory(torch.device(device).type) as memory:

        def mark(begun: nn.Module, *_: object) -> None:
            marks.append((memory.now, isinstance(begun, SEGMENTS)))

        hooks = [x.register_forward_pre_hook(mark) for x in _marked(module)]
        with checkpointing_off(module), autocast(device, dtype):
            loss = training_loss(module, batch)
        marks.append((memory.now, False))
        for hook in hooks:
            hook.remove()
    del loss
    return max(after - before for (before, segment), (after, _) in pairwise(marks) if segment)


def _marked(module: Stage) -> list[nn.Module]:
    """The modules with which segments begin and end."""
    networks = [module.denoiser.unet, module.denoiser.control, module.denoiser.cross_view, module.reference]
    return [
        x
        for network in networks
        if network is not None
        for name, x in network.named_modules()
        if isinstance(x, SEGMENTS) or name in BETWEEN
    ]


@contextmanager
def checkpointing_off(module: Stage) -> Iterator[None]:
    """Turns off the stage's gradient checkpointing while the block runs; it is on again afterwards."""
    networks = (module.denoiser, module.reference)
    try:
        for network in networks:
            network.gradient_checkpointing = False
        yield
    finally:
        for network in networks:
            network.gradient_checkpointing = True


def measured_training(run: TrainingRun, steps: int = 3) -> int:
    """The bytes that PyTorch allocates at most in steps on this machine's GPU, from the second step on."""
    device = torch.device("cuda")
    module, batch = build(run, device)
    average = [p.detach().clone() for p in module.parameters() if p.requires_grad and run.averaged]
    train_steps(module, batch, run, 1)
    torch.cuda.reset_peak_memory_stats()
    train_steps(module, batch, run, steps - 1)
    del average
    return torch.cuda.max_memory_allocated()


def train_steps(module: TrainedPart, batch: Batch, run: TrainingRun, steps: int) -> None:
    """Optimiser steps of two accumulated batches each: the second one's forward pass meets gradients."""
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = module.learning.configure(trained, max_steps=steps)["optimizer"]
    device = str(batch["target"].device)
    for _ in range(steps):
        for _ in range(2):
            with autocast(device, run.dtype):
                loss = training_loss(module, batch)
            loss.backward()
            del loss
        optimizer.step()
        optimizer.zero_grad()


# Sampling


@dataclass(frozen=True)
class SamplingRun:
    """What the memory of sampling depends on: `window` views that the networks see at a time, `chunk` images
    that the VAE and S process at a time, the networks' `dtype`, and whether the VAE works in tiles. The
    length of the path does not matter."""

    window: int
    chunk: int
    dtype: torch.dtype
    vae_tiling: bool


def unloaded_pipeline(
    dtype: torch.dtype, prior: dict[str, Any] | None, path: str | None = None
) -> DiffPortrait3DPipeline:
    """The pipeline with all parts on PyTorch's default device, without weights. `prior`: S's settings."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        backbone = unloaded_backbone(path)
        unet = backbone.unet
        return DiffPortrait3DPipeline.of(
            PortraitModel(
                backbone,
                AppearanceReference.from_unet(unet).eval(),
                view_control(unet, backbone.downsampling).eval(),
                CrossView.from_unet(unet, middle="unconditional").eval(),
                None if prior is None else NoisePrior(**prior).eval(),
                "zero",
            )
        )
    finally:
        torch.set_default_dtype(before)


def sample_once(pipeline: DiffPortrait3DPipeline, run: SamplingRun) -> Tensor:
    """`window` views of a grey portrait by one step, on the CPU."""
    side = pipeline.image_size
    camera = torch.from_numpy(label_from_angles(0.2, 0.1)).expand(1, run.window, -1)
    grey = torch.zeros(1, 1, 3, side, side)
    settings = Sampling(steps=1, window=run.window, chunk=run.chunk)
    return pipeline.views(grey, grey.expand(1, run.window, -1, -1, -1), camera, seeds=[0], sampling=settings)


def sampling_memory(run: SamplingRun, prior: dict[str, Any] | None, device: str = "cuda") -> Memory:
    """The memory of sampling on a card, by simulated tensors."""
    kind = torch.device(device).type
    with simulated_device(), torch.no_grad():
        with torch.device(device):
            pipeline = unloaded_pipeline(run.dtype, prior)
        if run.vae_tiling:
            pipeline.enable_vae_tiling()
        parts = [x for x in pipeline.components.values() if isinstance(x, nn.Module)]
        weights = tensor_bytes([t for x in parts for t in (*x.parameters(), *x.buffers())], kind)
        with TensorMemory(kind) as memory:
            sample_once(pipeline, run)
    return Memory(weights, 0, 0, 0, memory.peak)


def measured_sampling(run: SamplingRun, prior: dict[str, Any] | None) -> int:
    """The bytes that PyTorch allocates at most when sampling on this machine's GPU."""
    with torch.device("cuda"):
        pipeline = unloaded_pipeline(run.dtype, prior)
    if run.vae_tiling:
        pipeline.enable_vae_tiling()
    torch.cuda.reset_peak_memory_stats()
    sample_once(pipeline, run)
    return torch.cuda.max_memory_allocated()
