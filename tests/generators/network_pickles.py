"""Network pickles in the format of StyleGAN2's descendants, made from toy generators.

Persistent modules reduce to `torch_utils.persistence._reconstruct_persistent_obj` with their source, others
(EG3D's decoder) to a class in `training`; numbers are numpy's, settings EasyDicts.
"""

import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from generators.gan.architecture import Kind
from tests.generators.toy_generators import toy_settings, toy_tensors

PERSISTENT = {"": "TriPlaneGenerator", "superresolution": "SuperresolutionHybrid8XDC"}


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the public repositories' module names while a pickle is written."""
    for name in (
        "torch_utils",
        "torch_utils.persistence",
        "dnnlib",
        "dnnlib.util",
        "training",
        "training.triplane",
    ):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for function, module in ((_reconstruct_persistent_obj, "torch_utils.persistence"),):
        function.__module__ = module
        setattr(sys.modules[module], function.__name__, function)
    for cls, module in ((EasyDict, "dnnlib.util"), (OSGDecoder, "training.triplane")):
        cls.__module__ = module
        setattr(sys.modules[module], cls.__name__, cls)


def _reconstruct_persistent_obj(_meta: dict[str, Any]) -> None:
    raise AssertionError("the source in a pickle must not be executed")


class EasyDict(dict):
    """In place of dnnlib's EasyDict."""


class OSGDecoder:
    """In place of EG3D's decoder, a module that is not persistent."""


class Persistent:
    """A persistent module, pickled with its source."""

    def __init__(self, kind: str, source: str, state: dict[str, Any]) -> None:
        self.kind, self.source, self.state = kind, source, state

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {"type": "class", "version": 6, "module_src": self.source, "class_name": self.kind}
        return _reconstruct_persistent_obj, ({**meta, "state": self.state},), None


def options_of(kind: Kind, **changes: Any) -> EasyDict:
    """A toy's rendering settings by their public names."""
    settings = toy_settings(kind)
    options = EasyDict(
        image_resolution=64,
        disparity_space_sampling=False,
        clamp_mode="softplus",
        superresolution_module="training.superresolution.SuperresolutionHybrid8XDC",
        c_gen_conditioning_zero=False,
        gpc_reg_prob=0.8,
        c_scale=1,
        superresolution_noise_mode="none",
        density_reg=0.25,
        density_reg_p_dist=0.004,
        reg_type="l1",
        decoder_lr_mul=1,
        sr_antialias=True,
        depth_resolution=settings.coarse,
        depth_resolution_importance=settings.fine,
        ray_start=2.25,
        ray_end=3.3,
        box_warp=1,
        avg_camera_radius=2.7,
        avg_camera_pivot=[0, 0, 0.2],
    )
    if kind == "panohead":
        options.update(decoder_activation="none", triplane_depth=3, triplane_size=16, use_torgb_raw=True)
        options.update(use_background=True, trans_reg=10)
    options.update(changes)
    return options


def module_tree(tensors: dict[str, torch.Tensor], path: str, source: str, attributes: dict[str, Any]) -> Any:
    """The pickled form of the module at `path` of a state dict."""
    start = f"{path}." if path else ""
    own = {name.removeprefix(start): x for name, x in tensors.items() if name.startswith(start)}
    names = list(dict.fromkeys(name.split(".")[0] for name in own if "." in name))
    leaves = {name: x for name, x in own.items() if "." not in name}
    buffers = {n: x for n, x in leaves.items() if n.startswith(("noise_const", "resample", "w_avg"))}
    parameters = {n: nn.Parameter(x) for n, x in leaves.items() if n not in buffers}
    children = OrderedDict(
        (name, module_tree(tensors, f"{start}{name}", source, attributes)) for name in names
    )
    state = {
        "training": False,
        "_parameters": OrderedDict(parameters),
        "_buffers": OrderedDict(buffers),
        "_non_persistent_buffers_set": set(),
        "_modules": children,
        **attributes.get(path, {}),
    }
    if "affine" in names and "noise_const" in leaves:
        state.update(activation="lrelu", act_gain=np.sqrt(2), conv_clamp=attributes.get(f"{path}:clamp"))
    if path == "decoder":
        decoder = OSGDecoder()
        decoder.__dict__.update(state)
        return decoder
    return Persistent(PERSISTENT.get(path, "Module"), source, state)


def write_network(
    path: Path,
    kind: Kind,
    monkeypatch: pytest.MonkeyPatch,
    source: str = "raise SystemExit('executed')",
    protocol: int = 4,
    attributes: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> dict[str, torch.Tensor]:
    """Write a toy's network pickle with module `attributes` by name, and return its tensors."""
    install(monkeypatch)
    tensors = {name: x.to(dtype) for name, x in toy_tensors(kind).items()}
    whole = {
        "rendering_kwargs": options_of(kind, **options),
        "neural_rendering_resolution": 16,
        "img_resolution": 64,
        "z_dim": np.int64(6),
        **(attributes or {}).get("", {}),
    }
    made = module_tree(tensors, "", source, {**(attributes or {}), "": whole})
    networks = {"G": None, "D": None, "G_ema": made, "augment_pipe": None}
    networks["training_set_kwargs"] = EasyDict(class_name="training.dataset.ImageFolderDataset")
    path.write_bytes(pickle.dumps(networks, protocol=protocol))
    return tensors
