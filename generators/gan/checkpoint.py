"""Published EG3D and PanoHead networks → generators: the tensors by name, and how they are rendered."""

import math
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from core.errors import InputError
from generators.gan.architecture import UNREAD, Architecture, Kind, Settings, kind_of
from generators.gan.folder import build_generator
from generators.gan.generator import Generator
from generators.gan.networks import MAPPING_RATE
from generators.gan.pickles import DAMAGE, Module, as_module, read_network

NETWORK = "G_ema"
GENERATOR = "TriPlaneGenerator"
MAX_MODULES = 10_000
LAYERS = {"SynthesisLayer": ("lrelu",), "FullyConnectedLayer": ("lrelu", "linear")}
# Of each super-resolution module: the rendering's side, and whether larger renderings are left as they are.
SUPERRESOLUTIONS = {
    "SuperresolutionHybrid8XDC": (128, False),
    "SuperresolutionHybrid8X": (128, False),
    "SuperresolutionHybrid4X": (128, True),
    "SuperresolutionHybrid2X": (64, False),
}
# Rendering options that say nothing about how a trained generator renders.
FOR_TRAINING = {
    "image_resolution",
    "gpc_reg_prob",
    "density_reg",
    "density_reg_p_dist",
    "density_reg_every",
    "density_noise_fade_kimg",
    "reg_type",
    "trans_reg",
    "bcg_reg_prob",
    "avg_camera_radius",
    "avg_camera_pivot",
    "superresolution_module",
    "decoder_lr_mul",
    # what follows shows in the tensors
    "triplane_size",
    "triplane_depth",
    "use_torgb_raw",
    "use_background",
}
# Options with the one value that is known; the published generators have no other.
ONLY = {"disparity_space_sampling": False, "clamp_mode": "softplus", "density_noise": 0}
NUMBERS = {
    "near": "ray_start",
    "far": "ray_end",
    "coarse": "depth_resolution",
    "fine": "depth_resolution_importance",
    "box": "box_warp",
}
OTHERS = {
    "c_scale",
    "c_gen_conditioning_zero",
    "superresolution_noise_mode",
    "sr_antialias",
    "white_back",
    "decoder_activation",
    "triplane_crop",
}


def generator_of(path: Path) -> Generator:
    """The generator of a network pickle: its moving average, `G_ema`. Raises InputError where the file is
    damaged, hostile, another network, or renders in a way that is not known."""
    networks = read_network(path)
    network = as_module(networks.get(NETWORK))
    if network is None:
        raise InputError(f"{path}: there is no network {NETWORK} in it, but {', '.join(map(str, networks))}")
    where = f"{path}: {NETWORK}"
    try:
        modules = {"": network, **dict(_modules(network))}
        tensors = dict(_tensors(modules))
    except (*DAMAGE, RuntimeError) as error:
        raise InputError(f"{where} is damaged: {str(error).splitlines()[0]}") from error
    shapes = {name: tuple(x.shape) for name, x in tensors.items()}
    architecture = Architecture.read(shapes, where)
    if network.kind != GENERATOR:
        raise InputError(f"{where} is a {network.kind}, not a {GENERATOR}")
    _check_layers(modules, where)
    settings = settings_of(modules, kind_of(shapes), where)
    resolution = network.attributes.get("img_resolution", architecture.size)
    if resolution != architecture.size:
        raise InputError(f"{where} says it makes {resolution}x{resolution}, its layers {architecture.size}")
    return build_generator(tensors, settings, where)


def settings_of(modules: Mapping[str, Module], kind: Kind, where: str) -> Settings:
    """How a pickled generator renders, its modules by name ("" is the whole). Raises InputError naming what
    is not known, or is missing."""
    network = modules[""]
    options = network.attributes.get("rendering_kwargs")
    if not isinstance(options, dict):
        raise InputError(f"{where} has no rendering settings (rendering_kwargs)")
    _check_options(options, where)
    side, only_enlarge = _superresolution(modules, where)
    known = Settings.of(kind)
    activation: Any = (
        "sigmoid" if kind == "eg3d" else options.get("decoder_activation", known.decoder_activation)
    )
    pivot = options.get("avg_camera_pivot") if kind == "eg3d" else None
    return Settings(
        kind,
        **{ours: options[theirs] for ours, theirs in NUMBERS.items()},
        crop=options.get("triplane_crop", known.crop) if kind == "panohead" else 0.0,
        rendering=int(network.attributes.get("neural_rendering_resolution", known.rendering)),
        decoder_activation=activation,
        decoder_rate=_rate(modules, "decoder.net.0", options.get("decoder_lr_mul", 1.0)),
        label_scale=0.0 if options.get("c_gen_conditioning_zero") else float(options.get("c_scale", 0)),
        white_background=bool(options.get("white_back", False)),
        superresolution_side=side,
        superresolution_noise=options.get("superresolution_noise_mode") == "const",
        antialias=bool(options.get("sr_antialias", True)),
        only_enlarge=only_enlarge,
        clamps=dict(_clamps(modules)),
        radius=float(options.get("avg_camera_radius", known.radius)),
        pivot=known.pivot if pivot is None else (float(pivot[0]), float(pivot[1]), float(pivot[2])),
    )


