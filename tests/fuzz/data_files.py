"""Samples of images, cameras, shards and settings, and their loaders."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from callbacks.dashboard import read_log
from core.errors import InputError
from core.files import write_json
from core.yaml_files import read_yaml
from lightning_modules.evaluate import parse_request
from lightning_modules.evaluation.scoring import native_sizes, read_images
from lightning_modules.evaluation.subjects import SubjectSettings, find_subjects
from lightning_modules.evaluation.unpack import frames_of
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
from tests.fuzz.contents import SIDE, fingerprint, photo
from tests.shards.fake_source import FakeSource


def make_predictions(folder: Path) -> None:
    """Two subjects of two views, with all optional files."""
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
    """Load as `evaluate --predictions` does."""
    predictions = Predictions.load(folder)
    native_sizes(predictions)
    names = [name for view in predictions.views for name in view.files.values()]
    images = read_images([folder / name for name in names], SIDE)
    return fingerprint(predictions.system, predictions.protocol, predictions.views, images)


def make_shards(folder: Path) -> None:
    """A built folder of one person in each split."""
    build(FakeSource(1, 1, views=3, size=SIDE), folder / "shards", 0)


def make_bare_shards(folder: Path) -> None:
    """A built folder without its manifest."""
    make_shards(folder)
    (folder / "shards/manifest.json").unlink()


def load_shards(folder: Path) -> str:
    """Load as evaluation does."""
    subjects = find_subjects(SubjectSettings(str(folder / "shards"), cache_dir=str(folder / "cache")))
    return fingerprint([asdict(subject) for subject in subjects.read(subjects.keys)])


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
    """Load as every command does."""
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
    photo(5).save(folder / "g.avif", exif=exif)
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 200).save(folder / "f.png")


def load_photos(folder: Path) -> str:
    """Load as every command does."""
    return fingerprint([open_photo(path) for path in sorted(folder.iterdir())])


def make_video(folder: Path) -> None:
    """A video of four frames."""
    write_video(folder / "video.mp4", [photo(seed, 64) for seed in range(4)], 8)


def load_video(folder: Path) -> str:
    """Load as `unpack` does."""
    return fingerprint(frames_of(folder / "video.mp4"))


def make_configs(folder: Path) -> None:
    """The YAML of a table and of a stage."""
    root = Path(__file__).parents[2] / "configs"
    (folder / "table.yaml").write_text((root / "evaluate/table2.yaml").read_text())
    (folder / "stage.yaml").write_text((root / "stage1.yaml").read_text())


def load_configs(folder: Path) -> str:
    """Load as `evaluate` and `fit` do."""
    request = parse_request([f"--config={folder / 'table.yaml'}"])
    return fingerprint(request, dict(read_yaml(folder / "stage.yaml")))


def make_latents(folder: Path) -> None:
    """The latents of a sample."""
    draw = np.random.default_rng(0)
    moments = draw.normal(size=(2, 3, 8, 4, 4)).astype(np.float16)
    (folder / "latents.npz").write_bytes(encode_latents(Latents("0" * 16, *moments)))


def load_latents(folder: Path) -> str:
    """Decode as the data stream does, which skips damaged samples."""
    try:
        return fingerprint(decode_latents((folder / "latents.npz").read_bytes(), 3))
    except SampleError as error:
        raise InputError(str(error)) from error


def make_log(folder: Path) -> None:
    """The log of a run."""
    lines = ["step,epoch,train/loss,val/loss", *(f"{step},0,{1 / (step + 1)}," for step in range(20))]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")


def load_log(folder: Path) -> str:
    """Load as the dashboard does."""
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
    """Load as the NeRSemble source does, which skips unusable participants and reports the reason."""
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
    """Find images as the EG3D and PanoHead sources do."""
    return fingerprint(find_labelled_images(folder))
