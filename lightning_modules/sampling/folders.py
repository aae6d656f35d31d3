"""Loading and saving of the pipeline: model folders and repositories of the Hugging Face hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import diffusers
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.hub_utils import PushToHubMixin

from core.errors import InputError
from core.files import whole_folder
from core.tensors import read_json
from lightning_modules.networks.hub import HubOptions, find_model, unreachable
from lightning_modules.networks.portrait import (
    PortraitModel,
    check_model,
    check_safetensors,
    load_portrait_model,
    write_portrait_model,
)
from lightning_modules.networks.pretrained import load_schedule, scheduler_of
from lightning_modules.networks.text import FP16
from lightning_modules.sampling.loading_options import (
    check_device_map,
    check_dtype,
    replace_components,
    replaced_components,
)


class FoldersMixin:
    """`from_pretrained` and `save_pretrained` for a `DiffusionPipeline` that is created from a
    `PortraitModel`."""

    config_name: str
    save_config: Callable[..., None]
    scheduler: SchedulerMixin
    to: Callable[..., Self]
    _loras: dict[str, float]

    @classmethod
    def of(cls, model: PortraitModel) -> Self:
        """A pipeline of loaded networks."""
        raise NotImplementedError

    @property
    def model(self) -> PortraitModel:
        """The networks."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        dtype: torch.dtype = torch.float32,
        *,
        torch_dtype: torch.dtype | None = None,
        variant: str | None = None,
        use_safetensors: bool | None = None,
        device_map: str | torch.device | None = None,
        **options: Any,
    ) -> Self:
        """Load a model with the scheduler that it was saved with.

        Args:
            path: a folder, or a repository of the Hugging Face hub.
            dtype, torch_dtype: data type of the networks; the second is diffusers' name.
            variant: None or "fp16"; accepted without effect, as the available weights are cast to `dtype`.
            use_safetensors: refuse pickled weights if True.
            device_map: the device that the networks are moved to.
            options: diffusers' for the hub (`revision`, `cache_dir`, `local_files_only`, `token`,
                `force_download`), and components in place of the model's, such as `scheduler` or `vae`; None
                leaves an optional one out.

        Raises InputError if there is no such model, if it is damaged, and for options that this pipeline does
        not have.
        """
        chosen = check_dtype(dtype if torch_dtype is None else torch_dtype)
        check_device_map(device_map)
        if variant not in (None, FP16):
            raise InputError(f"variant {variant!r}: give None or {FP16!r}")
        hub = HubOptions.take(options)
        components = replaced_components(cls, options)
        folder = find_model(path, hub)
        if use_safetensors:
            check_safetensors(folder)
        check_model(folder)
        scheduler = cls.read_scheduler(folder)
        pipeline = cls.of(load_portrait_model(str(folder), chosen))
        pipeline.scheduler = scheduler
        replace_components(pipeline, components)
        return pipeline if device_map is None else pipeline.to(device_map)

    @classmethod
    def read_scheduler(cls, folder: Path) -> SchedulerMixin:
        """Load the scheduler from a folder that a pipeline has saved; from other folders, the noise schedule
        (DDPM).

        Raises InputError if it is not one of diffusers' schedulers or its config is damaged.
        """
        index = folder / cls.config_name
        if not index.is_file() or read_json(index).get("_class_name") != cls.__name__:
            return load_schedule(folder / "scheduler")
        entry = read_json(index).get("scheduler")
        name = entry[-1] if isinstance(entry, list) and entry else entry
        scheduler: Any = getattr(diffusers, str(name), None) if str(name).endswith("Scheduler") else None
        if not (isinstance(scheduler, type) and issubclass(scheduler, SchedulerMixin)):
            raise InputError(f"{index}: {name!r} is not one of diffusers' schedulers")
        config = read_json(folder / "scheduler/scheduler_config.json")
        return scheduler_of(scheduler, config, folder / "scheduler")

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the folder that `save_pretrained` writes to a repository of the Hugging Face hub, and return
        the commit's address; options are diffusers'.

        Raises InputError if the hub cannot be reached, or refuses.
        """
        try:
            return str(PushToHubMixin.push_to_hub(self, repo_id, **options))
        except unreachable() as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise InputError(
                f"{repo_id}: not uploaded: {reason}; save_pretrained writes the folder"
            ) from error

    def save_pretrained(
        self,
        save_directory: str | Path,
        dtype: torch.dtype | None = None,
        *,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
    ) -> None:
        """Write the folder that `from_pretrained` reads, as safetensors, in `dtype` or as loaded.

        Raises InputError if the folder exists and is not empty, and for values of diffusers'
        `safe_serialization`, `variant` and `max_shard_size` that request other files.
        """
        if push_to_hub:
            raise InputError("push_to_hub=True: the method of that name uploads: push_to_hub('owner/name')")
        if max_shard_size is not None:
            raise InputError(f"max_shard_size {max_shard_size}: each network is saved in one file")
        if not safe_serialization or variant is not None:
            raise InputError("models are saved as safetensors without a variant; dtype=torch.float16 is half")
        if self._loras:
            raise InputError("LoRAs are not part of the model: unload_lora_weights() first")
        path = Path(save_directory)
        empty = path.is_dir() and not any(path.iterdir())
        with whole_folder(path, replace=empty) as folder:
            write_portrait_model(self.model, folder, dtype)
            self.save_config(folder)
