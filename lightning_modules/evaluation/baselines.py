"""Planning of a baseline's predictions, over the subjects and cameras of a row of this project's model."""

from dataclasses import asdict, replace
from pathlib import Path

from baselines.registry import NAMES, check_baseline, takes_masks
from core import fingerprints
from lightning_modules.evaluation.sampling import PredictionPlan
from lightning_modules.evaluation.settings import BaselineSettings
from lightning_modules.evaluation.systems import BaselineChoice
from portraits.segmentation import check_segmentation


def plan_baseline(baseline: BaselineSettings, ours: PredictionPlan) -> PredictionPlan:
    """The predictions of a baseline for the subjects of `ours`. Raises InputError if there is no such kind
    or setting, the folder does not hold its weights, or masks that it takes cannot be had."""
    folder = Path(baseline.folder)
    check_baseline(baseline.kind, folder, baseline.settings)
    subjects = ours.subjects
    if takes_masks(baseline.kind, baseline.settings) and not subjects.masks:
        check_segmentation()
        subjects = replace(subjects, segment=True)
    values = {
        "baseline": asdict(baseline),
        "subjects": (ours.settings or {}).get("subjects"),
        "weights": fingerprints.of_folder(folder),
        "masks": subjects.masks_from,
    }
    changing = {
        "kind": baseline.kind,
        "settings": baseline.settings,
        "weights": values["weights"],
        "masks": values["masks"],
        "subjects": [asdict(subject) for subject in subjects.subjects],
        "shards": subjects.fingerprint,
        "background": subjects.background,
        "seed": ours.seed,
    }
    return PredictionPlan(
        ours.folder.parent / f"{baseline.kind}-{fingerprints.of_settings(changing)}",
        NAMES[baseline.kind],
        ours.protocol,
        BaselineChoice(baseline.kind, folder, baseline.settings),
        subjects,
        ours.share,
        ours.seed,
        1,
        ours.device,
        settings=values,
    )
