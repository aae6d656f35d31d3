"""Download of backbones and models from the Hugging Face hub, limited to the files that are used."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, Self

from huggingface_hub import HfApi, get_session, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from core.errors import InputError
from core.model_folders import WEIGHTS
from core.shipped import find_shipped

HUB_SECONDS = 10.0  # timeout for the list of a repository's files
# File stems of weights, by the folders of a backbone.
STEMS = {"unet": (WEIGHTS,), "vae": (WEIGHTS,), "text_encoder": ("model", "pytorch_model")}
BACKBONE = ["*/config.json", "scheduler/scheduler_config.json", "empty_prompt.safetensors", "tokenizer/*"]
MODEL = ["*.json", "*.safetensors", "tokenizer/*"]
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# All files of a backbone that a repository may have, for machines that cannot list its files.
FILES = [
    *BACKBONE,
    *(f"{part}/{stem}*.{kind}" for part, stems in STEMS.items() for stem in stems
      for kind in ("safetensors", "bin", "json")),
]  # fmt: skip


def fetch_backbone(repository: str) -> Path:
    """Download a backbone's files from the hub, with one set of weights per network, and return their folder.
    Raises InputError."""
    _check_id(repository)
    try:
        files = HfApi().model_info(repository, timeout=HUB_SECONDS).siblings or []
    except unreachable():
        return fetch(repository, FILES)  # from the cache, or an error with the reason
    names = [file.rfilename for file in files]
    weights = [name for part, stems in STEMS.items() for name in choose_weights(names, part, stems)]
    return fetch(repository, [*BACKBONE, *weights])


def unreachable() -> tuple[type[Exception], ...]:
    """Exceptions raised if the hub or its HTTP client cannot be reached or refuses, an id among others."""
    client = import_module(type(get_session()).__module__.partition(".")[0])
    refused = HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
    return *refused, OSError, client.HTTPError


@dataclass(frozen=True)
class HubOptions:
    """How files are downloaded from the hub: diffusers' arguments of these names."""

    revision: str | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    token: str | bool | None = None
    force_download: bool = False

    @classmethod
    def take(cls, options: dict[str, Any]) -> Self:
        """The options among a call's keyword arguments, which are removed from them; None counts
        as not given."""
        known = [field.name for field in fields(cls) if field.name in options]
        given = {name: options.pop(name) for name in known}
        return cls(**{name: value for name, value in given.items() if value is not None})


NO_OPTIONS = HubOptions()


def find_model(path: str | Path, options: HubOptions = NO_OPTIONS) -> Path:
    """The folder of a model: a local or shipped one, or one downloaded from the hub (owner/name). Raises
    InputError if there is none."""
    folder = find_shipped(path)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(f"{folder} is a file: give a model's folder")
    return fetch(str(path), MODEL, options)


def fetch(repository: str, patterns: Sequence[str], options: HubOptions = NO_OPTIONS) -> Path:
    """Download a repository's files that match any of the patterns, from the hub or its cache, and return
    their folder. Raises InputError if there is no such repository, or the hub cannot be reached and the files
    are not cached."""
    _check_id(repository)
    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns), **asdict(options)))
    except HFValidationError:
        raise InputError(f"{repository}: no such folder, and not a hub id (owner/name)") from None
    except unreachable() as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise InputError(f"{repository}: no such folder, and not available from the hub: {reason}") from error


def _check_id(repository: str) -> None:
    if not REPOSITORY.fullmatch(repository):
        raise InputError(f"{repository}: no such folder, and not a hub id (owner/name)")


def choose_weights(names: Iterable[str], part: str, stems: Sequence[str]) -> list[str]:
    """Among a repository's file names, the files in the folder `part` that hold one set of weights.

    Safetensors are preferred to pickled state dicts, and full precision to the fp16 variant; weights in
    several files include their index.
    """
    known = set(names)
    for kind, variant, stem in product(("safetensors", "bin"), ("", ".fp16"), stems):
        single, index = f"{part}/{stem}{variant}.{kind}", f"{part}/{stem}.{kind}.index{variant}.json"
        if single in known:
            return [single]
        if index in known:
            piece = re.compile(rf"{part}/{stem}{re.escape(variant)}-\d+-of-\d+\.{kind}")
            return [index, *sorted(name for name in known if piece.fullmatch(name))]
    return []
