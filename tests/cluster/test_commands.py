"""Commands on a Ray cluster of three workers write the same bytes as locally: undisturbed, if a worker is
killed, and if the command is killed and run again."""

import json
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from core.files import PARTIAL
from generators import invert
from lightning_modules import evaluate, synthesize
from shards import build, cache_latents
from tests.cluster.inputs import make_inputs
from tests.cluster.processes import BUSY, WORKER, Command, wait_until, workers
from tests.soak.contents import differences, read_folder

pytestmark = pytest.mark.cluster
SOURCES = {"slow": "tests.cluster.inputs.SlowSource", "poisoned": "tests.cluster.inputs.PoisonedSource"}


@dataclass(frozen=True)
class Job:
    """A command: its main function, its arguments given the folder of inputs, and a glob pattern of the files
    of finished units."""

    name: str
    main: Callable[[Sequence[str]], object]
    arguments: Callable[[Path], list[str]]
    units: str = ""

    def start(self, inputs: Path, folder: Path, *more: str) -> Command:
        """Start the command in a working folder."""
        given = [*self.arguments(inputs), *more]
        return Command(lambda: self.main(given), folder)


def table(inputs: Path, steps: int = 2) -> list[str]:
    return [
        *("--model", str(inputs / "model"), "--subjects.shards", str(inputs / "shards"), "--device=cpu"),
        *(
            f"--sampling.steps={steps}",
            "--batch=1",
            "--subjects.views=2",
            "--scoring.metrics=[PSNR]",
            "--out=table",
        ),
    ]


def table_with_a_baseline(inputs: Path) -> list[str]:
    tuning = "{style_steps: 2, tune_steps: 1, perceptual_weight: 0.0}"
    baseline = f"{{kind: eg3d_pti, folder: {inputs / 'gan'}, settings: {{tuning: {tuning}, frame: own}}}}"
    return [*table(inputs, steps=1), f"--baselines=[{baseline}]", "--subjects.frames=3"]


def portraits(inputs: Path) -> list[str]:
    cameras = ["--cameras", str(inputs / "cameras.json"), "--conditions", str(inputs / "conditions")]
    return [
        *("--model", str(inputs / "model"), "--portraits", str(inputs / "photos"), *cameras),
        *("--steps=4", "--align=false", "--out=views"),
    ]


def inversions(inputs: Path) -> list[str]:
    tuning = ["--tuning.style_steps=2", "--tuning.tune_steps=1", "--tuning.perceptual_weight=0"]
    return [
        *("--generator", str(inputs / "gan"), "--portraits", str(inputs / "photos"), "--out=inverted"),
        *tuning,
        *("--cameras", str(inputs / "cameras.json"), "--portrait_cameras", str(inputs / "own.json")),
    ]


def latents(inputs: Path) -> list[str]:
    return [str(inputs / "shards"), "--vae", str(inputs / "model"), "--out=cached", "--device=cpu"]


BUILD = Job("build", lambda given: build.main(given, SOURCES), lambda _: ["slow", "--out=built"],
            "built.partial/units/*.tar")  # fmt: skip
EVALUATE = Job("evaluate", evaluate.main, table, "table/samples-*/*/views.json")
SYNTHESIZE = Job("synthesize", synthesize.main, portraits, "views.partial/result/*/sheet.png")
INVERT = Job("invert", invert.main, inversions)
OTHERS = [
    Job("a baseline", evaluate.main, table_with_a_baseline),
    Job("cache_latents", cache_latents.main, latents),
]
JOBS = pytest.mark.parametrize("job", [BUILD, EVALUATE, SYNTHESIZE], ids=lambda job: job.name)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


@pytest.fixture(scope="session")
def expected(inputs, tmp_path_factory) -> Callable[[Job], Any]:
    """The local output of a job."""
    known: dict[str, Any] = {}

    def contents(job: Job) -> Any:
        if job.name not in known:
            folder = tmp_path_factory.mktemp("here") / "run"
            ended = job.start(inputs, folder)
            assert ended.wait() == 0, ended.log.read_text()
            known[job.name] = read_folder(folder)
        return known[job.name]

    return contents


