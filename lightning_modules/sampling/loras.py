"""LoRAs made for Stable Diffusion 1.5 on F (3.1), through diffusers' and peft's loaders.

F's own weights are not changed: a layer with LoRAs adds weight · α / r · B·A to its weight W, and is F's own
again when they are unloaded.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Self

from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from torch import Tensor, nn

from core.errors import InputError
from core.fingerprints import of_file
from core.lists import shortened
from core.model_folders import empty_model
from core.tensors import check_finite, read_json, read_tensors
from lightning_modules.networks.hub import NO_OPTIONS, REPOSITORY, HubOptions, fetch

SUFFIX, DEFAULT_FILE = ".safetensors", "pytorch_lora_weights.safetensors"
UNET = "unet."
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
# Width of the prompt that an attention reads, by model family.
FAMILIES = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
# Raised by diffusers' and peft's loaders for files of other layouts.
MALFORMED = (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, OSError)
HELP = "LoRAs for Stable Diffusion 1.5 on F, each a safetensors file, or FILE:WEIGHT"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lora:
    """A LoRA's file, and the weight that it is applied with."""

    file: Path
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """A LoRA from "FILE[:WEIGHT]". Raises InputError if there is no such file or it is no
        safetensors."""
        name, colon, number = text.rpartition(":")
        weight = _number(number) if colon else None
        lora = cls(Path(text)) if weight is None else cls(Path(name), weight)
        if not math.isfinite(lora.weight):
            raise InputError(f"--lora {text}: give a finite weight")
        check_file(lora.file)
        return lora

    @property
    def record(self) -> dict[str, Any]:
        """The file, its weight, and the fingerprint of its content, as JSON values."""
        return {"file": str(self.file), "weight": self.weight, "fingerprint": of_file(self.file)}


class LoraTensors(NamedTuple):
    """A LoRA of F in diffusers' format: tensors by name, and what peft needs to know about its scale."""

    tensors: dict[str, Tensor]
    alphas: dict[str, float] | None
    metadata: dict[str, Any] | None


def check_file(file: Path) -> None:
    """Raise InputError unless a LoRA's file is there and is safetensors, and peft is installed."""
    if not file.is_file():
        raise InputError(f"--lora {file}: there is no such file")
    if file.suffix != SUFFIX:
        raise InputError(f"--lora {file}: only {SUFFIX} files are read, as others may run code")
    if find_spec("peft") is None:
        raise InputError(f"--lora {file}: LoRAs need one more package: pip install -e '.[lora]'")


def find_file(
    path: str | Path,
    weight_name: str | None = None,
    subfolder: str | None = None,
    options: HubOptions = NO_OPTIONS,
) -> Path:
    """A LoRA's file: a file, or one in a folder or in a repository of the Hugging Face hub, by default
    diffusers' own name or the only safetensors. Raises InputError if there is none."""
    if not isinstance(path, str | Path):
        raise InputError(
            f"a LoRA is a {SUFFIX} file, not a {type(path).__name__}: safetensors.torch.save_file writes one"
        )
    place, within = Path(path), f"{subfolder}/" if subfolder else ""
    if not place.exists() and REPOSITORY.fullmatch(str(path)):
        place = fetch(str(path), [f"{within}{weight_name or f'*{SUFFIX}'}"], options)
    place = place / within if place.is_dir() else place
    if place.is_dir():
        files = sorted(place.glob(f"*{SUFFIX}"))
        name = weight_name or (files[0].name if len(files) == 1 else DEFAULT_FILE)
        place = place / name
    check_file(place)
    return place


def lora_files(folder: str | None) -> list[Path]:
    """The safetensors in a folder of LoRAs; none without a folder. Raises InputError if there are none in
    one."""
    files = [] if folder is None else sorted(Path(folder).resolve().glob(f"*{SUFFIX}"))
    if folder is not None and not files:
        raise InputError(f"--loras {folder}: there are no {SUFFIX} files")
    for file in files:
        check_file(file)
    return files


def check_loras(loras: Sequence[Lora], model: Path, solver: str | None = None) -> None:
    """Raise InputError if LoRAs do not fit the F of a model folder. Loads no weights but theirs. Warns of the
    solver of LCM-LoRAs if there is none."""
    if solver == "lcm" and not loras:
        log.warning("the solver lcm is meant for an LCM-LoRA: give one with --lora FILE")
    if loras:
        config = model / "unet" / "config.json"
        unet = empty_model(UNet2DConditionModel, read_json(config), config.parent)
        for lora in loras:
            read_lora(lora.file, unet)


