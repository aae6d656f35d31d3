"""A W&B workspace for the runs of this project: a saved view with panels for all that they log.

`wandb-workspaces` (the extra `dashboards`) writes it. Panels name what the callbacks and stages log; metrics
are named by patterns, as a metric computed with other than its standard weights has them in its name.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from callbacks.evaluation import GRID, ORBIT, VIEWS, WORST
from callbacks.media import media_name
from callbacks.optimizer_values import GRADIENT_NORM, LEARNING_RATE
from callbacks.throughput import DATA_WAIT, IMAGES_PER_SECOND
from core.errors import InputError
from lightning_modules.appearance import AppearanceStage
from lightning_modules.evaluation.directions import STEP, higher_is_better
from lightning_modules.evaluation.report import DOTS, SYSTEMS, TABLE, YAW, logged_name
from lightning_modules.evaluation.tables import ARROWS
from lightning_modules.loggers import logged_in
from lightning_modules.noise_prior import NoisePriorStage
from lightning_modules.view_consistency import ViewConsistencyStage
from lightning_modules.view_control import ViewControlStage
from portraits.predictions import PROTOCOLS

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import LinePlot
    from wandb_workspaces.reports.v2.interface import PanelTypes
    from wandb_workspaces.workspaces import Section, Workspace

NAME = "DiffPortrait3D"
METRICS = ("LPIPS", "SSIM", "DISTS", "ID", "FID", "POSE")  # the paper's six
LOSSES = ("train/loss", "val/loss")
GAINS = r"^val/\w+_gain$"
SAMPLING = (AppearanceStage, ViewControlStage, ViewConsistencyStage)
SAMPLES, PROXIES = "samples", "proxies"  # names of the images logged by the stages above, and by S's
GROUP = "Group"  # W&B's name of the group of a run, which is its stage


def save_workspace(path: str) -> str:
    """Save the workspace view in a project, `ENTITY/PROJECT`, of W&B, and return its address.

    Raises InputError on another form of `path`, without the package or a login, and where W&B refuses.
    """
    entity, project = parse_project(path)
    workspace = build_workspace(entity, project)
    if not logged_in():
        raise InputError("--wandb: this machine is not logged in to W&B: `wandb login`, or set WANDB_API_KEY")
    import requests
    import wandb

    try:
        return str(workspace.save().url)
    except (wandb.Error, requests.RequestException, ValueError) as error:
        raise InputError(f"--wandb {path}: W&B did not save it: {' '.join(str(error).split())}") from error


def parse_project(path: str) -> tuple[str, str]:
    """Entity and project of `ENTITY/PROJECT`. Raises InputError on another form."""
    match = re.fullmatch(r"([\w.-]+)/([\w.-]+)", path)
    if match is None:
        raise InputError(f"--wandb {path}: give ENTITY/PROJECT, as in a run's address")
    return match[1], match[2]


def build_workspace(entity: str, project: str) -> "Workspace":
    """The workspace, which is not saved. Raises InputError without the package."""
    try:
        from wandb_workspaces import expr
        from wandb_workspaces import workspaces as ws
    except ImportError as error:
        raise InputError(
            f"--wandb needs the package wandb-workspaces: pip install '.[dashboards]' ({error})"
        ) from error
    sections = [training_section(), *map(protocol_section, PROTOCOLS), media_section(), evaluation_section()]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis=STEP),
        runset_settings=ws.RunsetSettings(groupby=[expr.Metric(GROUP)]),
    )


def training_section() -> "Section":
    """Losses, gains, learning rate, gradient norm, throughput, and the time spent waiting for data."""
    from wandb_workspaces import workspaces as ws

    names = (*LOSSES, LEARNING_RATE, GRADIENT_NORM, IMAGES_PER_SECOND, DATA_WAIT)
    panels: list[PanelTypes] = [line(titled(name), [name]) for name in names]
    panels.insert(len(LOSSES), line(f"gains{ARROWS[True]}", pattern=GAINS))
    return ws.Section(name="training", panels=panels, is_open=True)


def protocol_section(protocol: str) -> "Section":
    """The paper's six metrics of a protocol, each with the direction that is better."""
    from wandb_workspaces import workspaces as ws

    panels: list[PanelTypes] = [
        line(titled(metric), pattern=metric_pattern(protocol, metric)) for metric in METRICS
    ]
    return ws.Section(name=f"{protocol.replace('_', ' ')}: validation", panels=panels, is_open=True)


def media_section() -> "Section":
    """Samples, grids, worst views and orbits over steps, and the tables of all views."""
    from wandb_workspaces import workspaces as ws
    from wandb_workspaces.reports import v2 as wr

    every = [stage.stage for stage in (*SAMPLING, NoisePriorStage)]
    keys = {
        SAMPLES: [media_name(stage.stage, SAMPLES) for stage in SAMPLING],
        PROXIES: [media_name(NoisePriorStage.stage, PROXIES)],
        GRID: [media_name(stage, GRID) for stage in every],
        "worst views": [media_name(stage, WORST) for stage in every],
        # F_ref alone follows no camera
        ORBIT: [media_name(stage, ORBIT) for stage in every if stage != AppearanceStage.stage],
    }
    panels: list[PanelTypes] = [
        wr.MediaBrowser(title=title, media_keys=names, mode="gallery", gallery_axis="step")
        for title, names in keys.items()
    ]
    panels += [wr.WeavePanelSummaryTable(table_name=media_name(stage, VIEWS)) for stage in every]
    return ws.Section(name="samples and worst views", panels=panels, is_open=True)


def evaluation_section() -> "Section":
    """The tables and figures of `evaluate --wandb true`."""
    from wandb_workspaces import workspaces as ws
    from wandb_workspaces.reports import v2 as wr

    names = [logged_name(name) for name in (SYSTEMS, DOTS, YAW)]
    panels: list[PanelTypes] = [
        wr.WeavePanelSummaryTable(table_name=logged_name(TABLE)),
        wr.MediaBrowser(title="figures", media_keys=names, mode="gallery", gallery_axis="run"),
    ]
    return ws.Section(name="evaluations", panels=panels)


def line(title: str, names: Sequence[str] = (), pattern: str | None = None) -> "LinePlot":
    """A plot over training steps of values by name, or of all whose names match a pattern."""
    from wandb_workspaces.reports import v2 as wr

    return wr.LinePlot(title=title, x=STEP, y=list(names), metric_regex=pattern)


def titled(name: str) -> str:
    """A logged name with the direction that is better: `LPIPS ↓ (lower is better)`."""
    higher = higher_is_better(name)
    said = {True: " (higher is better)", False: " (lower is better)", None: ""}
    return f"{name}{ARROWS[higher]}{said[higher]}"


def metric_pattern(protocol: str, metric: str) -> str:
    """A pattern of the names of a metric with any weights, without its failures and angles."""
    return rf"^val/{protocol}/{metric}(\[[^\]]*\])?$"