def _check_options(options: Mapping[str, Any], where: str) -> None:
    known = FOR_TRAINING | set(ONLY) | set(NUMBERS.values()) | OTHERS
    strange = sorted(map(str, options.keys() - known))
    if strange:
        raise InputError(f"{where}: rendering settings that are not known here: {', '.join(strange)}")
    for name, value in ONLY.items():
        if options.get(name, value) != value:
            raise InputError(f"{where}: {name} is {options[name]!r}; only {value!r} is known here")
    for name in NUMBERS.values():
        if not isinstance(options.get(name), int | float):
            raise InputError(f"{where}: {name} is {options.get(name)!r}, not a number")
    if options.get("superresolution_noise_mode", "none") not in ("none", "const"):
        raise InputError(
            f"{where}: superresolution_noise_mode is {options['superresolution_noise_mode']!r}; only 'none' "
            "and 'const' make the same image twice"
        )


def _superresolution(modules: Mapping[str, Module], where: str) -> tuple[int, bool]:
    kind = modules["superresolution"].kind if "superresolution" in modules else "nothing"
    if kind not in SUPERRESOLUTIONS:
        raise InputError(
            f"{where}: its super-resolution is {kind}; known are {', '.join(SUPERRESOLUTIONS)} (images of "
            "512, 256 and 128)"
        )
    return SUPERRESOLUTIONS[kind]


def _rate(modules: Mapping[str, Module], name: str, otherwise: float) -> float:
    """The learning rate multiplier of a dense layer, which scales its weights: its `bias_gain`."""
    layer = modules.get(name)
    return float(otherwise if layer is None else layer.attributes.get("bias_gain", otherwise))


def _clamps(modules: Mapping[str, Module]) -> Iterator[tuple[str, float]]:
    """Blocks whose layers hold activations within limits (those trained in float16)."""
    for name, module in modules.items():
        clamp = module.attributes.get("conv_clamp")
        if clamp is None:
            continue
        if name == "torgb":
            yield name, float(clamp)
        elif name.endswith(".conv1"):
            yield name.removesuffix(".conv1"), float(clamp)


def _modules(
    module: Module, name: str = "", budget: Iterator[int] | None = None
) -> Iterator[tuple[str, Module]]:
    """All modules below one, by their full names; a file with modules within themselves has too many."""
    budget = budget or iter(range(MAX_MODULES))
    for child_name, child in module.children():
        if next(budget, None) is None:
            raise pickle.UnpicklingError(f"more than {MAX_MODULES} modules")
        full = f"{name}.{child_name}" if name else child_name
        yield full, child
        yield from _modules(child, full, budget)


def _tensors(modules: Mapping[str, Module]) -> Iterator[tuple[str, Tensor]]:
    """The state dict of a pickled network, without what no module reads."""
    for name, module in modules.items():
        for own, stored in module.own_tensors():
            full = f"{name}.{own}" if name else own
            if full not in UNREAD:
                yield full, stored.read()


def _check_layers(modules: Mapping[str, Module], where: str) -> None:
    """Raise InputError on layers that compute otherwise than those of all published networks."""
    for name, module in modules.items():
        attributes = module.attributes
        odd = {"architecture": attributes.get("architecture", "skip") != "skip"}
        odd["activation"] = (
            module.kind in LAYERS and attributes.get("activation", "lrelu") not in LAYERS[module.kind]
        )
        if name.startswith("backbone.mapping.fc"):
            odd["bias_gain"] = not math.isclose(attributes.get("bias_gain", MAPPING_RATE), MAPPING_RATE)
        for attribute, strange in odd.items():
            if strange:
                raise InputError(f"{where}: {name} has {attribute} {attributes[attribute]}, not known here")
