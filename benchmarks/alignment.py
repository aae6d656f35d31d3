"""`python -m benchmarks.alignment`: errors of estimated cameras, on renders with known cameras."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jsonargparse import ArgumentParser
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from core.errors import one_line
from generators.base import Renderer
from generators.parametric.renderer import SyntheticHead
from portraits.alignment.align import NoFaceError, align
from portraits.alignment.detection import FaceDetector
from portraits.cameras import angles, label_from_angles

BINS = (0, 15, 30, 45, 60, 75)
MAX_PITCH = 20


def errors(renderer: Renderer, identities: Sequence[int], size: int, seed: int = 0) -> NDArray[np.float64]:
    """One row for each identity and yaw bin (N, 3), degrees: the true yaw, and the errors of the estimated
    yaw and pitch; NaN if no face is found."""
    rng = np.random.default_rng(seed)
    detector = FaceDetector()
    rows: list[list[float]] = []
    for identity in tqdm(identities, desc="aligning", unit="person"):
        yaws = rng.uniform(BINS[:-1], BINS[1:]) * rng.choice([-1, 1], len(BINS) - 1)
        pitches = rng.uniform(-MAX_PITCH, MAX_PITCH, len(yaws))
        cameras = [label_from_angles(*np.radians(pair)) for pair in zip(yaws, pitches, strict=True)]
        images = renderer.render(identity, np.stack(cameras), size).images
        for yaw, pitch, image in zip(yaws, pitches, images, strict=True):
            try:
                found = align(Image.fromarray(image), size, detector=detector).camera
            except NoFaceError:
                rows.append([yaw, np.nan, np.nan])
                continue
            rows.append([yaw, *(np.degrees(angles(found)) - (yaw, pitch)).tolist()])
    return np.array(rows)


def table(rows: NDArray[np.float64]) -> str:
    """Median absolute and median signed errors by yaw bin, as Markdown."""
    lines = ["| yaw | faces found | yaw error | pitch error | yaw bias | pitch bias |", "|" + "---|" * 6]
    for low, high in pairwise(BINS):
        inside = rows[(np.abs(rows[:, 0]) >= low) & (np.abs(rows[:, 0]) < high)]
        found = inside[np.isfinite(inside[:, 1])]
        outward = found[:, 1] * np.sign(found[:, 0])
        figures = [np.abs(found[:, 1]), np.abs(found[:, 2]), outward, found[:, 2]]
        cells = [f"{np.median(column):.1f}°" if len(found) else "" for column in figures]
        lines.append(f"| {low}-{high}° | {len(found)} of {len(inside)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = ArgumentParser(prog="python -m benchmarks.alignment", description=__doc__)
    parser.add_argument("--identities", type=int, default=40, help="people; one render in each yaw bin")
    parser.add_argument("--first", type=int, default=1000, help="the first person's number")
    parser.add_argument("--size", type=int, default=128, help="image side in pixels")
    parser.add_argument("--samples", type=int, default=8, help="light paths per pixel")
    chosen = parser.parse_args(arguments)
    people = range(chosen.first, chosen.first + chosen.identities)
    print(table(errors(SyntheticHead(chosen.samples), people, chosen.size)))


if __name__ == "__main__":
    with one_line():
        main()
