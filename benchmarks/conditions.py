"""`python -m benchmarks.conditions`: what the condition images of a frame cost, and their noise.

The conditions of some frames of a NeRSemble-like rig are rendered in three ways, interleaved: as every build
did before ("traced": another person for each view of each frame, path-traced), with light baked into the same
number of people ("baked, one frame"), and baked with the people shared by `--frames` frames, as a build does.
Noise is the PSNR of two renders of the same views with other seeds, over some people of one frame. Seconds
are processor seconds of one thread.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from jsonargparse import ArgumentParser
from numpy.typing import NDArray
from tqdm import tqdm

from core.errors import InputError, one_line
from generators.base import Light, Renderer
from generators.parametric.anatomy import anatomy
from generators.parametric.renderer import SyntheticHead, render_on_threads
from portraits.cameras import label_from_angles
from shards.conditions import Portrait, render_conditions
from shards.schema import SampleMeta

NOISE_VIEWS = 2  # number of views whose noise is measured
RIG = np.radians((47.0, 16.0))  # NeRSemble's arc, half of its width and height


@dataclass(frozen=True)
class Way:
    """A way to render conditions: the light, and how many frames share their people."""

    name: str
    light: Light
    shared: int


def frames_of(count: int, views: int, size: int) -> list[Portrait]:
    """Frames without images, at random cameras of the rig."""
    random = np.random.default_rng(0)
    return [
        Portrait(
            SampleMeta("benchmark", f"{number:03d}", "train", "still", "0", "eg3d", "CC0-1.0"),
            np.zeros((views, size, size, 3), np.uint8),
            np.stack([label_from_angles(*angles) for angles in random.uniform(-1, 1, (views, 2)) * RIG]),
        )
        for number in range(count)
    ]


def seconds_a_frame(renderer: Renderer, frames: Sequence[Portrait]) -> float:
    """Processor seconds for a frame's conditions, whose people are shared by all of these frames."""
    start = time.process_time()
    render_conditions(renderer, frames)
    return (time.process_time() - start) / len(frames)


def noise(renderer: SyntheticHead, frame: Portrait) -> NDArray[np.float64]:
    """The PSNR in dB of two renders of some conditions of a frame, with other seeds."""
    size, key = frame.views.shape[1], frame.meta.key
    found = []
    for view, camera in enumerate(frame.cameras[:NOISE_VIEWS]):
        scene = renderer.scene(crc32(f"{key}/{view}".encode()), size)
        one, other = (scene.render(camera, seed).images.astype(np.float64) for seed in (0, 1000))
        found.append(-10 * np.log10(max(np.square((one - other) / 255).mean(), 1e-12)))
    return np.array(found)


def compare(ways: Sequence[Way], views: int, size: int, rounds: int) -> list[str]:
    """The rows of the table."""
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    frames = frames_of(rounds * max(way.shared for way in ways), views, size)
    with tqdm(total=rounds * len(ways), desc="conditions", unit="part") as bar:
        for number in range(rounds):
            for way in ways:
                own = frames[number * way.shared :][: way.shared]
                seconds[way.name].append(seconds_a_frame(SyntheticHead(light=way.light), own))
                bar.update()
    before = np.mean(seconds[ways[0].name])
    noises = {way.light: noise(SyntheticHead(light=way.light), frames[0]) for way in ways[:2]}
    rows = [
        f"| conditions of a frame of {views} views at {size}² | seconds | | noise, dB: mean | least |",
        "|---|---:|---:|---:|---:|",
    ]
    for way in ways:
        took, decibels = np.mean(seconds[way.name]), noises[way.light]
        rows.append(
            f"| {way.name} | {took:.1f} | {before / took:.1f} times less"
            f" | {decibels.mean():.1f} | {decibels.min():.1f} |"
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = ArgumentParser(prog="python -m benchmarks.conditions")
    parser.add_argument("--size", type=int, default=256, help="image side in pixels")
    parser.add_argument("--views", type=int, default=4, help="K, the views of a frame")
    parser.add_argument("--frames", type=int, default=16, help="frames that share people, as in a build")
    parser.add_argument("--rounds", type=int, default=1, help="repetitions, with other people")
    chosen = parser.parse_args(arguments)
    if min(chosen.size // 16, chosen.views, chosen.frames, chosen.rounds) < 1:
        raise InputError("give --size of at least 16, and at least 1 of --views, --frames and --rounds")
    anatomy()
    render_on_threads(1)
    ways = (
        Way("path-traced, people of each frame's own", "traced", 1),
        Way("baked, people of each frame's own", "baked", 1),
        Way(f"baked, people of {chosen.frames} frames", "baked", chosen.frames),
    )
    print("\n".join(compare(ways, chosen.views, chosen.size, chosen.rounds)))


if __name__ == "__main__":
    with one_line():
        main()
