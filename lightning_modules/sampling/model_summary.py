"""A model folder's properties, read from its configs without loading weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from diffusers.schedulers.scheduling_utils import SchedulerMixin

from core.errors import InputError
from core.model_folders import read_json
from lightning_modules.networks.cross_view import check_views
from lightning_modules.networks.hub import find_model
from lightning_modules.networks.portrait import CONTROL, CROSS_VIEW, NOISE_PRIOR, REFERENCE, check_prior_size
from lightning_modules.networks.pretrained import check_folder
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.schedulers import scheduler_for


@dataclass(frozen=True)
class ModelSummary:
    """A model folder: the side of its images in pixels, its scheduler, and which optional parts it has.

    `positions` is the largest number of views that V can attend over, 0 for any.
    """

    folder: Path
    image_size: int
    scheduler: SchedulerMixin
    has_view_control: bool
    has_noise_prior: bool
    positions: int

    @classmethod
    def read(cls, path: str) -> Self:
        """Read a folder's configs. Raises InputError if it is not a model folder, or a config is damaged."""
        folder = find_model(path)
        if not (folder / REFERENCE).is_dir():
            raise InputError(
                f"{folder} has no {REFERENCE}/: give a folder of import_released, assemble or training"
            )
        check_folder(folder)
        side = _number(folder / "unet/config.json", "sample_size")
        levels = read_json(folder / "vae/config.json").get("block_out_channels")
        if not isinstance(levels, list) or not levels:
            raise InputError(f"{folder / 'vae/config.json'}: block_out_channels is {levels!r}, not a list")
        image_size = side * 2 ** (len(levels) - 1)
        has_prior, has_cross_view = (folder / NOISE_PRIOR).is_dir(), (folder / CROSS_VIEW).is_dir()
        if has_prior:
            prior_side = _number(folder / NOISE_PRIOR / "config.json", "image_size")
            check_prior_size(prior_side, image_size, str(folder / NOISE_PRIOR))
        return cls(
            folder,
            image_size,
            DiffPortrait3DPipeline.read_scheduler(folder),
            has_view_control=(folder / CONTROL).is_dir(),
            has_noise_prior=has_prior,
            positions=_number(folder / CROSS_VIEW / "config.json", "positions") if has_cross_view else 0,
        )

    def check(self, steps: int, window: int) -> None:
        """Raise InputError if the model has no F_cam, or does not support this number of steps or windows of
        this number of views."""
        if not self.has_view_control:
            raise InputError(
                f"--model {self.folder}: it has no {CONTROL}/ (F_cam), without which views follow no camera"
            )
        scheduler_for(self.scheduler, steps)
        check_views(window, self.positions)


def _number(path: Path, name: str) -> int:
    value: Any = read_json(path).get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(f"{path}: {name} is {value!r}, not a whole number")
    return value
