"""The W&B workspace: panels refer to logged names, and the package's data model accepts it."""

import re
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import WandbLogger
from wandb_workspaces.reports import v2 as wr
from wandb_workspaces.workspaces import Workspace, internal

from callbacks import wandb_workspace
from callbacks.dashboard import main
from callbacks.evaluation import Evaluation
from callbacks.optimizer_values import GRADIENT_NORM, LEARNING_RATE, OptimizerValues
from callbacks.pictures import Pictures
from callbacks.throughput import Throughput
from callbacks.wandb_workspace import GAINS, METRICS, build_workspace, metric_pattern, titled
from core.errors import InputError
from lightning_modules.noise_prior import NoisePriorStage
from portraits.predictions import PROTOCOLS
from tests.networks.toy import toy_prior


class Recorder(WandbLogger):
    """A W&B logger that records logged names and starts no run."""

    def __init__(self, save_dir: Path) -> None:
        super().__init__(save_dir=save_dir, offline=True)
        self.names: set[str] = set()

    @property
    def experiment(self) -> Any:
        return self

    def define_metric(self, *_: Any, **__: Any) -> None: ...

    def log_hyperparams(self, *_: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.names |= metrics.keys()

    def log_image(self, key: str, *_: Any, **__: Any) -> None:
        self.names.add(key)

    log_video = log_table = log_image


@pytest.fixture(scope="module")
def workspace() -> Workspace:
    return build_workspace("someone", "heads")


def panels(workspace: Workspace) -> list[Any]:
    return [panel for section in workspace.sections for panel in section.panels]


def media(workspace: Workspace) -> set[str]:
    """The names of all pictures, videos and tables."""
    found = {
        key for panel in panels(workspace) if isinstance(panel, wr.MediaBrowser) for key in panel.media_keys
    }
    return found | {p.table_name for p in panels(workspace) if isinstance(p, wr.WeavePanelSummaryTable)}


def names_of_runs(make_trainer, make_stage, make_data, folder: Path) -> set[str]:
    """The names logged by toy runs of stage 1 and of S."""
    logger = Recorder(folder)
    data = {"references": 2, "targets": 2, "conditions": True}
    for stage, options in ((make_stage(), {}), (NoisePriorStage(toy_prior()), data)):
        callbacks = [
            Throughput(),
            OptimizerValues(),
            Pictures(items=1),
            Evaluation(frames=1, views=1, steps=1, metrics=["SSIM"], orbit_views=2),
        ]
        trainer = make_trainer(
            max_steps=1,
            limit_val_batches=1,
            val_check_interval=1,
            log_every_n_steps=1,
            callbacks=callbacks,
            logger=logger,
        )
        trainer.fit(stage, make_data(**options))
    return logger.names


def test_panels_plot_only_logged_names(workspace, make_trainer, make_stage, make_data, tmp_path):
    logged = names_of_runs(make_trainer, make_stage, make_data, tmp_path)
    lines = [panel for panel in panels(workspace) if isinstance(panel, wr.LinePlot)]
    plotted = {str(getattr(name, "name", name)) for panel in lines for name in panel.y}
    assert plotted
    assert plotted <= logged
    # SSIM is the only one of the six that needs no weights; the others are named alike
    for pattern in (GAINS, metric_pattern("novel_view", "SSIM")):
        assert pattern in [panel.metric_regex for panel in lines]
        assert any(re.match(pattern, name) for name in logged)

    of_runs = {name for name in media(workspace) if name.startswith("media/")}
    stages = {stage.stage for stage in (*wandb_workspace.SAMPLING, NoisePriorStage)}
    assert {name.split("/")[1] for name in of_runs} == stages
    # stages 2 and 3 log the same kinds of media
    kinds = {name.rsplit("/", 1)[1] for name in logged if name.startswith("media/")}
    assert {name.split("/")[2] for name in of_runs} <= kinds
    ran = ("media/appearance/", "media/noise_prior/")
    assert {name for name in of_runs if name.startswith(ran)} <= logged


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_protocol_section_has_six_metrics_with_direction(workspace, protocol):
    section = next(s for s in workspace.sections if s.name.startswith(protocol.replace("_", " ")))
    titles = [panel.title for panel in section.panels]
    assert [title.split()[0] for title in titles] == list(METRICS)
    assert titles[0] == "LPIPS ↓ (lower is better)"
    assert titles[1] == "SSIM ↑ (higher is better)"


@pytest.mark.parametrize(
    ("name", "matches"),
    [
        ("val/wild/LPIPS", True),
        ("val/wild/LPIPS[efficientnet-lite0]", True),
        ("val/wild/LPIPS[vgg16]_failures", False),
        ("val/novel_view/LPIPS", False),
        ("val/wild/PLPIPS", False),
    ],
)
def test_metric_pattern_matches_any_weights(name, matches):
    assert bool(re.match(metric_pattern("wild", "LPIPS"), name)) is matches


def test_workspace_round_trips_through_the_packages_model(workspace):
    view = workspace._to_model()
    read = Workspace._from_model(internal.View.model_validate(view.model_dump(by_alias=True)))
    assert [section.name for section in read.sections] == [section.name for section in workspace.sections]
    assert media(read) == media(workspace)
    patterns = [panel.metric_regex for panel in panels(read) if isinstance(panel, wr.LinePlot)]
    assert metric_pattern("wild", "ID") in patterns
    assert [group.name for group in read.runset_settings.groupby] == ["Group"]
    assert read.settings.x_axis == "trainer/global_step"


def test_titles_without_direction_are_unchanged():
    assert titled(LEARNING_RATE) == LEARNING_RATE
    assert titled(GRADIENT_NORM) == GRADIENT_NORM


def test_invalid_arguments_are_input_errors(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="give ENTITY/PROJECT"):
        main(["--wandb", "heads"])
    with pytest.raises(InputError, match="give the folder of a run, or --wandb"):
        main([])
    with pytest.raises(InputError, match="give the folder of a run, or --wandb"):
        main([str(tmp_path), "--wandb", "a/b"])
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(InputError, match="not logged in to W&B"):
        main(["--wandb", "someone/heads"])
