"""Packing of captured units into the shards and the manifest of a built folder."""

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from core.errors import InputError
from shards.index import ShardIndex
from shards.manifest import Manifest, ShardRecord, check_disjoint
from shards.reader import read_members
from shards.schema import META, SPLITS, count_views, decode_meta, image_side, view_name
from shards.writer import Members, ShardPacker


class _Place(NamedTuple):
    key: str
    unit: Path
    contents: ShardIndex
    sample: int


def pack(
    units: Sequence[Path], folder: Path, source: str, settings: dict[str, Any], max_shard_bytes: int
) -> Manifest:
    """Pack the samples in the tars `units` into shards in `folder`, and write its manifest.

    Samples are ordered by a hash of their keys, so that streaming the shards in order mixes identities.
    Raises InputError for a key that is captured twice, and for an identity in two splits.
    """
    places = _places(units)
    if not places:
        raise InputError(f"{source}: no frame was captured")
    packers = {split: ShardPacker(folder, split, max_shard_bytes) for split in SPLITS}
    survey = _Survey()
    for place in tqdm(places, desc="pack", unit="frame", leave=False):
        members = read_members(place.unit, place.contents.members(place.sample))
        packers[survey.add(members)].add(place.key, members)
    for packer in packers.values():
        packer.close()
    manifest = survey.manifest(source, settings, [record for p in packers.values() for record in p.records])
    manifest.save(folder)
    return manifest


def _places(units: Sequence[Path]) -> list[_Place]:
    places: dict[str, _Place] = {}
    for unit in units:
        index = ShardIndex.scan(unit)
        for sample, key in enumerate(index.keys):
            if key in places:
                raise InputError(
                    f"the sample {key} is captured twice: instants of one sequence need different names"
                )
            places[key] = _Place(key, unit, index, sample)
    return sorted(places.values(), key=lambda place: sha256(place.key.encode()).digest())


class _Survey:
    """Collects the samples' properties for the manifest."""

    def __init__(self) -> None:
        self._identities: dict[str, set[str]] = defaultdict(set)
        self._views: set[int] = set()
        self._sizes: set[int] = set()

    def add(self, members: Members) -> str:
        """Add one sample and return its split."""
        meta = decode_meta(members[META])
        self._identities[meta.split].add(meta.identity)
        self._views.add(count_views(members))
        self._sizes.add(image_side(members[view_name(0)]))
        return meta.split

    def manifest(self, source: str, settings: dict[str, Any], shards: list[ShardRecord]) -> Manifest:
        """The manifest of all samples added."""
        if len(self._sizes) > 1:
            raise InputError(f"{source}: images of several sizes ({sorted(self._sizes)}) in one build")
        identities = {split: sorted(names) for split, names in sorted(self._identities.items())}
        check_disjoint(identities, source)
        return Manifest(
            source=source,
            image_size=self._sizes.pop(),
            views=(min(self._views), max(self._views)),
            identities=identities,
            shards=shards,
            settings=settings,
        )
