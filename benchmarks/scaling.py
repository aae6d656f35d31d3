"""`python -m benchmarks.scaling`: how a build, sampling and an evaluation would scale, by simulation.

Units of measured durations are run on 1 to 256 simulated workers, as `benchmarks.simulation` describes, once
on ideal workers and once on workers of which some are slow and some die. The table gives the time until the
last unit is done, the efficiency, and the cost. Nothing here is measured on a cluster.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from numpy.typing import NDArray

from benchmarks.simulation import Cluster, Run, simulate
from core.errors import InputError, one_line
from core.seeding import numpy_generator
from lightning_modules.evaluation.plots import draw_curve, new_figure, style_axes, to_picture
from portraits.contact_sheet import picture_format, save_whole

HOUR = 3600.0


@dataclass(frozen=True)
class Work:
    """A job: its units, their mean duration and the start-up of a worker, in seconds of one core, and the
    coefficient of variation of the durations."""

    name: str
    units: int
    seconds: float
    startup: float
    variation: float

    def durations(self, seed: int) -> NDArray[np.float64]:
        """Log-normal durations (units,) of the given mean and variation."""
        spread = np.sqrt(np.log1p(self.variation**2))
        draw = numpy_generator(seed, "durations", self.name).standard_normal(self.units)
        return self.seconds * np.exp(spread * draw - spread**2 / 2)


# Durations and start-up as measured on a core of a CPU; docs/performance.md names the commands. A unit of a
# build is as many frames as share the people of their conditions; before, each frame was one.
JOBS = (
    Work("path-traced conditions, 2,264 frames", 2264, 136.0, 7.8, 0.15),
    Work("baked conditions, 142 units of 16 frames", 142, 16 * 6.0, 7.8, 0.15),
    Work("sampling, 500 portraits of 24 views", 500, 24 * 1.11, 17.0, 0.05),
    Work("evaluation, 500 subjects of 16 views", 500, 16 * (1.11 + 0.09), 17.0, 0.05),
)


def table(jobs: Sequence[Work], workers: Sequence[int], cluster: Cluster, seed: int) -> str:
    """A Markdown table: a row for each job and number of workers."""
    rows = [
        "| job | workers | ideal: time | efficiency | time | efficiency | worker-hours | lost units |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for job in jobs:
        for count, ideal, real in runs(job, workers, cluster, seed):
            rows.append(
                f"| {job.name} | {count} | {clock(ideal.makespan)} | {ideal.efficiency:.0%}"
                f" | {clock(real.makespan)} | {real.efficiency:.0%} | {real.cost / HOUR:.1f} | {real.lost} |"
            )
    return "\n".join(rows)


def runs(job: Work, workers: Sequence[int], cluster: Cluster, seed: int) -> list[tuple[int, Run, Run]]:
    """(workers, run on ideal workers, run on those of `cluster`) for each number of workers."""
    durations = job.durations(seed).tolist()
    found = []
    for count in workers:
        ideal = Cluster(count, job.startup)
        real = replace(cluster, workers=count, startup=job.startup)
        found.append((count, simulate(durations, ideal, seed), simulate(durations, real, seed)))
    return found


def clock(seconds: float) -> str:
    """Seconds as hours:minutes:seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def draw(jobs: Sequence[Work], workers: Sequence[int], cluster: Cluster, seed: int, path: Path) -> None:
    """Draw speed-up and efficiency over the number of workers."""
    figure = new_figure(900, 340)
    left, right = figure.subplots(1, 2)
    for number, job in enumerate(jobs):
        found = runs(job, workers, cluster, seed)
        one = simulate(job.durations(seed).tolist(), Cluster(1, job.startup), seed).makespan
        colour = f"C{number}"
        draw_curve(left, [(n, one / real.makespan) for n, _, real in found], label=job.name, color=colour)
        draw_curve(right, [(n, ideal.efficiency) for n, ideal, _ in found], color=colour, linestyle=":")
        draw_curve(right, [(n, real.efficiency) for n, _, real in found], color=colour)
    left.plot(workers, workers, color="black", linewidth=0.8, linestyle="--")
    left.set_yscale("log", base=2)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(workers), [str(count) for count in workers])
    left.legend(fontsize=7)
    style_axes(left, "speed-up by number of workers (dashed: linear)")
    style_axes(right, "efficiency (dotted: ideal workers)")
    save_whole(to_picture(figure), path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = ArgumentParser(prog="python -m benchmarks.scaling")
    parser.add_argument("--workers", type=list[int], default=[1, 4, 16, 64, 256], help="numbers of workers")
    parser.add_argument("--slow_share", type=float, default=0.05, help="share of workers that are slow")
    parser.add_argument("--slow_factor", type=float, default=3.0, help="how much longer those take")
    parser.add_argument("--lifetime", type=float, default=24.0, help="mean hours until a worker dies")
    parser.add_argument("--notice", type=float, default=30.0, help="seconds until a death is noticed")
    parser.add_argument("--seed", type=int, default=0, help="seed of durations, slow workers and deaths")
    parser.add_argument("--picture", type=str | None, help="draw the curves into this picture")
    chosen = parser.parse_args(arguments)
    if min(chosen.workers, default=0) < 1 or not 0 <= chosen.slow_share <= 1 or chosen.slow_factor < 1:
        raise InputError("give --workers of at least 1, a --slow_share from 0 to 1, a --slow_factor from 1")
    if not chosen.lifetime > 0 or chosen.notice < 0:
        raise InputError("give a --lifetime above 0 and a --notice of at least 0")
    cluster = Cluster(
        1, 0.0, chosen.slow_share, chosen.slow_factor, chosen.lifetime * HOUR, notice=chosen.notice
    )
    if chosen.picture is not None:
        picture_format(Path(chosen.picture))
    print(table(JOBS, chosen.workers, cluster, chosen.seed))
    if chosen.picture is not None:
        draw(JOBS, chosen.workers, cluster, chosen.seed, Path(chosen.picture))


if __name__ == "__main__":
    with one_line():
        main()
