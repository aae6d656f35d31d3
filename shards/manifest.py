"""manifest.json: the contents of a built folder and the settings of the build."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from core.errors import InputError
from core.files import write_json
from core.schema import STRICT, parse_schema, storable
from shards.schema import SCHEMA_VERSION, SPLITS

MANIFEST = "manifest.json"
LATENTS_OF = "latents"
MAX_SIDE = 1 << 15  # pixels
MAX_BYTES = 1 << 50
REMEDY = "copy or build the folder again"


@dataclass(frozen=True)
class ShardRecord:
    """One shard: its file name, split, number of samples, size in bytes, and SHA-256."""

    __pydantic_config__: ClassVar = STRICT

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name or not self.name.endswith(".tar") or "\0" in self.name:
            raise ValueError(f"{self.name[:80]!r} is not a shard's file name")
        if self.split not in SPLITS:
            raise ValueError(f"the split {self.split[:80]!r} is not one of {', '.join(SPLITS)}")
        if not (0 <= self.samples <= self.bytes <= MAX_BYTES):
            raise ValueError(f"{self.name[:80]} has an impossible number of samples or bytes")


@dataclass(frozen=True)
class Manifest:
    """The contents of a built folder.

    `views` are the smallest and the largest number of views of a sample, `identities` the names of people by
    split, `settings` the settings that the shards depend on.
    """

    __pydantic_config__: ClassVar = STRICT

    source: str
    image_size: int
    views: tuple[int, int]
    identities: dict[str, list[str]]
    shards: list[ShardRecord]
    settings: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if not 0 < self.image_size <= MAX_SIDE:
            raise ValueError(f"the image size is not from 1 to {MAX_SIDE} pixels")
        if not 0 < self.views[0] <= self.views[1]:
            raise ValueError("the smallest number of views exceeds the largest")
        if unknown := sorted(set(self.identities) - set(SPLITS)):
            raise ValueError(f"identities of the split {unknown[0][:80]!r}, not one of {', '.join(SPLITS)}")
        names = [shard.name for shard in self.shards]
        if len(set(names)) != len(names):
            raise ValueError("a shard is listed twice")

    def of_split(self, split: str) -> list[ShardRecord]:
        """The shards of one split, in order."""
        return [shard for shard in self.shards if shard.split == split]

    def samples(self, split: str) -> int:
        """The number of samples of a split."""
        return sum(shard.samples for shard in self.of_split(split))

    @property
    def latents_of(self) -> str | None:
        """The fingerprint of the VAE whose latents are in the shards, or None if there are none."""
        name = self.settings.get(LATENTS_OF)
        return name if isinstance(name, str) else None

    def with_latents(self, fingerprint: str, shards: list[ShardRecord]) -> Self:
        """The manifest of the same samples in `shards`, with latents of the VAE of this fingerprint."""
        return replace(self, shards=shards, settings={**self.settings, LATENTS_OF: fingerprint})

    def save(self, folder: Path) -> None:
        """Write manifest.json into `folder`."""
        write_json(folder / MANIFEST, storable(asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read manifest.json in `folder`. Raises InputError if it is missing, damaged or of another
        version."""
        path = folder / MANIFEST
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(
                f"{path}: {error.strerror}; give a folder made by `python -m shards.build`"
            ) from error
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: bytes, where: str) -> Self:
        """A manifest from the content of its file; `where` names it in errors. Raises InputError."""
        _check_version(data, where)
        try:
            return parse_schema(cls, data, f"{where} is not a manifest of this project")
        except InputError as error:
            raise InputError(f"{error}; {REMEDY}") from None


def _check_version(data: bytes, where: str) -> None:
    """Raise InputError for a manifest of another schema version, whose fields may differ."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return
    version = values.get("schema_version") if isinstance(values, dict) else SCHEMA_VERSION
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{where}: schema version {str(version)[:20]}, not {SCHEMA_VERSION}; build the folder again"
        )


def check_disjoint(identities: Mapping[str, Iterable[str]], where: str) -> None:
    """Raise InputError, naming `where`, if an identity is in two splits."""
    owner: dict[str, str] = {}
    for split, names in identities.items():
        for name in names:
            if owner.setdefault(name, split) != split:
                raise InputError(f"{where}: identity {name} is in both {owner[name]} and {split}")