def read_lora(file: Path, unet: UNet2DConditionModel) -> LoraTensors:
    """A LoRA's tensors, in F's dtype. A part of it for the text encoder is left out, with a warning.

    Raises InputError if the file is damaged, holds other adapters than LoRAs, or was made for another model.
    """
    stored = read_tensors(file)
    check_finite(stored, str(file))
    if any("dora_scale" in name or "magnitude_vector" in name for name in stored):
        raise InputError(f"{file}: a DoRA, whose magnitudes diffusers would leave out; LoRAs are read")
    try:
        found, alphas, metadata = StableDiffusionLoraLoaderMixin.lora_state_dict(
            str(file.parent),
            weight_name=file.name,
            use_safetensors=True,
            local_files_only=True,
            return_lora_metadata=True,
        )
        own = {name.removeprefix(UNET): x for name, x in found.items() if name.startswith(UNET)}
        if own and not any(name.endswith(DOWN) for name in own):
            own = convert_unet_state_dict_to_peft(own)
    except MALFORMED as error:
        raise InputError(
            f"{file}: no LoRA that diffusers reads: {' '.join(str(error).split())[:200]}"
        ) from error
    _check_fit(file, own, unet)
    if len(own) < len(found):
        log.warning("%s: only its part for the UNet is used; F's text encoder does not take LoRAs", file)
    dtype = unet.dtype
    return LoraTensors({f"{UNET}{name}": x.to(dtype) for name, x in own.items()}, alphas, metadata)


def _check_fit(file: Path, tensors: Mapping[str, Tensor], unet: UNet2DConditionModel) -> None:
    """Raise InputError unless the tensors are pairs A, B of layers of F, with fitting shapes."""
    layers = {
        name.removesuffix(".base_layer"): layer  # under which peft has the layers that have LoRAs already
        for name, layer in unet.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }
    names = {name.removesuffix(DOWN).removesuffix(UP) for name in tensors}
    if not names:
        raise InputError(f"{file}: it holds no LoRA of a UNet")
    wrong = [name for name in sorted(names) if not _fits(tensors, name, layers.get(name))]
    if not wrong:
        return
    widths = {x.shape[1] for name, x in tensors.items() if "attn2.to_k" in name and name.endswith(DOWN)}
    family = next((FAMILIES[width] for width in widths if width in FAMILIES), "another model")
    width = unet.config.cross_attention_dim
    channels = ", ".join(map(str, sorted(widths))) or "unknown"
    raise InputError(
        f"{file}: a LoRA for {family} (prompts of {channels} channels) does not fit this F (of {width}):"
        f" it lacks {shortened(wrong, 2)}, or has them in other shapes"
    )


def _fits(tensors: Mapping[str, Tensor], name: str, layer: nn.Module | None) -> bool:
    down, up = tensors.get(name + DOWN), tensors.get(name + UP)
    if down is None or up is None or layer is None:
        return False
    weight: Tensor = layer.weight
    kernel = tuple(weight.shape[2:])
    inner = down.shape[:1]
    return down.shape == (*inner, weight.shape[1], *kernel) and up.shape == (
        weight.shape[0], *inner, *(1 for _ in kernel))  # fmt: skip


