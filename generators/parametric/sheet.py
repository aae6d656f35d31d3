"""`python -m generators.parametric.sheet OUT.jpg`: a contact sheet of the built-in people, one per row."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from generators.parametric.renderer import SyntheticHead
from portraits.cameras import label_from_angles
from portraits.contact_sheet import save_whole


def contact_sheet(identities: list[int], yaws: list[float], size: int, samples: int) -> Image.Image:
    """One row for each person and one column for each yaw (degrees), with tiles of `size` pixels."""
    cameras = np.stack(
        [label_from_angles(np.radians(yaw), np.radians(5 * np.cos(i))) for i, yaw in enumerate(yaws)]
    )
    renderer = SyntheticHead(samples)
    rows = [
        np.concatenate(list(renderer.render(identity, cameras, size).images), axis=1)
        for identity in tqdm(identities, desc="rendering", unit="person")
    ]
    return Image.fromarray(np.concatenate(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--identities", type=int, nargs="+", default=list(range(1, 7)), help="numbers of people"
    )
    parser.add_argument(
        "--yaws", type=float, nargs="+", default=[-75, -45, -20, 0, 20, 45, 75], help="degrees"
    )
    parser.add_argument("--size", type=int, default=120, help="side of a tile in pixels")
    parser.add_argument("--samples", type=int, default=48, help="light paths per pixel")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    sheet = contact_sheet(arguments.identities, arguments.yaws, arguments.size, arguments.samples)
    save_whole(sheet, arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
