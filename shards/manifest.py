"""manifest.json: what lies in a built folder and how it was made."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from core.errors import InputError
from core.files import write_json
from shards.schema import SCHEMA_VERSION, SPLITS

MANIFEST = "manifest.json"
LATENTS_OF = "latents"


@dataclass(frozen=True)
class ShardRecord:
    """One shard: its file name, split, number of samples, bytes and SHA-256."""

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name or not self.name.endswith(".tar"):
            raise ValueError(f"{self.name!r} is not a shard's file name")
        if self.split not in SPLITS or self.samples < 0 or self.bytes < 0:
            raise ValueError(f"the entry of {self.name} is damaged")


@dataclass(frozen=True)
class Manifest:
    """The contents of a built folder.

    `views` is the smallest and the largest number of views of a frame; `identities` names them by split;
    `settings` is what the build depended on."""

    source: str
    image_size: int
    views: tuple[int, int]
    identities: dict[str, list[str]]
    shards: list[ShardRecord]
    settings: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def of_split(self, split: str) -> list[ShardRecord]:
        """The shards of one split, in order."""
        return [shard for shard in self.shards if shard.split == split]

    def samples(self, split: str) -> int:
        """How many samples a split has."""
        return sum(shard.samples for shard in self.of_split(split))

    @property
    def latents_of(self) -> str | None:
        """The fingerprint of the VAE whose latents are in the shards; None where there are none."""
        name = self.settings.get(LATENTS_OF)
        return name if isinstance(name, str) else None

    def with_latents(self, name: str, shards: list[ShardRecord]) -> Self:
        """The manifest of the same samples in `shards`, with latents of the VAE whose fingerprint is
        `name`."""
        return replace(self, shards=shards, settings={**self.settings, LATENTS_OF: name})

    def save(self, folder: Path) -> None:
        """Write manifest.json into `folder`."""
        write_json(folder / MANIFEST, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read manifest.json of `folder`. Raises InputError where it is missing, damaged or of another
        version."""
        path = folder / MANIFEST
        try:
            return cls.parse(path.read_bytes(), str(path))
        except OSError as error:
            raise InputError(
                f"{path}: {error.strerror}; point at a folder made by `python -m shards.build`"
            ) from error

    @classmethod
    def parse(cls, data: bytes, where: str) -> Self:
        """A manifest from the bytes of its file; `where` names it in errors. Raises InputError."""
        try:
            values = json.loads(data)
            version = values["schema_version"]
            if version != SCHEMA_VERSION:
                raise InputError(
                    f"{where}: schema version {version!r}, this code reads {SCHEMA_VERSION}; build it again"
                )
            known = {f.name: values[f.name] for f in fields(cls)}
            known["shards"] = [ShardRecord(**record) for record in values["shards"]]
            known["views"] = tuple(map(int, values["views"]))
            known["identities"] = {split: list(names) for split, names in values["identities"].items()}
            return cls(**known)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{where}: not a manifest of this project ({error}); rebuild the folder"
            ) from error


def disjoint(identities: Mapping[str, Iterable[str]], where: str) -> None:
    """Raise InputError if an identity stands in two splits."""
    owner: dict[str, str] = {}
    for split, names in identities.items():
        for name in names:
            if owner.setdefault(name, split) != split:
                raise InputError(f"{where}: identity {name} is in both {owner[name]} and {split}")
