"""The kinds of untrusted files: a small valid sample of each, and its loader."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.data_files import (
    load_calibration_files,
    load_cameras,
    load_configs,
    load_labels,
    load_latents,
    load_log,
    load_photos,
    load_predictions,
    load_shards,
    load_video,
    make_bare_shards,
    make_calibration,
    make_cameras,
    make_configs,
    make_labels,
    make_latents,
    make_log,
    make_photos,
    make_predictions,
    make_shards,
    make_video,
)
from tests.fuzz.mutations import (
    Mutation,
    mutate_bytes,
    mutate_checkpoint,
    mutate_json,
    mutate_npy,
    mutate_photo,
    mutate_pickle,
    mutate_safetensors,
    mutate_tar,
    mutate_yaml,
    mutate_zip,
)
from tests.fuzz.weight_files import (
    load_archive,
    load_checkpoint,
    load_gan_folder,
    load_gan_pickle,
    load_model,
    load_released,
    load_tensors,
    make_archive,
    make_checkpoint,
    make_gan_folder,
    make_gan_pickle,
    make_model,
    make_released,
    make_tensors,
)


@dataclass(frozen=True)
class Kind:
    """A kind of files.

    Args:
        name: name of the kind
        make: writes a valid sample into an empty folder
        load: reads the sample as the project does, and returns a fingerprint of the loaded values
        mutations: mutations by file name pattern
        checked: whether the content has a checksum, so that every change of it has to be refused
    """

    name: str
    make: Callable[[Path], object]
    load: Callable[[Path], str]
    mutations: Mapping[str, Mutation]
    checked: bool = False


MEMBERS = {".json": mutate_json, ".npy": mutate_npy, ".jpg": mutate_photo}

KINDS: tuple[Kind, ...] = (
    Kind("predictions manifest", make_predictions, load_predictions, {"manifest.json": mutate_json}),
    Kind("predicted images", make_predictions, load_predictions, {"*/*.png": mutate_photo}),
    Kind("built manifest", make_shards, load_shards, {"shards/manifest.json": mutate_json}),
    Kind("shards", make_shards, load_shards, {"shards/test-*.tar": mutate_tar(MEMBERS)}),
    Kind(
        "shards without manifest", make_bare_shards, load_shards, {"shards/test-*.tar": mutate_tar(MEMBERS)}
    ),
    Kind("model JSON", make_model, load_model, {"model/**/*.json": mutate_json}),
    Kind("model weights", make_model, load_model, {"model/**/*.safetensors": mutate_safetensors}),
    Kind("checkpoint", make_checkpoint, load_checkpoint, {"last.ckpt": mutate_checkpoint}),
    Kind(
        "released checkpoint",
        make_released,
        load_released,
        {"*.th": mutate_checkpoint, "*.pth": mutate_pickle},
    ),
    Kind("GAN pickle", make_gan_pickle, load_gan_pickle, {"network.pkl": mutate_pickle}),
    Kind(
        "GAN folder",
        make_gan_folder,
        load_gan_folder,
        {"gan/*.json": mutate_json, "gan/*.safetensors": mutate_safetensors},
    ),
    Kind("cameras", make_cameras, load_cameras, {"*.json": mutate_json, "*.npy": mutate_npy}),
    Kind("photos", make_photos, load_photos, {"*": mutate_photo}),
    Kind("video", make_video, load_video, {"video.mp4": mutate_bytes}),
    Kind("YAML", make_configs, load_configs, {"*.yaml": mutate_yaml}),
    Kind("latents", make_latents, load_latents, {"latents.npz": mutate_zip(mutate_npy)}),
    Kind(
        "weights",
        make_tensors,
        load_tensors,
        {"*.safetensors": mutate_safetensors, "*.bin": mutate_checkpoint},
    ),
    Kind("baseline checkpoint", make_archive, load_archive, {"net.ckpt": mutate_checkpoint}),
    Kind(
        "calibration",
        make_calibration,
        load_calibration_files,
        {"*.json": mutate_json, "colour/*.npy": mutate_npy},
    ),
    Kind("labels", make_labels, load_labels, {"dataset.json": mutate_json}),
    Kind("log", make_log, load_log, {"metrics.csv": mutate_bytes}),
)
