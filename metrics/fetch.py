"""`python -m metrics.fetch`: the metrics' standard weights, fetched and verified, for machines
without internet.

They go into `$TORCH_HOME`, where their packages look for them. Where there is no route, fetch them elsewhere
and name the folder that has them with `--mirror`.
"""

from collections.abc import Sequence
from pathlib import Path
from urllib.error import URLError

from jsonargparse import ArgumentParser
from torch.hub import download_url_to_file

from core.errors import InputError, one_line
from core.files import checksum
from metrics.catalogue import CATALOGUE, PublishedWeights


def fetch(weights: PublishedWeights, mirror: str | None) -> str:
    """Have a file, and say how: it is there already and whole, or it is fetched, from where it is published
    or from `mirror` (a folder or a URL), and verified. Raises InputError where it cannot be had."""
    path = weights.path
    if path.is_file() and checksum(path) == weights.sha256:
        return f"{path}: there already"
    url = weights.url if mirror is None else _mirrored(mirror, path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        download_url_to_file(url, str(path), hash_prefix=weights.sha256)
    except URLError as error:
        raise InputError(f"{weights.name}: {url} cannot be fetched ({error.reason})") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{weights.name}: {url} cannot be fetched ({error})") from error
    except RuntimeError as error:
        raise InputError(f"{weights.name}: what {url} gave is not the published file ({error})") from error
    return f"{path}: fetched"


def fetch_all(mirror: str | None = None) -> list[str]:
    """Have all published weights; what could not be had comes back, a line each.

    Args:
        mirror: a folder or URL that has the files under their own names; else they come from where they are
            published
    """
    troubles = []
    for weights in CATALOGUE.values():
        if isinstance(weights, PublishedWeights):
            try:
                print(fetch(weights, mirror))
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
    parser = ArgumentParser(prog="python -m metrics.fetch", description=__doc__.split("\n", 1)[0])
    parser.add_function_arguments(fetch_all)
    troubles = fetch_all(**parser.parse_args(arguments).as_dict())
    if troubles:
        raise InputError(f"{len(troubles)} files could not be had: {'; '.join(troubles)}")


if __name__ == "__main__":
    with one_line():
        main()
