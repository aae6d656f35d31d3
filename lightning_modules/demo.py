"""Demonstration of the shipped model on unseen people: `python -m lightning_modules.demo`, or `make demo`.

Shape letters: B frames, K views, S image side.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentParser
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from core.errors import InputError, one_line
from core.files import whole_folder, write_json, write_text
from lightning_modules.ablations import (
    FULL,
    PAPER_STRENGTH,
    PROXIES,
    RETURNED,
    STRENGTH,
    TRUTH,
    Ablation,
    Study,
    load_whole,
    read_frames,
    report,
)
from lightning_modules.likeness import Batch, Likeness, as_json, neighbour_difference
from lightning_modules.sampling.devices import Precision
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline, to_image
from lightning_modules.sampling.plan import CAMERAS
from lightning_modules.sampling.requests import Request
from lightning_modules.sampling.settings import Sampling
from lightning_modules.sampling.synthesis import VIEWS
from lightning_modules.synthesize import synthesize
from portraits.camera_files import read_cameras
from portraits.cameras import angles
from portraits.contact_sheet import GUTTER, camera_captions, stack, view_bands
from portraits.pixels import to_pixels
from portraits.video import check_video
from shards.manifest import Manifest

TABLE, REPORT, PORTRAIT = "table.json", "table.md", "portrait.png"
SIDE = 192  # pixels of a tile on the contact sheet
SHOWN = 2  # people on the contact sheet, few enough for a page to show it without shrinking faces much


def demo(
    model: str = "checkpoints/mini",
    data: str = "shards/built/people",
    out: str = "runs/demo",
    frames: int = 32,
    views: int = 4,
    steps: int = 20,
    strength: float = STRENGTH,
    precision: Precision = "float32",
    overwrite: bool = False,
) -> None:
    """Generate views of unseen people next to the truth (`views.png`), a table of scores (`table.md`,
    `table.json`), and an orbit around the first person (`orbit/`).

    Args:
        model: a model folder.
        data: a built folder with a test split.
        out: the folder for the results.
        frames: number of unseen people.
        views: number of views of each.
        steps: denoising steps; 100 in the paper.
        strength: strength of the 3D-aware noise; 1 in the paper.
        precision: precision of the networks.
        overwrite: replace the results of an earlier run in the output folder.
    """
    check_out(Path(out), overwrite)
    check_video()
    sampling = Sampling(steps=steps, strength=strength, window=views)
    study = Study(load_whole(model, precision), sampling, progress=True)
    size = DiffPortrait3DPipeline.of(study.model).image_size
    batch = read_frames(data, frames, views, size)
    with whole_folder(Path(out), overwrite) as folder:
        likeness, made, rows = Likeness(batch), {}, {}
        for row in tqdm(shown_rows(study), desc="rows of the table", unit="row"):
            made[row.name] = row.views(batch)
            rows[row.name] = likeness.score(made[row.name])
        write_json(folder / TABLE, as_json(rows))
        write_text(folder / REPORT, report(rows, {}, frames, views, sampling))
        people(batch, made[PROXIES], made[FULL]).save(folder / "views.png")
        to_image(batch["reference"][0, 0]).save(folder / PORTRAIT)
    asked: dict[str, Any] = {"align": False, "steps": steps, "strength": strength, "precision": precision}
    synthesize(Request(model, str(Path(out, "orbit")), [str(Path(out, PORTRAIT))], **asked))
    text = Path(out, REPORT).read_text(encoding="utf-8") + orbit_line(
        Path(out, "orbit"), data, batch["key"][0]
    )
    write_text(Path(out, REPORT), text)
    print(text)
    print(f"pictures: {Path(out, 'views.png')} and {Path(out, 'orbit')}")


def shown_rows(study: Study) -> list[Ablation]:
    """The rows of the demo's table: the truth, two trivial baselines, the model, and the model at strength 1
    if `study` samples at another one."""
    shown = (TRUTH, RETURNED, PROXIES, FULL, PAPER_STRENGTH)
    return [row for row in study.rows() if row.name in shown]


def orbit_line(orbit: Path, data: str, key: str) -> str:
    """A Markdown line with the mean difference of an orbit's neighbouring views, and that of the true views
    if the person `key` is from the built-in capture, from which they are rendered."""
    paths = sorted((orbit / VIEWS).glob("*.png"))
    made = neighbour_difference(to_pixels(np.stack([np.asarray(Image.open(path)) for path in paths])))
    line = f"- an orbit of {len(paths)} views: neighbouring views differ by {made:.2f} levels of 256"
    if not key.startswith("synthetic-"):
        return f"{line}\n"
    from shards.sources.synthetic import SyntheticCapture

    capture = SyntheticCapture(**Manifest.load(Path(data)).settings)
    true = capture.renders(key, read_cameras([orbit / CAMERAS])).images
    return f"{line}, the truth's by {neighbour_difference(to_pixels(true)):.2f}\n"


def check_out(out: Path, overwrite: bool) -> None:
    """Raise InputError if `out` exists without `overwrite`, or was not written by this command."""
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists already: choose another folder, or --overwrite true")
    if out.exists() and not (out / TABLE).is_file():
        raise InputError(f"{out} was not written by this command, and is not overwritten")


def people(batch: Batch, proxies: Tensor, views: Tensor) -> Image.Image:
    """A contact sheet of the people whose cameras cover the widest range of yaw, side by side: their
    reference, and rows of conditions, proxies of S, generated views and truths, each (B, K, 3, S, S) in [-1,
    1]."""
    yaws = torch.from_numpy(angles(batch["camera"].numpy())[..., 0])
    chosen = (yaws.amax(1) - yaws.amin(1)).topk(min(SHOWN, len(views))).indices.tolist()
    bands = [
        view_bands(
            [to_image(batch["reference"][person, 0])],
            {
                name: [to_image(image) for image in images[person]]
                for name, images in (
                    ("condition", batch["condition"]),
                    ("S", proxies),
                    ("full model", views),
                    ("truth", batch["target"]),
                )
            },
            camera_captions(batch["camera"][person]),
        )
        for person in chosen
    ]
    side_by_side = [band for line in zip(*bands, strict=True) for band in line]
    return stack(side_by_side, SIDE, GUTTER, across=len(bands))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Invalid input ends in one line."""
    parser = ArgumentParser(prog="diffportrait3d demo", description=__doc__.split("\n", 1)[0])
    parser.add_function_arguments(demo)
    settings = parser.parse_args(arguments)
    with one_line():
        demo(**settings.as_dict())


if __name__ == "__main__":
    main()