@pytest.mark.parametrize("job", [BUILD, EVALUATE, SYNTHESIZE, *OTHERS], ids=lambda job: job.name)
def test_cluster_output_equals_local_output(cluster, inputs, expected, tmp_path, job):
    ended = job.start(inputs, tmp_path / "run", f"--engine=ray:{cluster.address}")
    assert ended.wait() == 0, ended.log.read_text()
    assert len(expected(job)) > 3
    assert differences(read_folder(tmp_path / "run"), expected(job)) == []


@JOBS
def test_output_is_the_same_if_a_worker_is_killed(cluster, inputs, expected, tmp_path, job):
    command = job.start(inputs, tmp_path / "run", f"--engine=ray:{cluster.address}")
    wait_until(lambda: times((tmp_path / "run").glob(job.units)), command)
    worker = wait_until(lambda: workers(cluster.process, BUSY), command)[0]
    os.kill(worker, signal.SIGKILL)
    assert command.wait() == 0, command.log.read_text()
    assert differences(read_folder(tmp_path / "run"), expected(job)) == []


@JOBS
def test_killed_command_is_resumed(cluster, inputs, expected, tmp_path, job):
    arguments = (inputs, tmp_path / "run", f"--engine=ray:{cluster.address}")
    command = job.start(*arguments)
    wait_until(lambda: times((tmp_path / "run").glob(job.units)), command)
    command.kill()
    wait_until(lambda: not workers(cluster.process, WORKER))  # they end by themselves
    kept = times((tmp_path / "run").glob(job.units))
    assert len(kept) > 0
    assert differences(read_folder(tmp_path / "run"), expected(job)) != []
    again = job.start(*arguments)
    assert again.wait() == 0, again.log.read_text()
    assert differences(read_folder(tmp_path / "run"), expected(job)) == []
    if job is BUILD:
        assert f"| {len(kept)}/12 [" in again.log.read_text()
    else:
        assert kept.items() <= times((tmp_path / "run").rglob(Path(job.units).name)).items()


def times(paths: Iterable[Path]) -> dict[str, int]:
    """Modification times of the files of finished units, by folder and file name."""
    return {
        f"{path.parent.name}/{path.name}": path.stat().st_mtime_ns
        for path in paths
        if not path.parent.name.endswith(PARTIAL)
    }


def test_inversions_agree_to_rounding(cluster, inputs, tmp_path):
    """Hundreds of steps of optimisation are not bit for bit the same in a Ray worker."""
    here = INVERT.start(inputs, tmp_path / "here")
    assert here.wait() == 0, here.log.read_text()
    there = INVERT.start(inputs, tmp_path / "there", f"--engine=ray:{cluster.address}")
    assert there.wait() == 0, there.log.read_text()
    people = sorted(path.parent.name for path in (tmp_path / "here/inverted").glob("*/report.json"))
    assert len(people) == 8
    for person in people:
        one, other = (tmp_path / run / "inverted" / person for run in ("here", "there"))
        assert distances(other) == pytest.approx(distances(one), rel=1e-5)
        views = zip(sorted(one.glob("view_*.png")), sorted(other.glob("view_*.png")), strict=True)
        for image, again in views:
            difference = open_image(image).astype(int) - open_image(again)
            assert abs(difference).max() <= 1


def distances(folder: Path) -> dict[str, float]:
    """The distances to the portrait that an inversion reports."""
    report: dict[str, dict[str, float]] = json.loads((folder / "report.json").read_text())
    return report["distances"]


def open_image(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def test_build_skips_unit_that_kills_its_workers(cluster, inputs, tmp_path):
    job = Job("poisoned", lambda given: build.main(given, SOURCES), lambda _: ["poisoned", "--out=built"])
    share = ["--identities=2", "--max_skipped_share=0.2", f"--engine=ray:{cluster.address}"]
    ended = job.start(inputs, tmp_path / "run", *share)
    assert ended.wait() == 0, ended.log.read_text()
    skipped = (tmp_path / "run" / "built" / "skipped.json").read_text()
    assert '"reason": "its worker died, 3 times"' in skipped
    assert "unit 4, ('test', 0)" in skipped
    strict = job.start(inputs, tmp_path / "strict", "--identities=2", share[2])
    assert strict.wait() == 2
    assert "2 of 12 frames were skipped, more than --max_skipped_share 0.1" in strict.log.read_text()
