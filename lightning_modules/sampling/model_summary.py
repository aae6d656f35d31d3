"""A model folder's properties, read from its configs without loading weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from diffusers.schedulers.scheduling_utils import SchedulerMixin

from core.errors import InputError
from core.tensors import read_json
from lightning_modules.networks.cross_view import check_views
from lightning_modules.networks.hub import find_model
from lightning_modules.networks.portrait import (
    CONTROL,
    CROSS_VIEW,
    NOISE_PRIOR,
    PREVIEW_DECODER,
    REFERENCE,
    check_prior_size,
)
from lightning_modules.networks.pretrained import check_folder
from lightning_modules.networks.preview import decoder_class
from lightning_modules.networks.text import check_prompt, find_text_encoder
from lightning_modules.sampling.latents import NO_PREVIEW
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from lightning_modules.sampling.schedulers import scheduler_for
from lightning_modules.sampling.settings import PREVIEW, VAE, Sampling
from portraits.pixels import check_side


@dataclass(frozen=True)
class ModelSummary:
    """A model folder: the side of its images in pixels, its scheduler, and which optional parts it has.

    `positions` is the largest number of views that V can attend over, 0 for any; `text_folder` has the
    tokenizer and the text encoder for prompts, if there are any.
    """

    folder: Path
    image_size: int
    scheduler: SchedulerMixin
    has_view_control: bool
    has_noise_prior: bool
    positions: int
    text_folder: Path | None = None

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
        check_side(image_size, f"{folder}: image size", least=1)
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
            text_folder=find_text_encoder(folder),
        )

    def check(self, sampling: Sampling, views: int) -> None:
        """Raise InputError if the model has no F_cam, or does not support these settings for a path of
        `views` views."""
        if not self.has_view_control:
            raise InputError(
                f"--model {self.folder}: it has no {CONTROL}/ (F_cam), without which views follow no camera"
            )
        self.check_sampling(sampling, views)

    def check_sampling(self, sampling: Sampling, views: int) -> None:
        """Raise InputError if the model does not support these settings for a path of `views` views."""
        scheduler_for(self.scheduler, sampling)
        check_views(min(sampling.window, views), self.positions)
        check_prompt(self.text_folder, sampling.prompt, str(self.folder))
        if sampling.decoder == PREVIEW and not self.has_preview_decoder:
            raise InputError(NO_PREVIEW.format(model=self.folder))
        if sampling.decoder not in (VAE, PREVIEW):
            decoder_class(Path(sampling.decoder))

    @property
    def has_preview_decoder(self) -> bool:
        """Whether the model has a small decoder of its own."""
        return (self.folder / PREVIEW_DECODER).is_dir()


def _number(path: Path, name: str) -> int:
    value: Any = read_json(path).get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(f"{path}: {name} is {value!r}, not a whole number")
    return value
