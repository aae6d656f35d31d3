"""`diffportrait3d export-3d RUN_FOLDER --out DIR --format [ply]`: what `synthesize` wrote, for other tools.

| format | what is written into DIR |
|---|---|
| nerfstudio | `transforms.json` beside `images/` and `masks/` |
| colmap | `sparse/cameras.txt`, `images.txt`, `points3D.txt` beside `images/` and `masks/` |
| gltf | `cameras.gltf`: the cameras, for Blender (File > Import > glTF 2.0) |
| ply, glb | `head.ply`, `head.glb`: the head's mesh by S's density, coloured from the views |
| splat | `head_splats.ply`: 3D Gaussians; `splats.json`, `splats.png`: their held-out views beside S's |
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from PIL import Image

from core.errors import InputError, one_line
from core.files import whole_folder
from generators.isosurface import Unit, colours_from_views, write_mesh
from generators.splats.fit import FitSettings
from lightning_modules.assets.head import Head
from lightning_modules.assets.run import Run, read_run
from lightning_modules.assets.splats import make_splats, score_table
from lightning_modules.networks.portrait import NOISE_PRIOR
from lightning_modules.sampling.export_formats import MESHES, NEED_PRIOR, SPLAT, Format, check_formats
from portraits.scene_formats import write_colmap, write_gltf, write_nerfstudio
from portraits.segmentation import check_segmentation, foreground_masks

IMAGES, MASKS = "images", "masks"
OPAQUE = 128  # mask values from here on become 255 in the files, others 0


@dataclass(frozen=True)
class Export:
    """Export the views in a folder of `synthesize`.

    Args:
        run_folder: a folder that `synthesize` wrote, or one person's folder in it
        out: the folder to write; it must not exist yet
        format: the formats to write
        masks: write masks of the person too, for nerfstudio and COLMAP (MediaPipe's selfie segmentation)
        unit: unit of length of meshes and splats; 2.7 of EG3D's are a metre
        resolution: number of density samples along each side of the cube around the head
        level: density at the surface of the mesh, per unit of length of EG3D's world
        gaussians: settings of the fit of 3D Gaussians
        model: the model folder whose S gives meshes and splats; the run's own by default
    """

    run_folder: str
    out: str
    format: list[Format] = field(default_factory=lambda: ["nerfstudio", "colmap", "gltf"])
    masks: bool = False
    unit: Unit = "eg3d"
    resolution: int = 128
    level: float = 1.5
    gaussians: FitSettings = field(default_factory=FitSettings)
    model: str | None = None

    def __post_init__(self) -> None:
        """Raise InputError on values out of range."""
        if self.resolution < 8 or not self.level > 0:
            raise InputError(
                f"--resolution {self.resolution} --level {self.level:g}: give at least 8, and above 0"
            )


def export(request: Export) -> Path:
    """Write the requested formats into a new folder and return its path. Raises InputError, before a network
    is loaded, if the run lacks what a format requires."""
    run = read_run(Path(request.run_folder))
    prior = Path(request.model or run.model) / NOISE_PRIOR
    check_formats(request.format, run.cameras, prior.is_dir(), request.run_folder)
    if request.masks:
        check_segmentation()
    with whole_folder(Path(request.out)) as folder:
        write_scenes(run, request, folder)
        if set(request.format) & set(NEED_PRIOR):
            write_heads(run, Head.of(run.portraits, prior), request, folder)
    return Path(request.out)


def write_scenes(run: Run, request: Export, folder: Path) -> None:
    """Write the images, and the cameras as nerfstudio, COLMAP and Blender read them."""
    assert run.cameras is not None  # checked with the formats
    names = [f"{number:03d}.png" for number in range(len(run.images))]
    _write_images(run.images, folder / IMAGES, names)
    masks = None
    if request.masks:
        # COLMAP appends .png to an image's name; nerfstudio takes any name
        masks = [f"{name}.png" for name in names]
        binary = np.where(foreground_masks(run.images) < OPAQUE, 0, 255).astype(np.uint8)
        _write_images(binary, folder / MASKS, masks)
    if "nerfstudio" in request.format:
        write_nerfstudio(
            run.cameras,
            [f"{IMAGES}/{name}" for name in names],
            run.side,
            folder / "transforms.json",
            masks and [f"{MASKS}/{name}" for name in masks],
        )
    if "colmap" in request.format:
        (folder / "sparse").mkdir()
        write_colmap(run.cameras, names, run.side, folder / "sparse")
    if "gltf" in request.format:
        write_gltf(run.cameras, names, folder / "cameras.gltf")


def write_heads(run: Run, head: Head, request: Export, folder: Path) -> None:
    """Write the head as meshes and as 3D Gaussians, and print the Gaussians' scores."""
    assert run.cameras is not None
    surface = head.surface(request.level, request.resolution)
    if wanted := [name for name in MESHES if name in request.format]:
        colours = colours_from_views(surface, run.images, run.cameras)
        for name in wanted:
            write_mesh(surface, colours, folder / f"head.{name}", request.unit)
    if SPLAT in request.format:
        print(score_table(make_splats(run, head, surface, request.gaussians, folder, request.unit)))


def _write_images(images: np.ndarray, folder: Path, names: Sequence[str]) -> None:
    folder.mkdir()
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(folder / name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = ArgumentParser(
        prog="diffportrait3d export-3d", description="Generated views and their cameras for other tools."
    )
    parser.add_argument("run_folder", type=str, help="a folder that `synthesize` wrote, or a person's in it")
    parser.add_class_arguments(Export, skip={"run_folder"})
    print(export(Export(**parser.instantiate(parser.parse_args(arguments)).as_dict())))


if __name__ == "__main__":
    with one_line():
        main()