class LoraMixin:
    """LoRAs for a `DiffusionPipeline` with F as `unet`."""

    unet: UNet2DConditionModel
    _by_layers: bool
    _loras: dict[str, float]

    def load_lora_weights(
        self,
        path: str | Path,
        weight_name: str | None = None,
        adapter_name: str | None = None,
        weight: float = 1.0,
        subfolder: str | None = None,
        **options: Any,
    ) -> None:
        """Add a LoRA to F, beside those that are loaded.

        Args:
            path: a safetensors file, or a folder or repository of the Hugging Face hub with one.
            weight_name: the file's name in a folder or repository.
            adapter_name: a name for it; by default a number.
            weight: weight that it is applied with; 1 as trained, 0 for none.
            subfolder: the file's folder in a folder or repository.
            options: options of the hub, as of `from_pretrained`.

        Raises InputError if there is no such file, or it does not fit F.
        """
        hub = HubOptions.take(options)
        if options:
            raise InputError(
                f"{', '.join(options)}: not an argument of this load_lora_weights: choose from weight_name,"
                " adapter_name, weight, subfolder and the hub's"
            )
        file = find_file(path, weight_name, subfolder, hub)
        name = adapter_name or f"lora_{len(self._loras)}"
        if name in self._loras:
            raise InputError(f"adapter_name {name!r}: there is a LoRA of this name; choose another")
        if self._by_layers:
            raise InputError(f"{file}: load LoRAs before enable_sequential_cpu_offload()")
        lora = read_lora(file, self.unet)
        self.unet.load_lora_adapter(
            lora.tensors,
            prefix=UNET.rstrip("."),
            network_alphas=lora.alphas,
            metadata=lora.metadata,
            adapter_name=name,
            low_cpu_mem_usage=True,
        )
        self._weigh(self._loras | {name: weight})
        self.unet.requires_grad_(False).eval()

    def set_adapters(
        self, adapter_names: str | Sequence[str], adapter_weights: float | Sequence[float] | None = None
    ) -> None:
        """Apply loaded LoRAs by these names with these weights, 1 by default, and no others.

        Raises InputError for names of LoRAs that are not loaded, and unless there is a weight for each.
        """
        names = self._known(adapter_names)
        given = 1.0 if adapter_weights is None else adapter_weights
        weights = [given] * len(names) if isinstance(given, int | float) else list(given)
        if len(weights) != len(names) or not all(isinstance(x, int | float) for x in weights):
            raise InputError(f"adapter_weights {given}: give a number for each of {', '.join(names)}")
        self._weigh(dict.fromkeys(self._loras, 0.0) | dict(zip(names, map(float, weights), strict=True)))

    def get_active_adapters(self) -> list[str]:
        """The names of LoRAs that are applied."""
        return [name for name, weight in self._loras.items() if weight]

    def get_list_adapters(self) -> dict[str, list[str]]:
        """The names of loaded LoRAs, by component, which is F alone."""
        return {UNET.rstrip("."): list(self._loras)} if self._loras else {}

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        """Remove LoRAs by name. Raises InputError for names of LoRAs that are not loaded."""
        names = self._known(adapter_names)
        left = {name: weight for name, weight in self._loras.items() if name not in names}
        if not left:
            self.unload_lora_weights()
            return
        self.unet.delete_adapters(names)
        self._weigh(left)

    def disable_lora(self) -> None:
        """Apply no LoRAs, until `enable_lora`."""
        if self._loras:
            self.unet.disable_lora()
            self._renew_denoiser()

    def enable_lora(self) -> None:
        """Apply LoRAs again."""
        if self._loras:
            self.unet.enable_lora()
            self._renew_denoiser()

    def _known(self, given: str | Sequence[str]) -> list[str]:
        names = [given] if isinstance(given, str) else list(given)
        if unknown := [name for name in names if name not in self._loras]:
            loaded = ", ".join(self._loras) or "none"
            raise InputError(f"{', '.join(map(str, unknown))}: no such LoRA; loaded: {loaded}")
        return names

    def _weigh(self, weights: dict[str, float]) -> None:
        """Apply the loaded LoRAs with these weights."""
        self._loras = weights
        self.unet.set_adapters(list(weights), list(weights.values()))
        self._renew_denoiser()

    def unload_lora_weights(self) -> None:
        """Remove all LoRAs from F, whose weights are again its own, bit for bit."""
        if self._loras:
            self._loras.clear()
            self.unet.unload_lora()
            self._renew_denoiser()

    def _renew_denoiser(self) -> None:
        """Rebuild the denoiser and its replicas."""
        raise NotImplementedError


def load_loras(pipeline: LoraMixin, loras: Sequence[Lora]) -> None:
    """Add LoRAs to F. Raises InputError as `load_lora_weights`."""
    for lora in loras:
        pipeline.load_lora_weights(lora.file, weight=lora.weight)


@contextmanager
def with_loras(pipeline: LoraMixin, loras: Sequence[Lora]) -> Iterator[None]:
    """Have LoRAs loaded during the block. Raises InputError as `load_lora_weights`."""
    try:
        load_loras(pipeline, loras)
        yield
    finally:
        pipeline.unload_lora_weights()


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
