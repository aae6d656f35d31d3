"""Catalogs of shards given by folders, paths, globs, brace patterns and URLs."""

import contextlib
import glob
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

from core.errors import InputError
from shards.fetch import NotThereError, ShardCache, fetch_bytes, is_remote, local_path
from shards.index import ShardIndex
from shards.latents import fingerprint_of
from shards.manifest import MANIFEST, Manifest, ShardRecord, check_disjoint
from shards.reader import ShardReader
from shards.schema import (
    CAMERAS,
    LATENTS,
    META,
    SampleError,
    SampleMeta,
    count_views,
    decode_cameras,
    decode_meta,
    image_side,
    view_name,
)

MAX_MANIFEST_BYTES = 64 << 20
MAX_SHARDS = 1_000_000  # largest number of shards of one pattern
_RANGE = re.compile(r"\{(-?\d{1,18})\.\.(-?\d{1,18})")


@dataclass(frozen=True)
class Shard:
    """One shard: its URL, its split, its number of samples, the side of its images, and the smallest and the
    largest number of views of its samples.

    `record` is its entry in the manifest; only a shard without one has an `index`, as it has to be scanned to
    count its samples. `vae` is the fingerprint of the VAE whose latents it holds, from its manifest or its
    first sample.
    """

    url: str
    split: str
    samples: int
    image_size: int
    views: tuple[int, int]
    record: ShardRecord | None = None
    index: ShardIndex | None = None
    vae: str | None = None


class Catalog:
    """The shards of one source.

    `urls` are built folders (local, or remote and ending in `/`) or individual shards: paths, globs, brace
    patterns and URLs as in WebDataset. Shards are described by the manifest in their folder, and read only
    when their frames are; shards without a manifest are scanned, which takes time in proportion to their
    samples.

    Raises InputError for shards that are missing, have another size than in the manifest, or are named twice,
    and for identities in two splits; also for shards without a manifest that are incomplete or of another
    schema, or hold samples of another one.
    """

    def __init__(self, name: str, urls: str | Sequence[str], cache: ShardCache) -> None:
        self.name = name
        self._cache = cache
        self._manifests: dict[str, Manifest | None] = {}
        self._records: dict[str, dict[str, ShardRecord]] = {}
        found = [shard for url in ([urls] if isinstance(urls, str) else urls) for shard in self._expand(url)]
        if not found:
            raise InputError(f"source {name}: no shards are named")
        if len(set(found)) != len(found):
            twice = next(url for url in found if found.count(url) > 1)
            raise InputError(f"source {name}: {twice} is named twice")
        self._urls = found

    @cached_property
    def shards(self) -> list[Shard]:
        """All shards, in the order of `urls`."""
        identities: dict[str, set[str]] = defaultdict(set)
        shards = [self._open(url, identities) for url in self._urls]
        for folder, split in {(_folder(shard.url), shard.split) for shard in shards if shard.record}:
            if (manifest := self._manifest(folder)) is not None:
                identities[split].update(manifest.identities.get(split, ()))
        check_disjoint(identities, f"source {self.name}")
        self._check_unique(shards)
        return shards

    def split(self, split: str) -> list[Shard]:
        """The non-empty shards of one split."""
        return [shard for shard in self.shards if shard.split == split and shard.samples]

    def _expand(self, pattern: str) -> list[str]:
        from webdataset.shardlists import expand_urls  # imports torch

        count = prod(abs(int(last) - int(first)) + 1 for first, last in _RANGE.findall(pattern))
        if count > MAX_SHARDS:
            raise InputError(
                f"source {self.name}: {pattern} stands for more than {MAX_SHARDS} shards: check its numbers"
            )
        try:
            urls = [pattern] if pattern.startswith("pipe:") and "{" not in pattern else expand_urls(pattern)
        except (AssertionError, ValueError) as error:
            raise InputError(f"source {self.name}: {pattern} does not expand ({error})") from error
        return [shard for url in urls for shard in self._list(url)]

    def _list(self, url: str) -> list[str]:
        """The shards of a folder, the matches of a glob, or the one shard itself."""
        if is_remote(url):
            if not url.endswith("/"):
                return [url]
            manifest = self._manifest(url)
            if manifest is None:
                raise InputError(f"source {self.name}: {url} has no {MANIFEST}: name its shards instead")
            return [url + record.name for record in manifest.shards]
        path = local_path(url)
        if path.is_dir():
            shards = self._list_folder(path)
        elif path.exists():
            shards = [path]
        else:
            shards = [Path(match) for match in sorted(glob.glob(str(path)))]
        if not shards:
            raise InputError(
                f"source {self.name}: {url}: no such shards; see `python -m shards.build --help`"
            )
        return [str(shard) for shard in shards]

    def _list_folder(self, folder: Path) -> list[Path]:
        manifest = self._manifest(f"{folder}/")
        if manifest is not None:
            return [folder / record.name for record in manifest.shards]
        return sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))

    def _manifest(self, folder: str) -> Manifest | None:
        """The manifest in a folder (its URL, ending in `/`), or None if there is none."""
        if folder not in self._manifests:
            manifest = self._manifests[folder] = self._load_manifest(folder)
            self._records[folder] = {record.name: record for record in manifest.shards} if manifest else {}
        return self._manifests[folder]

    def _load_manifest(self, folder: str) -> Manifest | None:
        if not is_remote(folder):
            path = local_path(folder)
            return Manifest.load(path) if (path / MANIFEST).exists() else None
        try:
            data = fetch_bytes(folder + MANIFEST, MAX_MANIFEST_BYTES)
        except NotThereError:
            return None
        except InputError as error:
            raise InputError(
                f"source {self.name}: {error}; without the manifest its shards cannot be checked"
            ) from error
        return Manifest.parse(data, folder + MANIFEST)

    def _open(self, url: str, identities: dict[str, set[str]]) -> Shard:
        """Describe a shard by its record, or scan it and add its people to `identities`."""
        folder = _folder(url)
        manifest = None if url.startswith("pipe:") else self._manifest(folder)
        record = self._records[folder].get(url.rpartition("/")[2]) if manifest else None
        if manifest is None or record is None:
            return self._scan(url, identities)
        if not is_remote(url):
            size = _size(local_path(url))
            if size != record.bytes:
                raise InputError(
                    f"{url}: {size} bytes, not {record.bytes} (manifest): copy or build it again"
                )
        return Shard(
            url=url,
            split=record.split,
            samples=record.samples,
            image_size=manifest.image_size,
            views=manifest.views,
            record=record,
            vae=manifest.latents_of,
        )

    def _scan(self, url: str, identities: dict[str, set[str]]) -> Shard:
        """Index a shard and read its properties; adds its people to `identities`."""
        try:
            path = self._cache.local(url)
        except InputError as error:
            if url.endswith(".tar"):
                raise
            raise InputError(f"{error}; the URL of a built folder ends in /") from error
        index = ShardIndex.scan(path)
        if not len(index):
            raise InputError(f"{url}: holds no samples")
        reader = ShardReader(1)
        try:
            meta, size = _first_sound_sample(path, index, reader)
            identities[meta.split] |= _identities(path, index, reader)
            vae = _vae(path, index, reader)
        except SampleError as error:
            raise InputError(f"{url}: not a shard of this project: {error}") from error
        except InputError as error:
            raise InputError(f"{url}: {error}") from error
        finally:
            reader.close()
        counts = list(map(usable_views, index.layouts))
        return Shard(url, meta.split, len(index), size, (min(counts), max(counts)), index=index, vae=vae)

    def _check_unique(self, shards: Sequence[Shard]) -> None:
        """Raise InputError if a sample is in two shards: for described shards, if two are the same file."""
        owner: dict[str, str] = {}
        for shard in shards:
            keys = shard.index.keys if shard.index else [shard.record.sha256] if shard.record else []
            for key in keys:
                if owner.setdefault(key, shard.url) != shard.url:
                    what = f"the sample {key} is in" if shard.index else "the same samples are in"
                    raise InputError(f"source {self.name}: {what} {owner[key]} and in {shard.url}")


