"""`python -m benchmarks.generators`: time of K views of one identity, with and without shared planes.

"independent" repeats mapping, planes, rays and super-resolution for each view, as the public scripts do;
"one identity" computes planes (and PanoHead's background) once. Both are timed interleaved, on a CPU in
processor time. Weights are random, which does not change the cost.
"""

import resource
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Literal

import numpy as np
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from benchmarks.denoising import best_times
from core.errors import InputError, one_line
from generators.gan.architecture import Architecture, Kind, Settings, SuperResolutionBlock
from generators.gan.folder import KINDS
from generators.gan.generator import Generator
from portraits.cameras import label_from_angles

Scale = Literal["reduced", "published"]
KIND_NAMES: tuple[Kind, ...] = ("eg3d", "panohead")
PUBLISHED = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128}
REDUCED = {4: 128, 8: 128, 16: 128, 32: 128, 64: 64}


def build(kind: Kind, scale: Scale, device: str) -> Generator:
    """A generator with random weights, of the published widths or reduced ones for a CPU."""
    whole = scale == "published"
    channels, features, style = (PUBLISHED, 32, 512) if whole else (REDUCED, 16, 128)
    side = 128 if whole else 32
    pano = kind == "panohead"
    wide, narrow = (256, 128) if whole else (64, 32)
    background = {resolution: width // 2 for resolution, width in channels.items() if resolution <= side}
    architecture = Architecture(
        latent=style,
        label=25,
        mapping=(style, style),
        backbone=channels,
        plane_channels=3 * features * (3 if pano else 1),
        decoder=(features, 64, 32),
        superresolution=(
            SuperResolutionBlock(32, wide, 2 * side),
            SuperResolutionBlock(wide, narrow, 4 * side),
        ),
        raw_image=pano,
        background=background if pano else None,
        background_channels=32 if pano else 0,
        shift=(3, 3) if pano else None,
    )
    values = Settings.of(kind).to_json() | {"rendering": side // 2, "superresolution_side": side}
    torch.manual_seed(0)
    with torch.device(device):
        return KINDS[kind](architecture, Settings(**values)).eval().requires_grad_(False)


def ways(generator: Generator, views: int) -> dict[str, Callable[[], Tensor]]:
    """Both ways to compute images (1, K, 3, S, S) of one identity, by name."""
    device = generator.backbone.mapping.w_avg.device
    labels = np.stack([label_from_angles(yaw, 0.1) for yaw in np.linspace(-0.8, 0.8, views)])
    cameras = torch.from_numpy(labels).unsqueeze(0).to(device)
    z = torch.randn(1, generator.architecture.latent, generator=torch.Generator().manual_seed(1)).to(device)

    def render(labels: Tensor) -> Tensor:
        ws = generator.styles(z, cameras[:, 0], 0.7)
        return generator.views(generator.identity(ws), labels).image

    return {
        "one identity": lambda: render(cameras),
        "independent": lambda: torch.cat(
            [render(camera.unsqueeze(1)) for camera in cameras.unbind(1)], dim=1
        ),
    }


@torch.inference_mode()
def benchmark(kind: Kind, scale: Scale, views: int, rounds: int, device: str) -> str:
    """One row of the table: seconds of both ways, their ratio, images per second, peak memory in GiB."""
    generator = build(kind, scale, device)
    times = best_times(ways(generator, views), rounds, device, kind)
    shared, independent = times["one identity"], times["independent"]
    return (
        f"| {kind} | {generator.architecture.size} | {shared:.2f} | {independent:.2f} | "
        f"{independent / shared:.2f} | {views / shared:.2f} | {peak_memory(device):.2f} |"
    )


def peak_memory(device: str) -> float:
    """Peak memory in GiB: of the GPU's allocator, or on a CPU of the process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = ArgumentParser(prog="python -m benchmarks.generators")
    parser.add_argument("--scale", type=Scale, default="reduced", help="widths; published for a GPU")
    parser.add_argument("--views", type=int, default=9, help="K")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions")
    chosen = parser.parse_args(arguments)
    if min(chosen.views, chosen.rounds) < 1:
        raise InputError("--views and --rounds: give 1 or more")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind_of_time = "seconds" if device == "cuda" else "processor seconds"
    print(f"{chosen.views} views, {device}, {kind_of_time}, {chosen.scale} widths")
    print("| generator | side | one identity | independent | ratio | images/s | peak GiB |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    # each in its own process, to measure its peak memory
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for kind in KIND_NAMES:
            print(pool.submit(benchmark, kind, chosen.scale, chosen.views, chosen.rounds, device).result())


if __name__ == "__main__":
    with one_line():
        main()
