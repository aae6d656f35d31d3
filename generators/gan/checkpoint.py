"""Conversion of published EG3D and PanoHead network pickles: tensors by name, and rendering settings."""

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
from generators.gan.pickles import DAMAGE, Module, as_module, read_network, shown

NETWORK = "G_ema"
GENERATOR = "TriPlaneGenerator"
MAX_MODULES = 10_000
# The activations that are implemented, by class of layer.
LAYERS = {"SynthesisLayer": ("lrelu",), "FullyConnectedLayer": ("lrelu", "linear")}
# Super-resolution modules: the input side, and whether larger renderings keep their side.
SUPERRESOLUTIONS = {
    "SuperresolutionHybrid8XDC": (128, False),
    "SuperresolutionHybrid8X": (128, False),
    "SuperresolutionHybrid4X": (128, True),
    "SuperresolutionHybrid2X": (64, False),
}
# Rendering options that do not change how a trained generator renders.
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
    # the following are given by the shapes of the tensors
    "triplane_size",
    "triplane_depth",
    "use_torgb_raw",
    "use_background",
}
# Options of which only this value is implemented; the published generators have no other.
ONLY = {"disparity_space_sampling": False, "clamp_mode": "softplus", "density_noise": 0}
# Our numeric settings, and their names among the rendering options.
NUMBERS = {
    "near": "ray_start",
    "far": "ray_end",
    "coarse": "depth_resolution",
    "fine": "depth_resolution_importance",
    "box": "box_warp",
}
# Options that are read one by one below.
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
    """The generator in a network pickle: the moving average, `G_ema`.

    Raises InputError if the file is damaged or malicious, or holds another network or one with unsupported
    settings or layers.
    """
    networks = read_network(path)
    network = as_module(networks.get(NETWORK))
    if network is None:
        raise InputError(f"{path}: it holds no network {NETWORK}, but {shown(list(networks))}")
    where = f"{path}: {NETWORK}"
    try:
        modules = {"": network, **dict(_modules(network))}
        tensors = _tensors(modules, path.stat().st_size)
    except (*DAMAGE, RuntimeError) as error:
        raise InputError(f"{where} is damaged: {shown(error)}") from error
    shapes = {name: tuple(x.shape) for name, x in tensors.items()}
    architecture = Architecture.read(shapes, where)
    if network.kind != GENERATOR:
        raise InputError(f"{where} is a {network.kind}, not a {GENERATOR}")
    _check_layers(modules, where)
    settings = settings_of(modules, kind_of(shapes), where)
    resolution = network.attributes.get("img_resolution", architecture.size)
    if resolution != architecture.size:
        side = architecture.size
        raise InputError(f"{where}: img_resolution is {shown(resolution)}, its layers output {side}x{side}")
    return build_generator(tensors, settings, where)


def settings_of(modules: Mapping[str, Module], kind: Kind, where: str) -> Settings:
    """The rendering settings of a pickled generator, given its modules by name ("" is the generator itself).
    Raises InputError naming settings that are unknown, missing, or out of range."""
    network = modules[""]
    options = network.attributes.get("rendering_kwargs")
    if not isinstance(options, dict):
        raise InputError(f"{where} has no rendering settings (rendering_kwargs)")
    _check_options(options, where)
    side, only_enlarge = _superresolution(modules, where)
    known = Settings.of(kind).to_json()
    values = {ours: options[theirs] for ours, theirs in NUMBERS.items()}
    values |= {
        "kind": kind,
        "rendering": network.attributes.get("neural_rendering_resolution", known["rendering"]),
        "decoder_rate": _rate(modules, "decoder.net.0", options.get("decoder_lr_mul", 1.0)),
        "label_scale": 0.0 if options.get("c_gen_conditioning_zero") else options.get("c_scale", 0),
        "white_background": bool(options.get("white_back", False)),
        "superresolution_side": side,
        "superresolution_noise": options.get("superresolution_noise_mode") == "const",
        "antialias": bool(options.get("sr_antialias", True)),
        "only_enlarge": only_enlarge,
        "clamps": dict(_clamps(modules)),
        "radius": options.get("avg_camera_radius", known["radius"]),
    }
    if kind == "panohead":
        values["crop"] = options.get("triplane_crop", known["crop"])
        values["decoder_activation"] = options.get("decoder_activation", known["decoder_activation"])
    elif options.get("avg_camera_pivot") is not None:
        values["pivot"] = options["avg_camera_pivot"]
    return Settings.from_json(known | values, where)


