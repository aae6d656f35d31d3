"""`diffportrait3d export-3d RUN_FOLDER --out DIR --format nerfstudio colmap gltf ply glb`: export the results
of `synthesize` for other tools.

| format | what is written into DIR |
|---|---|
| nerfstudio | `transforms.json` and `images/` |
| colmap | `sparse/cameras.txt`, `images.txt`, `points3D.txt`, and `images/` |
| gltf | `cameras.gltf`: the cameras, for Blender |
| ply, glb | `head.ply`, `head.glb`: the head's mesh by S's density, coloured from the views |
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jsonargparse import ArgumentParser
from numpy.typing import NDArray
from PIL import Image

from core.errors import InputError, one_line
from core.files import whole_folder
from core.tensors import read_json
from generators.isosurface import Surface, Unit, colours_from_views, extract_surface, write_mesh
from portraits.camera_files import read_cameras
from portraits.image_folders import read_squares, view_files
from portraits.pixels import to_pixels
from portraits.scene_formats import write_colmap, write_gltf, write_nerfstudio

Format = Literal["nerfstudio", "colmap", "gltf", "ply", "glb"]
MESHES = ("ply", "glb")


@dataclass(frozen=True)
class Export:
    """Export the views in a folder of `synthesize`.

    Args:
        run_folder: a folder of `synthesize`, or of one person in it
        out: the folder to write; it must not exist
        format: the formats to write
        unit: unit of meshes; there are about 2.7 of EG3D's units to the metre
        resolution: samples of S's density along a side of the cube
        level: the density at the mesh's surface, per unit of EG3D's world
        model: the model folder whose S provides the density; by default the run's
    """

    run_folder: str
    out: str
    format: list[Format] = field(default_factory=lambda: ["nerfstudio", "colmap", "gltf"])
    unit: Unit = "eg3d"
    resolution: int = 128
    level: float = 1.5
    model: str | None = None


@dataclass(frozen=True)
class Run:
    """Views of one person, images (K, S, S, 3) and cameras (K, 25), with the portraits and the model that
    they were generated from."""

    images: NDArray[np.uint8]
    cameras: NDArray[np.float32]
    portraits: list[Image.Image]
    model: str


def read_run(folder: Path) -> Run:
    """Read the run in a folder. Raises InputError if it has no cameras, fewer than two views, or damaged
    images."""
    common = folder if (folder / "settings.json").is_file() else folder.parent
    settings = read_json(common / "settings.json")
    if not (common / "cameras.json").is_file():
        raise InputError(
            f"{folder}: it has no cameras.json, as its views were generated from condition images only; give "
            "`synthesize` --cameras or --trajectory"
        )
    cameras = read_cameras([common / "cameras.json"])
    files = view_files(folder / "views", "views")
    if len(files) < 2:
        raise InputError(f"{folder}: {len(files)} view; at least two are needed")
    if len(files) != len(cameras):
        raise InputError(f"{folder}: {len(files)} views and {len(cameras)} cameras")
    size = settings.get("image_size")
    if not isinstance(size, int):
        raise InputError(f"{common / 'settings.json'}: it has no image_size: `synthesize` did not write it")
    views = np.stack([np.asarray(image) for image in read_squares(files, size, "views")])
    portraits = read_squares(sorted(folder.glob("portrait_*.png")), size, "portraits")
    return Run(views, cameras, portraits, str(settings.get("model", "")))


def head_mesh(run: Run, model: str, level: float, resolution: int) -> Surface:
    """The head's surface from the density that a model's S predicts for the portraits. Raises InputError if
    the model has no S."""
    from core.model_folders import load_model
    from lightning_modules.networks.noise_prior import NoisePrior
    from lightning_modules.networks.portrait import NOISE_PRIOR

    folder = Path(model) / NOISE_PRIOR
    if not folder.is_dir():
        raise InputError(f"{model}: it has no {NOISE_PRIOR}/ (S), whose density makes the mesh")
    prior = load_model(NoisePrior, folder).float()
    portraits = to_pixels(np.stack([np.asarray(image) for image in run.portraits]))
    canonical = prior.encode(portraits[None])
    return extract_surface(
        lambda points: prior.density(canonical, points)[0], prior.config.extent, level, resolution
    )


def export(request: Export) -> Path:
    """Write the formats and return the folder. Raises InputError before anything is loaded."""
    run = read_run(Path(request.run_folder))
    names = [f"{number:03d}.png" for number in range(len(run.images))]
    side = run.images.shape[1]
    with whole_folder(Path(request.out)) as folder:
        (folder / "images").mkdir()
        for name, image in zip(names, run.images, strict=True):
            Image.fromarray(image).save(folder / "images" / name)
        if "nerfstudio" in request.format:
            write_nerfstudio(
                run.cameras, [f"images/{name}" for name in names], side, folder / "transforms.json"
            )
        if "colmap" in request.format:
            (folder / "sparse").mkdir()
            write_colmap(run.cameras, names, side, folder / "sparse")
        if "gltf" in request.format:
            write_gltf(run.cameras, names, folder / "cameras.gltf")
        if wanted := [name for name in MESHES if name in request.format]:
            surface = head_mesh(run, request.model or run.model, request.level, request.resolution)
            colours = colours_from_views(surface, run.images, run.cameras)
            for name in wanted:
                write_mesh(surface, colours, folder / f"head.{name}", request.unit)
    return Path(request.out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = ArgumentParser(
        prog="diffportrait3d export-3d",
        description="Export generated views and cameras to other tools.",
    )
    parser.add_argument("run_folder", type=str, help="a folder of `synthesize`, or of one person in it")
    parser.add_class_arguments(Export, skip={"run_folder"})
    print(export(Export(**parser.parse_args(arguments).as_dict())))


if __name__ == "__main__":
    with one_line():
        main()
