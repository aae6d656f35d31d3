"""diffusers' arguments of `from_pretrained`: components in place of the model's, and arguments that this
pipeline does not have."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from core.errors import InputError
from lightning_modules.networks.pretrained import check_vae

# Weights are memory-mapped anyway, and downloads continue.
WITHOUT_EFFECT = {"low_cpu_mem_usage", "offload_state_dict", "disable_mmap", "resume_download"}
NO_TEXT = "prompts are embedded by the model folder's tokenizer/ and text_encoder/"
UNSUPPORTED = {
    "custom_pipeline": "this class is the pipeline",
    "custom_revision": "this class is the pipeline",
    "trust_remote_code": "no code is loaded from models",
    "quantization_config": "torch_dtype=torch.float16 halves the weights",
    "subfolder": "give the folder itself",
    "max_memory": "enable_model_cpu_offload() keeps networks on the CPU",
    "offload_folder": "enable_model_cpu_offload() keeps networks on the CPU",
    "safety_checker": "there is none",
    "requires_safety_checker": "there is no safety checker",
    "feature_extractor": "there is none",
    "image_encoder": "there is none",
    "text_encoder": NO_TEXT,
    "tokenizer": NO_TEXT,
    "proxies": "set HTTPS_PROXY",
    "use_auth_token": "give token",
}


def check_dtype(dtype: object) -> torch.dtype:
    """A data type. Raises InputError for anything else, such as its name."""
    if not isinstance(dtype, torch.dtype):
        raise InputError(f"torch_dtype {dtype!r}: give a torch.dtype, such as torch.float16")
    return dtype


def check_device_map(device_map: object) -> None:
    """Raise InputError unless `device_map` is None or a device for the whole pipeline."""
    if device_map is None:
        return
    try:
        torch.device(device_map)  # type: ignore[call-overload]
    except (RuntimeError, TypeError):
        raise InputError(
            f"device_map {device_map!r}: give one device, such as 'cuda'; replicate(devices) shares the views"
            " of a path over several"
        ) from None


def replaced_components(cls: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The components of a pipeline class among the options of `from_pretrained`; None leaves one out.

    Options of `WITHOUT_EFFECT` are accepted. Raises InputError for other options, and for None in place of a
    component that the pipeline needs.
    """
    components, _ = cls._get_signature_keys(cls)
    for name, value in options.items():
        if name in WITHOUT_EFFECT or (name in UNSUPPORTED and not value):
            continue
        if name not in components:
            reason = UNSUPPORTED.get(name, f"it takes components, {', '.join(sorted(components))}")
            raise InputError(f"{name}: not an argument of this from_pretrained: {reason}")
        if value is None and name not in cls._optional_components:
            raise InputError(
                f"{name}=None: the pipeline needs this component: leave the argument out, or give one"
            )
    return {name: value for name, value in options.items() if name in components}


def replace_components(pipeline: Any, components: Mapping[str, Any]) -> None:
    """Replace parts of a pipeline. Raises InputError for parts of another class, and VAEs of other
    latents."""
    for name, value in components.items():
        wanted = SchedulerMixin if name == "scheduler" else type(getattr(pipeline, name))
        if value is not None and wanted is not type(None) and not isinstance(value, wanted):
            raise InputError(f"{name}: give a {wanted.__name__}, not a {type(value).__name__}")
        if isinstance(value, AutoencoderKL):
            check_vae(value, pipeline.unet.config.in_channels, Path(name))
        setattr(pipeline, name, value)
