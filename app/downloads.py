"""Downloadable files of a result, and its 3D files."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

from app.visitors import add_unlisted, unlisted
from core.files import whole_file
from lightning_modules.export_3d import Export, export
from lightning_modules.sampling.export_formats import Format
from lightning_modules.sampling.plan import CAMERAS
from lightning_modules.sampling.synthesis import SHEET, VIDEO, VIEWS

SCENES: tuple[Format, ...] = ("nerfstudio", "colmap", "gltf")
MESHES: tuple[Format, ...] = ("ply", "glb")
FOLDER_3D, ARCHIVE_3D, ARCHIVE = "3d", "3d.zip", "views.zip"
MESH = f"{FOLDER_3D}/head.glb"
SPLAT_FOLDER = "splats"
SPLATS = f"{SPLAT_FOLDER}/head_splats.ply"


def downloads(result: Path) -> dict[str, Path]:
    """The files of a result by their label on the page. Writes the archive of the views if it is missing."""
    if not (result / ARCHIVE).is_file():
        _pack(result / VIEWS, result / ARCHIVE)
    files = {
        "PNG": ARCHIVE,
        "MP4": VIDEO,
        "Cameras": CAMERAS,
        "Contact sheet": SHEET,
        "Settings": "settings.json",
        "3D scene": ARCHIVE_3D,
        "PLY mesh": f"{FOLDER_3D}/head.ply",
        "GLB mesh": MESH,
        "Splats": SPLATS,
    }
    return {name: result / file for name, file in files.items() if (result / file).is_file()}


def shown_3d(result: Path) -> tuple[str | None, str | None]:
    """The files of the mesh and of the 3D Gaussians for the viewers; None if they were not made."""
    mesh, splats = result / MESH, unlisted(result, Path(SPLATS).name)
    return str(mesh) if mesh.is_file() else None, None if splats is None else str(splats)


def write_3d(result: Path, meshes: Sequence[Format]) -> None:
    """Export a result as scenes and meshes unless that was done, and pack the files. Raises InputError if it
    has too few views."""
    if not (result / FOLDER_3D).is_dir():
        export(Export(str(result), str(result / FOLDER_3D), [*SCENES, *meshes]))
    _pack(result / FOLDER_3D, result / ARCHIVE_3D)


def write_splats(result: Path) -> None:
    """Fit 3D Gaussians to a result's views, if not done yet. Raises InputError if it has too few views."""
    if not (result / SPLAT_FOLDER).is_dir():
        export(Export(str(result), str(result / SPLAT_FOLDER), ["splat"]))
    if unlisted(result, Path(SPLATS).name) is None:
        add_unlisted(result, result / SPLATS)  # Gradio's viewer of splats sends no cookies


def _pack(folder: Path, archive: Path) -> None:
    with whole_file(archive) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as target:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                target.write(path, path.relative_to(folder))
