"""Manifests: round trip, and errors that name the file and the field."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import InputError
from shards.manifest import Manifest, ShardRecord

SHARD = {"name": "train-000000.tar", "split": "train", "samples": 2, "bytes": 90_000, "sha256": "0" * 64}
VALUES: dict[str, Any] = {
    "source": "fake",
    "image_size": 16,
    "views": [9, 12],
    "identities": {"train": ["a", "b"]},
    "shards": [SHARD],
    "settings": {"seed": 1, "nested": {"any": [None, 1.5]}},
    "schema_version": 1,
}


def test_manifest_round_trip(tmp_path: Path) -> None:
    manifest = Manifest.parse(json.dumps(VALUES).encode(), "manifest.json")
    assert manifest.views == (9, 12)
    assert manifest.shards == [ShardRecord(**SHARD)]
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema version 2, not 1"),
        ({"schema_version": None}, "schema version None"),
        ({"source": 5}, "source: "),
        ({"image_size": "16"}, "image_size: "),
        ({"image_size": 0}, "the image size is not"),
        ({"image_size": True}, "image_size: "),
        ({"image_size": 10**400}, "image size is not"),
        ({"views": [9]}, "views"),
        ({"views": [12, 9]}, "exceeds the largest"),
        ({"views": [9.5, 12]}, r"views\.0: "),
        ({"identities": ["a"]}, "identities: "),
        ({"identities": {"train": "ab"}}, r"identities\.train: "),
        ({"identities": {"all": []}}, "identities of the split 'all'"),
        ({"settings": None}, "settings: "),
        ({"shards": {}}, "shards: "),
        ({"shards": [SHARD, SHARD]}, "a shard is listed twice"),
        ({"shards": [{**SHARD, "name": "../a.tar"}]}, "is not a shard's file name"),
        ({"shards": [{**SHARD, "name": "a\0.tar"}]}, "is not a shard's file name"),
        ({"shards": [{**SHARD, "name": "x" * 5000}]}, "is not a shard's file name"),
        ({"shards": [{**SHARD, "split": "all"}]}, "the split 'all'"),
        ({"shards": [{**SHARD, "samples": -1}]}, "has an impossible number"),
        ({"shards": [{**SHARD, "bytes": 10**400}]}, "impossible number"),
        ({"shards": [{**SHARD, "bytes": 1e5}]}, r"shards\.0\.bytes: "),
        ({"shards": [{**SHARD, "sha256": None}]}, r"shards\.0\.sha256: "),
        ({"more": 1}, "more: "),
    ],
)
def test_invalid_values_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"^here.*{message}") as error:
        Manifest.parse(json.dumps({**VALUES, **changes}).encode(), "here")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    "content", [b"", b"[" * 100_000, b"\xff\xfe", b"null", b"[]", b'{"schema_version": 1}', b"<html>"]
)
def test_other_documents_are_refused(content: bytes) -> None:
    with pytest.raises(InputError, match=r"^here"):
        Manifest.parse(content, "here")