def _check_options(options: Mapping[str, Any], where: str) -> None:
    known = FOR_TRAINING | set(ONLY) | set(NUMBERS.values()) | OTHERS
    unknown = sorted(map(str, options.keys() - known))
    if unknown:
        raise InputError(f"{where}: unsupported rendering settings: {shown(', '.join(unknown))}")
    for name, value in ONLY.items():
        if options.get(name, value) != value:
            raise InputError(f"{where}: {name} is {shown(options[name])}; only {value!r} is supported")
    for name in NUMBERS.values():
        if type(options.get(name)) not in (int, float):
            raise InputError(f"{where}: {name} is {shown(options.get(name))}, not a number")
    mode = options.get("superresolution_noise_mode", "none")
    if mode not in ("none", "const"):
        raise InputError(
            f"{where}: superresolution_noise_mode is {shown(mode)}; only 'none' and 'const' are deterministic"
        )


def _superresolution(modules: Mapping[str, Module], where: str) -> tuple[int, bool]:
    kind = modules["superresolution"].kind if "superresolution" in modules else "nothing"
    if kind not in SUPERRESOLUTIONS:
        raise InputError(
            f"{where}: its super-resolution is {kind}; supported: {', '.join(SUPERRESOLUTIONS)} (images of "
            "512, 256 and 128 pixels)"
        )
    return SUPERRESOLUTIONS[kind]


def _rate(modules: Mapping[str, Module], name: str, otherwise: float) -> float:
    """The learning rate multiplier of a dense layer, which scales its weights: its `bias_gain`."""
    layer = modules.get(name)
    return otherwise if layer is None else layer.attributes.get("bias_gain", otherwise)


def _clamps(modules: Mapping[str, Module]) -> Iterator[tuple[str, float]]:
    """The clamps of activations by block, for the blocks that have one (those trained in float16)."""
    for name, module in modules.items():
        clamp = module.attributes.get("conv_clamp")
        if clamp is None:
            continue
        if name == "torgb":
            yield name, clamp
        elif name.endswith(".conv1"):
            yield name.removesuffix(".conv1"), clamp


def _modules(
    module: Module, name: str = "", budget: Iterator[int] | None = None
) -> Iterator[tuple[str, Module]]:
    """A module and all its submodules by full name. Raises UnpicklingError for more than `MAX_MODULES`, as in
    a file whose modules contain each other."""
    budget = budget or iter(range(MAX_MODULES))
    for child_name, child in module.children():
        if next(budget, None) is None:
            raise pickle.UnpicklingError(f"more than {MAX_MODULES} modules")
        full = f"{name}.{child_name}" if name else child_name
        yield full, child
        yield from _modules(child, full, budget)


def _tensors(modules: Mapping[str, Module], limit: int) -> dict[str, Tensor]:
    """The state dict of a pickled network, without unused buffers. Raises UnpicklingError if its tensors need
    more than `limit` bytes in total, as many may share one storage."""
    tensors: dict[str, Tensor] = {}
    total = 0
    for name, module in modules.items():
        for own, stored in module.own_tensors():
            full = f"{name}.{own}" if name else own
            total += len(stored.storage)
            if total > limit:
                raise pickle.UnpicklingError("its tensors are larger than the file")
            if full not in UNREAD:
                tensors[full] = stored.read()
    return tensors


def _check_layers(modules: Mapping[str, Module], where: str) -> None:
    """Raise InputError if layers have settings other than those of all published networks."""
    for name, module in modules.items():
        attributes = module.attributes
        odd = {"architecture": attributes.get("architecture", "skip") != "skip"}
        odd["activation"] = (
            module.kind in LAYERS and attributes.get("activation", "lrelu") not in LAYERS[module.kind]
        )
        if name.startswith("backbone.mapping.fc"):
            rate = attributes.get("bias_gain", MAPPING_RATE)
            odd["bias_gain"] = type(rate) is not float or not math.isclose(rate, MAPPING_RATE)
        for attribute, unknown in odd.items():
            if unknown:
                raise InputError(
                    f"{where}: {name} has {attribute} {shown(attributes[attribute])}, which is not supported"
                )