def _folder(url: str) -> str:
    """The folder of a shard, ending in "/"."""
    folder, slash, _ = url.rpartition("/")
    return folder + slash if slash else "./"


def _first_sound_sample(path: Path, index: ShardIndex, reader: ShardReader) -> tuple[SampleMeta, int]:
    """The metadata and image side of the first undamaged sample. Raises the first SampleError if all are
    damaged."""
    first: SampleError | None = None
    for sample, key in enumerate(index.keys):
        members = index.members(sample)
        try:
            count = count_views(members)
            data = reader.read(path, members, (META, CAMERAS, view_name(0)))
            decode_cameras(data[CAMERAS], count)
            return decode_meta(data[META]), image_side(data[view_name(0)])
        except SampleError as error:
            first = first or SampleError(f"the sample {key}: {error}")
    raise first or SampleError("it holds no samples")


def _identities(path: Path, index: ShardIndex, reader: ShardReader) -> frozenset[str]:
    """The identities in a shard, without those of damaged samples."""
    found = set()
    for sample in range(len(index)):
        with contextlib.suppress(SampleError):
            found.add(decode_meta(reader.read(path, index.members(sample), (META,))[META]).identity)
    return frozenset(found)


def _vae(path: Path, index: ShardIndex, reader: ShardReader) -> str | None:
    """The fingerprint of the VAE of the first sample's latents."""
    members = index.members(0)
    with contextlib.suppress(SampleError):
        return fingerprint_of(reader.read(path, members, (LATENTS,))[LATENTS])
    return None


def usable_views(members: Iterable[str]) -> int:
    """The number of views of a sample with these members, 0 if some are missing."""
    try:
        return count_views(members)
    except SampleError:
        return 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
