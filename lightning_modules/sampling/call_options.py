"""diffusers' names for arguments of a pipeline call, and conversion of its outputs. K views, S image side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from core.errors import InputError
from lightning_modules.sampling.ddim import OnStepEnd
from lightning_modules.sampling.presets import preset
from lightning_modules.sampling.settings import Sampling

StepCallback = Callable[[Any, int, Tensor, dict[str, Tensor]], Mapping[str, Tensor] | None]
"""diffusers' `callback_on_step_end`: maps pipeline, step, timestep and tensors to the tensors to continue
with."""
CALLBACK_TENSORS = ("latents", "pred_original_sample")

OUTPUT_TYPES = ("pil", "np", "pt")
MAX_SEED = 2**63 - 1
SETTINGS = {field.name for field in fields(Sampling)}
SAME_AS = {"num_inference_steps": "steps", "guidance_scale": "guidance"}
# Arguments of diffusers' pipelines that this one does not have, and what to do instead.
UNSUPPORTED = {
    "prompt_embeds": "give the text as prompt",
    "negative_prompt": "the unconditional pass has the empty prompt, as F was trained",
    "height": "views have the size that the model was trained for",
    "width": "views have the size that the model was trained for",
    "image": "the photo is the first argument, portrait, and images for F_cam are conditions",
    "latents": "starting noise is determined by seed and, if given, proxies",
    "num_images_per_prompt": "call again with another seed",
    "timesteps": "give steps",
}


def sampling_settings(options: Mapping[str, Any]) -> Sampling:
    """The settings of sampling from a call's keyword arguments, with our names or diffusers'; others are as
    in the `preset` that is named, or the paper's.

    Raises InputError for arguments that are unknown, or given twice with different values.
    """
    options = dict(options)
    name = options.pop("preset", None)
    base = {} if name is None else preset(name)
    settings: dict[str, Any] = {}
    for name, value in options.items():
        known = SAME_AS.get(name, name)
        if known not in SETTINGS:
            reason = UNSUPPORTED.get(name, f"choose from {', '.join(sorted(SETTINGS | SAME_AS.keys()))}")
            raise InputError(f"{name}: not an argument of this pipeline: {reason}")
        if known in settings and settings[known] != value:
            raise InputError(f"{known} is given twice, as {settings[known]} and as {value}: give it once")
        settings[known] = value
    return Sampling(**base | settings)


def draw_seed(generator: torch.Generator) -> int:
    """Draw a seed from a generator, which advances its state. Raises InputError if it is not a generator."""
    if not isinstance(generator, torch.Generator):
        raise InputError(f"generator: give a torch.Generator, not a {type(generator).__name__}")
    return int(torch.randint(MAX_SEED, (), generator=generator, device=generator.device))


def step_end(pipeline: Any, callback: StepCallback | None, names: Sequence[str]) -> OnStepEnd | None:
    """diffusers' callback, which gets the named tensors, as one of `ddim.sample`."""
    if callback is None:
        return None

    def on_step_end(step: int, timestep: Tensor, latents: Tensor, predicted: Tensor | None) -> Tensor:
        tensors = {"latents": latents}
        if predicted is not None:
            tensors["pred_original_sample"] = predicted
        asked = {name: tensor for name, tensor in tensors.items() if name in names}
        returned = callback(pipeline, step, timestep, asked)
        return latents if returned is None else returned.get("latents", latents)

    return on_step_end


def check_callback_tensors(names: Sequence[str]) -> None:
    """Raise InputError if `callback_on_step_end_tensor_inputs` has others than `CALLBACK_TENSORS`."""
    if unknown := ", ".join(set(names) - set(CALLBACK_TENSORS)):
        known = ", ".join(CALLBACK_TENSORS)
        raise InputError(f"callback_on_step_end_tensor_inputs {unknown}: choose from {known}")


def check_output_type(output_type: str) -> None:
    """Raise InputError for an unknown output type."""
    if output_type not in OUTPUT_TYPES:
        raise InputError(f"output_type {output_type!r}: choose from {', '.join(OUTPUT_TYPES)}")


def to_output(levels: Tensor, output_type: str) -> Sequence[Image.Image] | NDArray[np.float32] | Tensor:
    """Convert views (K, 3, S, S), uint8, to PIL images ("pil"), or in [0, 1] to an array (K, S, S, 3) ("np")
    or a tensor (K, 3, S, S) ("pt")."""
    if output_type == "pt":
        return levels.float() / 255
    images = levels.movedim(1, -1).contiguous().numpy()
    if output_type == "np":
        return np.divide(images, 255, dtype=np.float32)
    return [Image.fromarray(image) for image in images]
