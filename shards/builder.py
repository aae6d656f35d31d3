"""Building a folder of shards from a source: parallel, resumable, and deterministic.

Each unit of work is captured into a small tar in `<folder>.partial/units/`, so that an interrupted build can
be resumed. When all units are complete, they are packed into shards, and `<folder>` appears atomically.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from core.errors import InputError
from core.files import RESULT, resumable_folder
from shards.build_plan import MAX_SHARD_MB, BuildOptions, BuildPlan, plan_build
from shards.capture import capture_units, skips_path, unit_path
from shards.manifest import Manifest
from shards.packing import pack
from shards.skips import SKIPPED, Skip, check_share, count_lost, load_skips, save_skips, summarize
from shards.source import Source

log = logging.getLogger(__name__)


def build(
    source: Source,
    out: Path,
    processes: int | None = None,
    max_shard_mb: float = MAX_SHARD_MB,
    max_skipped_share: float | None = None,
) -> Manifest:
    """Plan and run the build of `source` into the new folder `out`; see `BuildOptions` and `run_build`."""
    return run_build(plan_build(source, BuildOptions(str(out), processes, max_shard_mb, max_skipped_share)))


def run_build(plan: BuildPlan) -> Manifest:
    """Capture the units of a plan, and pack their frames into shards and a manifest in the plan's folder.

    The same plan resumes an interrupted build; a folder that was finished, but not delivered, is left as it
    is. Skipped frames are summarised in the log and listed in skipped.json.

    Raises:
        InputError: the folder exists or is being built by another process, an interrupted build had another
            recipe, the source violates the schema, or more than `plan.max_skipped_share` of the frames were
            skipped.
    """
    if plan.destination.is_finished(plan.recipe):
        return Manifest.load(plan.destination.folder)
    with resumable_folder(plan.destination.folder, plan.recipe) as staging:
        units, packed = staging / "units", staging / RESULT
        units.mkdir(exist_ok=True)
        lost = capture_units(plan, units)
        paths = [path for index in range(len(plan.units)) if (path := unit_path(units, index)).exists()]
        shutil.rmtree(packed, ignore_errors=True)
        packed.mkdir()
        _record_skips(plan, paths, lost, packed)
        plan.destination.label(packed, plan.recipe)
        return pack(paths, packed, plan.source.name, plan.source.settings, plan.max_shard_bytes)


def _record_skips(plan: BuildPlan, paths: Sequence[Path], lost: Sequence[Skip], packed: Path) -> None:
    """Log and save what was skipped, and the units that were `lost`. Raises InputError if it is too much, or
    everything."""
    skips = [skip for path in paths for skip in load_skips(skips_path(path))] + list(lost)
    if not skips:
        return
    frames = sum(plan.frames)
    log.warning("%s", summarize(skips, frames))
    check_share(skips, frames, plan.max_skipped_share, plan.source.name)
    if count_lost(skips) == frames:
        raise InputError(f"{plan.source.name}: no frame was captured: {skips[0].what}: {skips[0].reason}")
    save_skips(packed / SKIPPED, skips)
