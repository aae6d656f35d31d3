"""Settings of an evaluation, from the command line and YAML files.

`lightning_modules.evaluation.planning` checks them and resolves them into a plan; nothing else uses them.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from core.engine import EngineOptions
from generators.registry import STUDIO, RendererChoice
from lightning_modules.evaluation.subjects import Background, SubjectSettings
from lightning_modules.sampling.settings import PAPER, Sampling
from portraits.predictions import Protocol


@dataclass(frozen=True)
class PredictionSettings:
    """Settings that determine the predictions of a model.

    Args:
        model: a model folder
        subjects: the frames and views of the evaluation
        alignment: `aligned` uses references as in the shards; `moved` shifts, scales and tilts them first
            (Table 1b)
        shift: shift of moved references, as a fraction of the image side
        scale: scale of moved references
        tilt: tilt of moved references, in degrees
        reference_network: the trained F_ref, or an `untrained` copy of F in its place (Table 1b)
        conditions: those of the shards, or of other people rendered at the same cameras (B.4)
        renderer: renderer of the other people: studio, synthetic, baked, eg3d:FOLDER, panohead:FOLDER, or a
            GAN's options
        identity: number of the first rendered person
        sampling: number of steps (100 in the paper), guidance scale, starting noise (Table 2) and so on
        lora: LoRAs for Stable Diffusion 1.5 on F, each a safetensors file, or FILE:WEIGHT
        precision: precision of the networks
        batch: number of subjects sampled at a time
    """

    model: str = "checkpoints/mini"
    subjects: SubjectSettings = field(default_factory=SubjectSettings)
    alignment: Literal["aligned", "moved"] = "aligned"
    shift: float = 0.12
    scale: float = 0.8
    tilt: float = 20.0
    reference_network: Literal["trained", "untrained"] = "trained"
    conditions: Literal["shards", "others"] = "shards"
    renderer: RendererChoice = STUDIO
    identity: int = 1_000_000
    sampling: Sampling = PAPER
    lora: list[str] | None = None
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    batch: int = 4


@dataclass(frozen=True)
class ScoringSettings:
    """Settings that determine the scores of predictions.

    Args:
        metrics: names such as `LPIPS` or `LPIPS[vgg16]`; by default all whose weights are available
        size: side in pixels that all images are resized to; by default that of the predictions
        background: keep it, or replace it by white, with the truth's mask, in truth and prediction (Table 3)
        real: a folder of real portraits for FID and KID, for predictions without a truth
        batch: number of views scored at a time
    """

    metrics: list[str] | None = None
    size: int | None = None
    background: Background = "keep"
    real: str | None = None
    batch: int = 16


@dataclass(frozen=True)
class RowSettings(PredictionSettings):
    """Settings of one row of a table: of its predictions and of their scores.

    Args:
        scoring: metrics, image size, background and so on
    """

    scoring: ScoringSettings = field(default_factory=ScoringSettings)


@dataclass(frozen=True)
class BaselineSettings:
    """A baseline of the comparison, evaluated on the same subjects and cameras.

    Args:
        kind: eg3d_pti, panohead_pti, triplanenet, goae or zero123
        folder: folder of its weights, as `import-gan` or `import-baseline` writes it
        settings: settings that differ from its defaults, e.g. {"tuning": {"style_steps": 100}} for eg3d_pti
    """

    kind: str
    folder: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishedRow:
    """Published values of one system.

    Args:
        name: name of the system
        values: values by metric
        protocol: protocol of the evaluation; by default that of the table
    """

    name: str
    values: dict[str, float]
    protocol: Protocol | None = None


@dataclass(frozen=True)
class PublishedTable:
    """Rows of a published table, printed below the measured rows.

    Args:
        source: where the values are published, e.g. "Table 1a, CVPR 2024"
        rows: the published values
        resolution: side in pixels of the compared images, if published
        differences: differences between its protocol and that of this table, a sentence each
    """

    source: str
    rows: list[PublishedRow]
    resolution: int | None = None
    differences: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class EvaluationRequest(EngineOptions):
    """A table: rows that differ from the common settings `row`.

    Args:
        row: settings of all rows
        title: title of the table
        rows: settings that differ, by row name, e.g. {"random noise": {"sampling.noise": "random"}};
            `truth_from` names an earlier row whose predictions replace the truth (B.4), and `preset` a
            preset of sampling
        baselines: other systems, with a row for each of `rows` that has other subjects
        published: published tables to print below
        predictions: folders of predictions to score, instead of generating any
        out: folder of the results, or a URL that the finished folder is moved to (s3://, gs://, file://)
        staging: for a URL, the folder to work in, which workers of a cluster have to see as well
        part: "i/n" generates only every n-th subject, from the i-th on, and scores once all are complete
        device: cpu, cuda, cuda:N, or mps for Apple's GPU; by default a GPU of NVIDIA's, if any
        wandb: also log the table and its figures to Weights & Biases
    """

    row: RowSettings = field(default_factory=RowSettings)
    title: str = "Evaluation"
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    baselines: list[BaselineSettings] = field(default_factory=list)
    published: list[PublishedTable] = field(default_factory=list)
    predictions: list[str] | None = None
    out: str = "runs/evaluate"
    staging: str | None = None
    part: str = "0/1"
    device: str | None = None
    wandb: bool = False
