"""The kinds of files that come from outside: a small whole sample of each, and the door that reads it."""

import hashlib
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from baselines.archives import read_archive, state_dict
from callbacks.dashboard import read_log
from core.errors import InputError
from core.files import write_json
from core.tensors import read_tensors
from core.yaml_files import read_yaml
from generators.gan.checkpoint import generator_of
from generators.gan.folder import load_generator, save_generator
from lightning_modules.evaluate import parse_request
from lightning_modules.evaluation.scoring import native_sizes, read_images
from lightning_modules.evaluation.subjects import SubjectSettings, find_subjects
from lightning_modules.evaluation.unpack import frames_of
from lightning_modules.networks.cards import StageCard
from lightning_modules.networks.portrait import save_portrait_model
from lightning_modules.networks.reference import AppearanceReference
from lightning_modules.parts import IN_CHECKPOINT, load_part
from lightning_modules.released.checkpoint import read_checkpoint as read_released
from lightning_modules.released.checkpoint import released_layout, shapes_of
from lightning_modules.sampling.model_summary import ModelSummary
from lightning_modules.sampling.pipeline import DiffPortrait3DPipeline
from portraits.alignment.photos import open_photo
from portraits.camera_files import read_cameras, write_cameras
from portraits.cameras import label_from_angles
from portraits.predictions import Predictions, View
from portraits.video import write_video
from shards.builder import build
from shards.latents import Latents, decode_latents, encode_latents
from shards.schema import SampleError
from shards.sources.label_files import find_labelled_images
from shards.sources.nersemble.calibration import CalibrationError, load_calibration
from shards.sources.nersemble.colour import ColourError, load_correction
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
from tests.generators.network_pickles import write_network
from tests.generators.toy_generators import toy_generator
from tests.networks.toy import toy_model, toy_unet
from tests.shards.fake_source import FakeSource

SIDE = 16


@dataclass(frozen=True)
class Kind:
    """A kind of files.

    Args:
        name: of the kind
        make: writes a whole sample into an empty folder
        load: reads the sample through the project's own door, and returns a fingerprint of what it has read
        mutations: by file name pattern, the mutation of the files that are mutated
        checked: the content has a checksum, so that no change of it may pass
    """

    name: str
    make: Callable[[Path], object]
    load: Callable[[Path], str]
    mutations: Mapping[str, Mutation]
    checked: bool = False


