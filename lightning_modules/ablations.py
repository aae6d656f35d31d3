"""The contribution of each part of the paper to a trained model, measured on unseen people.

`python -m lightning_modules.ablations --model checkpoints/mini --data shards/built/people --out DIR`

Shape letters: B frames, R references, K views, S image side.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentParser
from torch import Tensor
from tqdm import tqdm

from core.devices import find_devices
from core.errors import InputError, one_line
from core.files import whole_folder, write_json
from datamodules import PortraitViewsDataModule, SourceConfig
from generators.base import Renderer
from generators.registry import STUDIO
from lightning_modules.evaluation.moving import moved
from lightning_modules.likeness import Batch, Likeness, RowScores, as_json, read_masks, table
from lightning_modules.networks.portrait import PortraitModel, load_portrait_model
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.sampling.consistency import view_deviation, window_seams
from lightning_modules.sampling.devices import Precision, check_precision
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.settings import Sampling
from lightning_modules.sampling.trajectories import trajectory
from lightning_modules.sampling.view_conditions import prepare_renderer
from lightning_modules.sampling.visibility import occluded
from metrics.suite import MetricSuite
from portraits.cameras import angles
from portraits.contact_sheet import grid
from portraits.pixels import to_images, to_pixels

TRUTH, RETURNED, PROXIES, FULL = "truth", "reference returned", "S alone", "full model"
PAPER_STRENGTH = "strength 1, as in the paper"
REFERENCES = 4  # largest number of references, as in Fig. 8
SHIFT, SCALE, TILT = 0.12, 0.8, 20.0  # of unaligned references: share of the side, factor, degrees
STRENGTH = 1.0  # of the 3D-aware noise
FEW = 3  # people in the more expensive probes
TURNED = 8  # people whose reference and view differ most in yaw
VIEWS = 8  # number of views at one camera whose deviation is measured
PATH = 24  # views of the sweep whose seams are measured
STRANGER = 1_000_000  # the renderer's number of a person who is in no capture


@dataclass(frozen=True)
class Ablation:
    """A row of the table: a name, and a function that generates views (B, K, 3, S, S) of a batch."""

    name: str
    views: Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Study:
    """The full model and its variations, each with one change; `progress` is whether sampling shows progress
    bars. The paper's strength of the noise, 1, is a row of its own if `sampling` has another."""

    model: PortraitModel
    sampling: Sampling
    progress: bool = False

    def rows(self) -> list[Ablation]:
        """All rows: the truth, two trivial baselines, the full model, then the paper's ablations."""
        full, model = DiffPortrait3DPipeline.of(self.model), self.model
        at_1 = Ablation(PAPER_STRENGTH, self._row(model, strength=1.0))
        paper = [] if self.sampling.strength == 1 else [at_1]
        untrained = replace(model, reference=AppearanceReference.from_unet(model.backbone.unet).eval())
        return [
            Ablation(TRUTH, lambda batch: batch["target"]),
            Ablation(RETURNED, repeated),
            Ablation(PROXIES, lambda batch: full.proxies(batch["reference"][:, :1], batch["camera"])),
            Ablation(FULL, self._row(model)),
            *paper,
            Ablation("random noise (Table 2)", self._row(model, noise="random")),
            Ablation("without V", self._row(replace(model, cross_view=None))),
            Ablation("F_ref untrained (Table 1b)", self._row(untrained)),
            *(Ablation(f"{n} references (Fig. 8)", self._row(model, n)) for n in range(2, REFERENCES + 1)),
            Ablation("reference shifted (Table 1b)", self._row(model, move={"shift": SHIFT})),
            Ablation("reference scaled (Table 1b)", self._row(model, move={"scale": SCALE})),
            Ablation("reference tilted (Table 1b)", self._row(model, move={"tilt": TILT})),
        ]

    def _row(
        self,
        model: PortraitModel,
        references: int = 1,
        move: dict[str, float] | None = None,
        **sampling: Any,
    ) -> Callable[[Batch], Tensor]:
        pipeline = DiffPortrait3DPipeline.of(model)
        settings = replace(self.sampling, **sampling)

        def views(batch: Batch) -> Tensor:
            shown = batch["reference"][:, :references]
            if move:
                shown = moved(shown.flatten(0, 1), **move).unflatten(0, shown.shape[:2])
            return sampled(pipeline, batch | {"reference": shown}, settings, self.progress)

        return views


def sampled(
    pipeline: DiffPortrait3DPipeline, batch: Batch, sampling: Sampling, progress: bool = False
) -> Tensor:
    """Sample views (B, K, 3, S, S) of a batch, seeded by its frames' keys."""
    cameras = batch["camera"] if pipeline.noise_prior is not None else None
    return pipeline.views(
        batch["reference"],
        batch["condition"],
        cameras,
        seeds=batch["key"],
        sampling=sampling,
        progress=progress,
    )


