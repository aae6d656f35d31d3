"""From what a person writes (folders, paths, globs, brace patterns, URLs) to the shards of a split."""

import contextlib
import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from webdataset.shardlists import expand_urls

from core.errors import InputError
from shards.fetch import ShardCache, fetch_bytes, is_remote, local_path
from shards.index import ShardIndex
from shards.latents import fingerprint_of
from shards.manifest import MANIFEST, Manifest, ShardRecord, disjoint
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


@dataclass(frozen=True)
class Shard:
    """One shard: where it is, its split and number of samples, the side of its images, and the largest number
    of views a frame of it has. `index` is there where it was read already; `vae` is the fingerprint of the
    VAE whose latents it holds, as far as its first frame or its manifest tells."""

    url: str
    split: str
    samples: int
    image_size: int
    views: int
    identities: frozenset[str]
    record: ShardRecord | None
    index: ShardIndex | None
    vae: str | None = None


class Catalog:
    """The shards behind one source's `urls`.

    `urls` names built folders (local or remote, ending in `/`), or shards one by one: paths, globs, brace
    patterns and URLs as WebDataset takes them. A manifest beside the shards tells what they hold; shards
    without one are scanned. Local shards are indexed at once, remote ones when they are first read. Raises
    InputError for everything that is not there, not whole, not of this schema, or mixes identities between
    splits."""

    def __init__(self, name: str, urls: str | Sequence[str], cache: ShardCache) -> None:
        self.name = name
        self._cache = cache
        self._manifests: dict[str, Manifest | None] = {}
        found = [shard for url in ([urls] if isinstance(urls, str) else urls) for shard in self._expand(url)]
        if not found:
            raise InputError(f"source {name}: no shards are named")
        if len(set(found)) != len(found):
            twice = next(url for url in found if found.count(url) > 1)
            raise InputError(f"source {name}: {twice} is named twice")
        self._urls = found

    @cached_property
    def shards(self) -> list[Shard]:
        """Every shard, in the order named."""
        shards = [self._open(url) for url in self._urls]
        identities: dict[str, set[str]] = {}
        for shard in shards:
            identities.setdefault(shard.split, set()).update(shard.identities)
        disjoint(identities, f"source {self.name}")
        self._refuse_repeats(shards)
        return shards

    def split(self, split: str) -> list[Shard]:
        """The shards of one split that hold samples."""
        return [shard for shard in self.shards if shard.split == split and shard.samples]

    def _expand(self, pattern: str) -> list[str]:
        try:
            urls = [pattern] if pattern.startswith("pipe:") and "{" not in pattern else expand_urls(pattern)
        except (AssertionError, ValueError) as error:
            raise InputError(f"source {self.name}: {pattern} does not expand ({error})") from error
        return [shard for url in urls for shard in self._listed(url)]

    def _listed(self, url: str) -> list[str]:
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
            shards = self._of_folder(path)
        elif path.exists():
            shards = [path]
        else:
            shards = [Path(match) for match in sorted(glob.glob(str(path)))]
        if not shards:
            raise InputError(
                f"source {self.name}: {url}: no such shards; see `python -m shards.build --help`"
            )
        return [str(shard) for shard in shards]

    def _of_folder(self, folder: Path) -> list[Path]:
        manifest = self._manifest(f"{folder}/")
        names = (
            sorted(p.name for p in folder.glob("*.tar"))
            if manifest is None
            else [r.name for r in manifest.shards]
        )
        return [folder / name for name in names]

    def _manifest(self, folder: str) -> Manifest | None:
        """The manifest in a folder (its URL, ending in `/`), None where there is none."""
        if folder not in self._manifests:
            self._manifests[folder] = self._load_manifest(folder)
        return self._manifests[folder]

    def _load_manifest(self, folder: str) -> Manifest | None:
        if not is_remote(folder):
            path = local_path(folder)
            return Manifest.load(path) if (path / MANIFEST).exists() else None
        try:
            data = fetch_bytes(folder + MANIFEST, MAX_MANIFEST_BYTES)
        except InputError:
            return None
        return Manifest.parse(data, folder + MANIFEST)

    def _open(self, url: str) -> Shard:
        folder, _, name = url.rpartition("/")
        manifest = None if url.startswith("pipe:") else self._manifest(f"{folder or '.'}/")
        record = next((r for r in manifest.shards if r.name == name), None) if manifest else None
        if manifest is None or record is None:
            return self._probe(url, None)
        if is_remote(url):
            return _promised(url, manifest, record)
        size = _size(local_path(url))
        if size != record.bytes:
            raise InputError(f"{url}: {size} bytes, its manifest says {record.bytes}: copy or build it again")
        shard = self._probe(url, record)
        if (shard.split, shard.samples) != (record.split, record.samples):
            raise InputError(f"{url}: not the shard its manifest describes: copy or build it again")
        return replace(shard, identities=frozenset(manifest.identities.get(record.split, ())))

    def _probe(self, url: str, record: ShardRecord | None) -> Shard:
        """Index a shard and look at what it holds."""
        path = self._cache.local(url)
        index = ShardIndex.scan(path)
        if not len(index):
            raise InputError(f"{url}: holds no samples")
        reader = ShardReader(1)
        try:
            meta, size = _first_whole_sample(path, index, reader)
            identities = _identities(path, index, reader) if record is None else frozenset[str]()
            vae = _vae(path, index, reader)
        except SampleError as error:
            raise InputError(f"{url}: not a shard of this project: {error}") from error
        except InputError as error:
            raise InputError(f"{url}: {error}") from error
        finally:
            reader.close()
        return Shard(url, meta.split, len(index), size, _most_views(index), identities, record, index, vae)

    def _refuse_repeats(self, shards: Sequence[Shard]) -> None:
        owner: dict[str, str] = {}
        for shard in shards:
            for key in shard.index.keys if shard.index else ():
                if owner.setdefault(key, shard.url) != shard.url:
                    raise InputError(
                        f"source {self.name}: the sample {key} is in {owner[key]} and in {shard.url}"
                    )


def _first_whole_sample(path: Path, index: ShardIndex, reader: ShardReader) -> tuple[SampleMeta, int]:
    """The meta data and image side of the first sample that is not damaged. Raises the first SampleError if
    all are."""
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
    """Who is in a shard; damaged samples left out."""
    found = set()
    for sample in range(len(index)):
        with contextlib.suppress(SampleError):
            found.add(decode_meta(reader.read(path, index.members(sample), (META,))[META]).identity)
    return frozenset(found)


def _vae(path: Path, index: ShardIndex, reader: ShardReader) -> str | None:
    """Whose latents the first frame has."""
    members = index.members(0)
    with contextlib.suppress(SampleError):
        return fingerprint_of(reader.read(path, members, (LATENTS,))[LATENTS])
    return None


def _most_views(index: ShardIndex) -> int:
    return max(map(views_of, index.layouts))


def views_of(layout: Iterable[str]) -> int:
    """How many views a sample with these members offers: 0 if it is not whole."""
    try:
        return count_views(layout)
    except SampleError:
        return 0


def _promised(url: str, manifest: Manifest, record: ShardRecord) -> Shard:
    identities = frozenset(manifest.identities.get(record.split, ()))
    return Shard(
        url,
        record.split,
        record.samples,
        manifest.image_size,
        manifest.views[1],
        identities,
        record,
        None,
        manifest.latents_of,
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
