"""diffusers' names for arguments of a pipeline call, and conversion of its outputs. K views, S image side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from numbers import Real
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
SIDES = ("height", "width")
# Arguments of diffusers' pipelines that this one does not have, and what to do instead.
UNSUPPORTED = {
    "prompt_embeds": "give the text as prompt",
    "negative_prompt": "the unconditional pass has the empty prompt, as F was trained",
    "negative_prompt_embeds": "the unconditional pass has the empty prompt, as F was trained",
    **dict.fromkeys(SIDES, "views have the size that the model was trained for"),
    "image": "the photo is the first argument, portrait, and images for F_cam are conditions",
    "ip_adapter_image": "portrait takes one or several photos of the person",
    "ip_adapter_image_embeds": "portrait takes one or several photos of the person",
    "latents": "starting noise is determined by seed and, if given, proxies",
    "num_images_per_prompt": "call again with another seed",
    "timesteps": "give steps, and solver and spacing",
    "sigmas": "give steps, and solver and spacing",
    "cross_attention_kwargs": "set_adapters gives LoRAs their weights",
    "controlnet_conditioning_scale": "F_cam has the weight that it was trained with",
    "guidance_rescale": "give guidance, and the timesteps guidance_low and guidance_high",
    "clip_skip": "prompts are embedded by all layers of CLIP, as F was trained",
    "callback": "give callback_on_step_end",
    "callback_steps": "callback_on_step_end is called after each step",
}
# Values besides None with which these arguments change nothing.
NEUTRAL = {
    "negative_prompt": "",
    "num_images_per_prompt": 1,
    "controlnet_conditioning_scale": 1,
    "guidance_rescale": 0,
}


def sampling_settings(options: Mapping[str, Any], side: int | None = None) -> Sampling:
    """The settings of sampling from a call's keyword arguments, with our names or diffusers'; others are as
    in the `preset` that is named, or the paper's. `side` is that of the model's images, in pixels.

    As in diffusers, a `guidance_scale` of 1 or less is none, and None leaves an argument of theirs out.
    Raises InputError for arguments that are unknown, or given twice with different values.
    """
    options = dict(options)
    name = options.pop("preset", None)
    base = {} if name is None else preset(name)
    settings: dict[str, Any] = {}
    for name, value in options.items():
        known = SAME_AS.get(name, name)
        if known not in SETTINGS:
            if _is_neutral(name, value, side):
                continue
            reason = UNSUPPORTED.get(name, f"choose from {', '.join(sorted(SETTINGS | SAME_AS.keys()))}")
            raise InputError(f"{name}: not an argument of this pipeline: {reason}")
        value = _as_ours(name, value)
        if known in settings and settings[known] != value:
            raise InputError(f"{known} is given twice, as {settings[known]} and as {value}: give it once")
        settings[known] = value
    return Sampling(**base | settings)


def _is_neutral(name: str, value: Any, side: int | None) -> bool:
    """Whether an unsupported argument has a value that changes nothing."""
    if name not in UNSUPPORTED:
        return False
    if value is None:
        return True
    neutral = side if name in SIDES else NEUTRAL.get(name)
    return isinstance(value, int | float | str) and value == neutral


def _as_ours(name: str, value: Any) -> Any:
    """The value of a setting that was given by diffusers' name, converted to ours."""
    if name == "guidance_scale" and isinstance(value, Real):
        return max(value, 1)
    return "" if name == "prompt" and value is None else value


def draw_seed(generator: torch.Generator) -> int:
    """Draw a seed from a generator, which advances its state. Raises InputError if it is not a generator."""
    if not isinstance(generator, torch.Generator):
        raise InputError(f"generator: give a torch.Generator, not a {type(generator).__name__}")
    return int(torch.randint(MAX_SEED, (), generator=generator, device=generator.device))


def step_end(pipeline: Any, callback: StepCallback | None, names: Sequence[str] | None) -> OnStepEnd | None:
    """Adapt diffusers' `callback_on_step_end` to `on_step_end` of `ddim.sample`; None without a callback.

    The callback gets the tensors `names`; one of diffusers' callback objects gets those that it names itself.
    As in diffusers, a callback that sets the pipeline's `_interrupt` ends sampling with its step.

    Raises InputError if it is not callable, or if tensors other than `CALLBACK_TENSORS` are named.
    """
    names = getattr(callback, "tensor_inputs", names)
    names = [names] if isinstance(names, str) else list(names or ())
    if unknown := ", ".join(name for name in names if name not in CALLBACK_TENSORS):
        known = ", ".join(CALLBACK_TENSORS)
        raise InputError(f"callback_on_step_end_tensor_inputs {unknown}: choose from {known}")
    if callback is None:
        return None
    if not callable(callback):
        raise InputError(f"callback_on_step_end: give a function, not a {type(callback).__name__}")

    pipeline._interrupt = False

    def on_step_end(
        step: int, timestep: Tensor, latents: Tensor, predicted: Tensor | None
    ) -> tuple[Tensor, bool]:
        tensors = {"latents": latents}
        if predicted is not None:
            tensors["pred_original_sample"] = predicted
        asked = {name: tensor for name, tensor in tensors.items() if name in names}
        returned = callback(pipeline, step, timestep, asked)
        if returned is not None and not isinstance(returned, Mapping):
            kind = type(returned).__name__
            raise InputError(f"callback_on_step_end: return the mapping of tensors, not a {kind}")
        return (returned or {}).get("latents", latents), pipeline._interrupt

    return on_step_end


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