def repeated(batch: Batch) -> Tensor:
    """The first reference, repeated for every view (B, K, 3, S, S)."""
    return batch["reference"][:, :1].expand_as(batch["target"]).contiguous()


def same_camera(
    pipeline: DiffPortrait3DPipeline, batch: Batch, sampling: Sampling, renderer: Renderer
) -> dict[str, dict[str, float]]:
    """Distance between views from two conditions of different people at the same camera (B.4), compared with
    the distances between cameras and between people."""
    side = batch["condition"].shape[-1]
    rows = [
        renderer.render(STRANGER + number, cameras.numpy(), side).images
        for number, cameras in enumerate(tqdm(batch["camera"], desc="conditions", unit="frame"))
    ]
    one = sampled(pipeline, batch, sampling)
    other = sampled(pipeline, batch | {"condition": to_pixels(np.stack(rows))}, sampling)
    return {
        "another condition": _apart(one, other),
        "another camera": _apart(one, one.roll(1, 1)),
        "another person": _apart(one, one.roll(1, 0)),
    }


def seams(
    pipeline: DiffPortrait3DPipeline, batch: Batch, sampling: Sampling, renderer: Renderer
) -> dict[str, dict[str, float]]:
    """`sampling.consistency.window_seams` of an evenly spaced yaw sweep, with and without overlap of
    windows."""
    side, people = batch["condition"].shape[-1], len(batch["key"])
    cameras = trajectory("yaw_sweep", PATH)
    conditions = to_pixels(renderer.render(STRANGER, cameras, side).images)
    conditions = conditions.expand(people, PATH, 3, side, side)
    labels = torch.from_numpy(cameras).expand(people, *cameras.shape)
    return {
        f"overlap {overlap}": window_seams(
            pipeline,
            batch["reference"][:, :1],
            conditions,
            labels,
            replace(sampling, window=8, overlap=overlap),
        )
        for overlap in (0, 2, 4)
    }


def _apart(one: Tensor, other: Tensor) -> dict[str, float]:
    suite = MetricSuite(("LPIPS[efficientnet-lite0]", "POSE"))
    suite.update(one.flatten(0, 1), other.flatten(0, 1))
    return suite.compute()


def load_whole(model: str, precision: Precision) -> PortraitModel:
    """Load a model folder with all four parts, to a GPU if there is one. Raises InputError if a part is
    missing, or the precision needs a GPU."""
    (device,) = find_devices(1)
    check_precision(precision, [device])
    loaded = load_portrait_model(model, getattr(torch, precision))
    if None in (loaded.control, loaded.cross_view, loaded.noise_prior):
        raise InputError(f"{model}: a model with all four parts is needed: F_ref, F_cam, V and S")
    DiffPortrait3DPipeline.of(loaded).to(device)  # moves the networks themselves
    return loaded


def read_frames(data: str, frames: int, views: int, size: int) -> Batch:
    """Read test frames as one batch, each with four references, `views` other views, and masks if there are
    any. Raises InputError if there are too few frames."""
    source = PortraitViewsDataModule(
        {"test": SourceConfig(data)},
        image_size=size,
        batch_size=frames,
        references=REFERENCES,
        targets=views,
        num_workers=0,
    )
    source.setup("test")
    batch = source.samples(frames, "test")
    if len(batch["key"]) < frames:
        raise InputError(f"{data} holds {len(batch['key'])} test frames, not {frames}")
    masks = read_masks(data, batch)
    return batch if masks is None else batch | {"mask": masks}


def run(
    model: str,
    data: str,
    out: str,
    frames: int = 32,
    views: int = 2,
    steps: int = 20,
    strength: float = STRENGTH,
    precision: Precision = "float32",
) -> None:
    """Compute all rows and write `ablations.md`, `ablations.json` and `views.png`.

    Args:
        model: a model folder with F_ref, F_cam, V and S.
        data: a built folder with a test split.
        out: the folder to write; it must not exist.
        frames: number of unseen people.
        views: number of views of each.
        steps: denoising steps; 100 in the paper.
        strength: strength of the 3D-aware noise; 1 in the paper.
        precision: precision of the networks.
    """
    with whole_folder(Path(out)) as folder:
        loaded, renderer = load_whole(model, precision), prepare_renderer(STUDIO)
        study = Study(loaded, Sampling(steps=steps, strength=strength, window=views))
        batch = read_frames(data, frames, views, DiffPortrait3DPipeline.of(loaded).image_size)
        likeness, rows, shown = Likeness(batch), {}, {}
        for row in (bar := tqdm(study.rows(), desc="ablations", unit="row")):
            bar.set_postfix_str(row.name)
            shown[row.name] = row.views(batch)
            rows[row.name] = likeness.score(shown[row.name])
        more = probes(loaded, batch, study.sampling, renderer)
        write_json(folder / "ablations.json", {"rows": as_json(rows), **more})
        text = report(rows, more, frames, views, study.sampling)
        (folder / "ablations.md").write_text(text, encoding="utf-8")
        sheet(batch, shown).save(folder / "views.png")
    print(Path(out, "ablations.md").read_text(encoding="utf-8"))