def fingerprint(*values: Any) -> str:
    """A fingerprint of values, arrays, tensors, images, dataclasses, and lists and mappings of them."""
    digest = hashlib.sha256()
    for part in _parts(values):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterable[bytes]:
    if isinstance(value, Tensor):
        value = value.detach().float().numpy()
    if isinstance(value, Image.Image):
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        yield f"{value.shape} {value.dtype}".encode() + np.ascontiguousarray(value).tobytes()
    elif is_dataclass(value):
        yield from _parts({field.name: getattr(value, field.name) for field in fields(value)})
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield str(key).encode("utf-8", "surrogatepass")
            yield from _parts(value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _parts(item)
    else:
        yield repr(value).encode("utf-8", "surrogatepass")


def photo(seed: int, side: int = SIDE) -> Image.Image:
    """A photo of random squares."""
    levels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(levels.repeat(side // 4, 0).repeat(side // 4, 1))


def make_predictions(folder: Path) -> None:
    """Two subjects of two views, with everything that a view may have."""
    views = []
    for subject in ("ann", "bob"):
        (folder / subject).mkdir()
        for number in range(2):
            files = {kind: f"{subject}/{number}.{kind}.png" for kind in ("truth", "condition", "mask")}
            files["reference"] = f"{subject}/reference.png"
            for seed, name in enumerate((f"{subject}/{number}.png", *files.values())):
                photo(seed).save(folder / name)
            camera = label_from_angles(0.1, 0.2).tolist()
            views.append(View(subject, str(number), camera=camera, reference_camera=camera, **files))
    Predictions(folder, "peer", "novel_view", tuple(views)).save()


def load_predictions(folder: Path) -> str:
    """As `evaluate --predictions` reads them."""
    predictions = Predictions.load(folder)
    native_sizes(predictions)
    names = [name for view in predictions.views for name in view.files.values()]
    images = read_images([folder / name for name in names], SIDE)
    return fingerprint(predictions.system, predictions.protocol, predictions.views, images)


def make_shards(folder: Path) -> None:
    """A built folder of one person in each split."""
    build(FakeSource(1, 1, views=3, size=SIDE), folder / "shards", 0)


def make_bare_shards(folder: Path) -> None:
    """The same without a manifest."""
    make_shards(folder)
    (folder / "shards/manifest.json").unlink()


def load_shards(folder: Path) -> str:
    """As evaluation reads them."""
    subjects = find_subjects(SubjectSettings(str(folder / "shards"), cache_dir=str(folder / "cache")))
    return fingerprint([asdict(subject) for subject in subjects.read(subjects.keys)])


def make_model(folder: Path) -> None:
    """A toy model with all parts but S."""
    save_portrait_model(toy_model(), str(folder / "model"))


def load_model(folder: Path) -> str:
    """As `synthesize` and `evaluate` load it."""
    path = str(folder / "model")
    ModelSummary.read(path)
    model = DiffPortrait3DPipeline.from_pretrained(path).model
    networks = (model.backbone.unet, model.backbone.vae, model.reference, model.control, model.cross_view)
    return fingerprint([dict(net.config) | net.state_dict() for net in networks if net is not None])


def make_checkpoint(folder: Path) -> None:
    """A checkpoint of stage 1, with the members that Lightning and the callbacks add."""
    torch.manual_seed(0)
    reference = AppearanceReference.from_unet(toy_unet(block_out_channels=(8, 8, 8)))
    weights = {f"reference.{name}": x for name, x in reference.state_dict().items()}
    card = StageCard("appearance", "reference", "0" * 16, {"reference_timestep": "zero"})
    checkpoint = {
        "epoch": 0,
        "global_step": 3,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": weights,
        "callbacks": {"WeightAverage": {"average": weights, "updates": 3}, "Evaluation": {"validations": 1}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": []}],
        IN_CHECKPOINT: asdict(card),
    }
    torch.save(checkpoint, folder / "last.ckpt")


def load_checkpoint(folder: Path) -> str:
    """As a later stage loads the part in it."""
    reference = AppearanceReference.from_unet(toy_unet(block_out_channels=(8, 8, 8)))
    card = load_part(reference, str(folder / "last.ckpt"), "appearance", "0" * 16)
    return fingerprint(card, reference.state_dict())


def make_released(folder: Path) -> None:
    """A state dict as trainers wrap it, not of the released network: its layout is refused."""
    weights = {f"module.{name}": x for name, x in toy_unet(block_out_channels=(8, 8, 8)).state_dict().items()}
    torch.save({"state_dict": weights}, folder / "model.th")
    torch.save(weights, folder / "old.pth", _use_new_zipfile_serialization=False)


def load_released(folder: Path) -> str:
    """As `import_released` reads it."""
    found = []
    for path in sorted(folder.iterdir()):
        tensors = read_released(path)
        found.append(tensors)
        try:
            released_layout(shapes_of(tensors), 8)
        except InputError as error:  # the expected refusal of the whole sample
            found.append(type(error).__name__)
    return fingerprint(found)


def make_gan_pickle(folder: Path) -> None:
    """A toy EG3D in the published format."""
    with pytest.MonkeyPatch.context() as patch:
        write_network(folder / "network.pkl", "eg3d", patch)


def load_gan_pickle(folder: Path) -> str:
    """As `import_gan` reads it."""
    generator = generator_of(folder / "network.pkl")
    return fingerprint(generator.state_dict(), generator.settings)


def make_gan_folder(folder: Path) -> None:
    """A toy PanoHead as `import_gan` writes it."""
    save_generator(toy_generator("panohead"), folder / "gan", "toy")


def load_gan_folder(folder: Path) -> str:
    """As renderers load it."""
    generator = load_generator(folder / "gan")
    return fingerprint(generator.state_dict(), generator.settings)


def make_cameras(folder: Path) -> None:
    """Three labels as JSON in three layouts, and as NPY."""
    labels = np.stack([label_from_angles(yaw, 0.1) for yaw in (-0.3, 0.0, 0.3)])
    write_cameras(labels, folder / "a.json")
    rows = labels.astype(float).tolist()
    (folder / "b.json").write_text(yaml.safe_dump(rows, default_flow_style=True, width=10**6))
    named = {"labels": [[f"{number}.png", row] for number, row in enumerate(rows)]}
    (folder / "c.json").write_text(str(named).replace("'", '"'))
    np.save(folder / "d.npy", labels)


def load_cameras(folder: Path) -> str:
    """As every command reads cameras."""
    return fingerprint(read_cameras(sorted(folder.iterdir())))


def make_photos(folder: Path) -> None:
    """A photo in each format, some with EXIF data, transparency and 16 bits."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    photo(0).save(folder / "a.jpg", exif=exif)
    photo(1).convert("RGBA").save(folder / "b.png")
    photo(2).save(folder / "c.webp", exif=exif)
    photo(3).save(folder / "d.bmp")
    photo(4).save(folder / "e.tif")
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 200).save(folder / "f.png")


def load_photos(folder: Path) -> str:
    """As every command reads photos."""
    return fingerprint([open_photo(path) for path in sorted(folder.iterdir())])


def make_video(folder: Path) -> None:
    """A video of four frames."""
    write_video(folder / "video.mp4", [photo(seed, 64) for seed in range(4)], 8)


def load_video(folder: Path) -> str:
    """As `unpack` reads it."""
    return fingerprint(frames_of(folder / "video.mp4"))


def make_configs(folder: Path) -> None:
    """A table's YAML, and a stage's."""
    root = Path(__file__).parents[2] / "configs"
    (folder / "table.yaml").write_text((root / "evaluate/table2.yaml").read_text())
    (folder / "stage.yaml").write_text((root / "stage1.yaml").read_text())


def load_configs(folder: Path) -> str:
    """As `evaluate` and `fit` read them."""
    request = parse_request([f"--config={folder / 'table.yaml'}"])
    return fingerprint(request, dict(read_yaml(folder / "stage.yaml")))


def make_latents(folder: Path) -> None:
    """The latents of a sample."""
    draw = np.random.default_rng(0)
    moments = draw.normal(size=(2, 3, 8, 4, 4)).astype(np.float16)
    (folder / "latents.npz").write_bytes(encode_latents(Latents("0" * 16, *moments)))


def load_latents(folder: Path) -> str:
    """As a stream decodes them: a damaged sample is skipped."""
    try:
        return fingerprint(decode_latents((folder / "latents.npz").read_bytes(), 3))
    except SampleError as error:
        raise InputError(str(error)) from error


def make_tensors(folder: Path) -> None:
    """Weights as safetensors and as a pickle."""
    from safetensors.torch import save_file

    weights = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.float16)}
    save_file(weights, folder / "a.safetensors")
    torch.save(weights, folder / "b.bin")


def load_tensors(folder: Path) -> str:
    """As weights of any model folder are read."""
    return fingerprint([read_tensors(path) for path in sorted(folder.iterdir())])


def make_log(folder: Path) -> None:
    """The log of a run."""
    lines = ["step,epoch,train/loss,val/loss", *(f"{step},0,{1 / (step + 1)}," for step in range(20))]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")


def load_log(folder: Path) -> str:
    """As the dashboard reads it."""
    return fingerprint(read_log(folder / "metrics.csv"))


def make_calibration(folder: Path) -> None:
    """A participant's calibration, and colour corrections of both versions."""
    poses = {name: np.diag([1.0, -1.0, -1.0, 1.0]).tolist() for name in ("222", "333")}
    intrinsics = [[8000.0, 0.0, 1100.0], [0.0, 8000.0, 1604.0], [0.0, 0.0, 1.0]]
    write_json(folder / "camera_params.json", {"world_2_cam": poses, "intrinsics": intrinsics})
    write_json(folder / "colour.json", {"222": np.eye(3).tolist()})
    (folder / "colour").mkdir()
    np.save(folder / "colour/222.npy", np.eye(3, 4))


def load_calibration_files(folder: Path) -> str:
    """As the NeRSemble source reads them: a participant that cannot be used is skipped, with the reason."""
    try:
        calibration = load_calibration(folder / "camera_params.json")
        corrections = [load_correction(folder / name, "222") for name in ("colour.json", "colour")]
    except (CalibrationError, ColourError) as error:
        raise InputError(str(error)) from error
    colours = np.linspace(0, 1, 12).reshape(4, 3)
    return fingerprint(calibration, [correction(colours) for correction in corrections])


def make_labels(folder: Path) -> None:
    """A folder of images with EG3D's list of labels."""
    labels = [[f"{number}.png", label_from_angles(0.1 * number, 0.0).tolist()] for number in range(3)]
    write_json(folder / "dataset.json", {"labels": labels})
    for number in range(3):
        photo(number).save(folder / f"{number}.png")


def load_labels(folder: Path) -> str:
    """As the EG3D and PanoHead sources find images."""
    return fingerprint(find_labelled_images(folder))


def make_archive(folder: Path) -> None:
    """A checkpoint of a baseline, which holds objects of classes that are not known here."""
    weights = {"module.a": torch.arange(12.0).reshape(3, 4)}
    torch.save({"state_dict": weights, "opts": Namespace(size=256), "epoch": 3}, folder / "net.ckpt")


def load_archive(folder: Path) -> str:
    """As `import_baseline` reads it."""
    path = folder / "net.ckpt"
    return fingerprint(state_dict(read_archive(path), str(path)))


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
