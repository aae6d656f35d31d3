"""Indices of shards, read when they are needed and kept on disk for every process of a machine."""

import hashlib
import json
import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from core.files import whole_file
from shards.index import ShardIndex

log = logging.getLogger(__name__)

ABOUT = "about"  # the only metadata, as safetensors writes several in a random order
MAX_OPEN = 256  # indices in a process's memory; one of 128 frames of 16 views takes 0.1 MB


class IndexCache:
    """The indices of shards whose number of samples is known from a manifest.

    An index is read from `folder` if it was computed there before, from the same state of the shard, by any
    process; otherwise the shard's tar is scanned, which takes about as long as reading a few frames. Without
    a folder, or where it cannot be written, indices are only kept in memory: the `MAX_OPEN` last used ones.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._open: OrderedDict[str, ShardIndex] = OrderedDict()

    def recent(self, url: str) -> ShardIndex | None:
        """The index of the shard `url` if it is in memory."""
        if url not in self._open:
            return None
        self._open.move_to_end(url)
        return self._open[url]

    def open(self, url: str, path: Path, state: str) -> ShardIndex:
        """The index of the shard `url`, whose local file is `path`. `state` changes whenever the shard does.

        Raises InputError if the shard is not a complete tar."""
        index = self._load(url, state)
        if index is None:
            index = ShardIndex.scan(path)
            self._save(url, state, index)
        if len(self._open) >= MAX_OPEN:
            self._open.popitem(last=False)
        self._open[url] = index
        return index

    def _file(self, url: str) -> Path | None:
        return (
            self._folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.index" if self._folder else None
        )

    def _load(self, url: str, state: str) -> ShardIndex | None:
        """The stored index of the shard in this state; None if there is none, or its file is damaged."""
        file = self._file(url)
        if file is None or not file.exists():
            return None
        try:
            with safe_open(file, framework="numpy") as stored:
                about = json.loads(stored.metadata()[ABOUT])
                if about["state"] != state:
                    return None
                keys, layouts = about["keys"], about["layouts"]
                arrays = {name: stored.get_tensor(name) for name in ("layout", "start", "spans")}
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is damaged (%s): the shard is indexed again", file, error)
            return None
        index = ShardIndex(keys, [tuple(names) for names in layouts], **arrays)
        return index if index.consistent else None

    def _save(self, url: str, state: str, index: ShardIndex) -> None:
        file = self._file(url)
        if file is None:
            return
        about = {"state": state, "keys": index.keys, "layouts": index.layouts}
        arrays: dict[str, NDArray[Any]] = {
            "layout": index.layout,
            "start": index.start,
            "spans": index.spans,
        }
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(file) as partial:
                save_file(arrays, partial, {ABOUT: json.dumps(about)})
        except OSError as error:
            log.warning("%s cannot be written (%s): every process indexes shards itself", file.parent, error)
            self._folder = None