def probes(model: PortraitModel, batch: Batch, sampling: Sampling, renderer: Renderer) -> dict[str, Any]:
    """Further measurements on a few people: agreement of views, seams, and B.4."""
    full = DiffPortrait3DPipeline.of(model)
    without = DiffPortrait3DPipeline.of(replace(model, cross_view=None))
    few = first(batch, FEW)
    return {
        "spread where the portrait hides the head, and elsewhere (Fig. 5)": {
            "with V": spreads(full, widest(first(batch, TURNED)), sampling),
            "without V": spreads(without, widest(first(batch, TURNED)), sampling),
        },
        "seam": seams(full, few, sampling, renderer),
        # from random noise, as S would convey the camera in addition to the condition
        "one camera (B.4)": same_camera(full, few, replace(sampling, noise="random"), renderer),
    }


def spreads(pipeline: DiffPortrait3DPipeline, turned: Batch, sampling: Sampling) -> dict[str, float]:
    """`sampling.consistency.view_deviation` of eight views: the means over pixels of the head that the
    portrait does not show and over all others, and the share of the former. The batch has one reference and
    one view."""
    prior = pipeline.noise_prior
    references, *cameras = (
        turned[name].to(prior.device, prior.dtype if name == "reference" else None)
        for name in ("reference", "reference_camera", "camera")
    )
    unseen = occluded(prior, references, *cameras).squeeze(1).cpu()
    if not unseen.any():
        raise InputError("every portrait shows all of the head in its view: use views that are farther apart")
    apart = view_deviation(pipeline, turned["reference"], turned["condition"][:, 0], VIEWS, sampling)
    shares = {"hidden": apart[unseen], "elsewhere": apart[~unseen]}
    return {name: x.mean().item() for name, x in shares.items()} | {"share": unseen.float().mean().item()}


def widest(batch: Batch) -> Batch:
    """The batch with one reference and one view of each frame: the pair that differs most in yaw."""
    yaws = [torch.from_numpy(angles(batch[name].numpy())[..., 0]) for name in ("reference_camera", "camera")]
    apart = (yaws[0].unsqueeze(2) - yaws[1].unsqueeze(1)).abs()  # (B, R, K)
    far = apart.flatten(1).argmax(1)
    chosen = {"reference": far // apart.shape[2], "camera": far % apart.shape[2]}
    chosen |= {
        "reference_camera": chosen["reference"],
        "condition": chosen["camera"],
        "target": chosen["camera"],
    }
    rows = torch.arange(len(far))
    return batch | {name: batch[name][rows, which].unsqueeze(1) for name, which in chosen.items()}


def first(batch: Batch, count: int) -> Batch:
    """The first frames of a batch."""
    return {name: x[:count] if isinstance(x, Tensor | list) else x for name, x in batch.items()}


def report(
    rows: dict[str, RowScores], more: dict[str, Any], frames: int, views: int, sampling: Sampling
) -> str:
    """The tables as Markdown."""
    lines = [
        f"{frames} unseen people, {views} views each, {sampling.steps} steps, 3D-aware noise at strength "
        f"{sampling.strength:g} unless noted. In brackets: 95 % intervals by bootstrap over people.",
        "",
        *table(rows),
        "",
        *(f"- {name}: {json.dumps(values)}" for name, values in more.items()),
    ]
    return "\n".join(lines) + "\n"


def sheet(batch: Batch, shown: dict[str, Tensor], people: int = 6) -> Any:
    """One row for each person: reference, condition, truth, then the same view from every row of the
    table."""
    columns = [batch["reference"][:, 0], batch["condition"][:, 0], batch["target"][:, 0]]
    columns += [made[:, 0] for name, made in shown.items() if name != TRUTH]
    return grid(to_images(torch.stack(columns, 1)[:people]), columns=1, upscale=2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Invalid input ends in one line."""
    parser = ArgumentParser(prog="diffportrait3d ablations", description=__doc__.split("\n", 1)[0])
    parser.add_function_arguments(run)
    settings = parser.parse_args(arguments)
    with one_line():
        run(**settings.as_dict())


if __name__ == "__main__":
    main()
