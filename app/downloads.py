"""What can be downloaded of a result, and its 3D files."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

from core.files import whole_file
from lightning_modules.export_3d import Export, Format, export
from lightning_modules.sampling.plan import CAMERAS
from lightning_modules.sampling.synthesis import SHEET, VIDEO, VIEWS

SCENES: tuple[Format, ...] = ("nerfstudio", "colmap", "gltf")
MESHES: tuple[Format, ...] = ("ply", "glb")
FOLDER_3D, ARCHIVE_3D, ARCHIVE = "3d", "3d.zip", "views.zip"
MESH = "head.glb"


def downloads(result: Path) -> dict[str, Path]:
    """The files of a result by what the page calls them; the archive of its views is written first."""
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
        "GLB mesh": f"{FOLDER_3D}/{MESH}",
    }
    return {name: result / file for name, file in files.items() if (result / file).is_file()}


def mesh_file(result: Path) -> Path | None:
    """The mesh that the page shows, once it is made."""
    path = result / FOLDER_3D / MESH
    return path if path.is_file() else None


def write_3d(result: Path, meshes: Sequence[Format]) -> None:
    """Export a result for other tools, once, and pack the files. Raises InputError where it has too few
    views."""
    if not (result / FOLDER_3D).is_dir():
        export(Export(str(result), str(result / FOLDER_3D), [*SCENES, *meshes]))
    _pack(result / FOLDER_3D, result / ARCHIVE_3D)


def _pack(folder: Path, archive: Path) -> None:
    with whole_file(archive) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as target:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                target.write(path, path.relative_to(folder))
