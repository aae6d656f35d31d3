"""Batches by position: in an endless stream for training, in a list of frames for evaluation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from torch.utils.data import Dataset, IterableDataset, get_worker_info

from core.errors import InputError
from core.seeding import numpy_generator
from datamodules.order import EpochOrder, Mixture
from datamodules.reading import Batch, Item, ViewReader, collate, first_readable
from portraits.pixels import Images
from shards.frames import Frame, FrameSet
from shards.schema import SampleError


@dataclass(frozen=True)
class Stream:
    """The endless training stream over several sources, a function of the position.

    A damaged frame is replaced by the next readable one in the order of its source.
    """

    sources: tuple[FrameSet, ...]
    weights: tuple[float, ...]
    seed: int
    shuffle_shards: int
    reader: ViewReader

    def batch(self, positions: Sequence[int]) -> Batch:
        """The batch of these positions, with cached latents if all of its frames have them and with images
        otherwise. Raises InputError if too many frames of a source are damaged."""
        items = [self.item(position) for position in positions]
        if len({item.moments is None for item in items}) > 1:
            images = replace(self, reader=replace(self.reader, vae=None))
            items = [images.item(position) for position in positions]
        return collate(items)

    def item(self, position: int) -> Item:
        """The item at a position. Raises InputError if too many frames of its source are damaged."""
        source, turn = Mixture(self.weights, self.seed).turn(position)
        frames = self.sources[source]
        order = EpochOrder(frames.name, frames.counts, self.seed, self.shuffle_shards)
        item = first_readable(
            frames,
            lambda attempt: order.frame(turn + attempt),
            self.reader,
            lambda _: numpy_generator(self.seed, "views", position),
        )
        return replace(item, position=position)


class TrainBatches(IterableDataset[Batch | InputError]):
    """The endless batches of one rank, from position `start` of a stream.

    A global batch covers `batch_size * world_size` positions, of which each rank reads a contiguous slice.
    Worker w of n reads the batches w, w + n, …, which the loader yields in order. An InputError is returned
    as an item, so that the loader can raise it without the worker's traceback.
    """

    def __init__(self, stream: Stream, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.start = 0
        self._stream = stream
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size

    def __iter__(self) -> Iterator[Batch | InputError]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        return map(self.batch, count(first, step))

    def batch(self, number: int) -> Batch | InputError:
        """This rank's slice of the global batch `number`."""
        first = self.start + (number * self._world_size + self._rank) * self._batch_size
        try:
            return self._stream.batch(range(first, first + self._batch_size))
        except InputError as error:
            return error


class EvaluationBatches(Dataset[Batch | InputError]):
    """A fixed list of frames in batches of one size, the same for every seed and number of ranks.

    The views drawn from a frame are a function of its key. The last batches are padded with frames whose
    `valid` is False, so that all ranks have the same number of full batches; replacements of damaged frames
    are also not valid.

    With `others`, each item also has the references of another person: those of the next frame in the list
    with another identity, so that the pairing depends on neither batches nor ranks.
    """

    def __init__(
        self,
        frames: Sequence[tuple[FrameSet, int]],
        reader: ViewReader,
        batch_size: int,
        world_size: int = 1,
        others: bool = False,
    ) -> None:
        self._others = others
        self._identities: dict[int, str | None] = {}
        self._frames = list(frames)
        self._reader = reader
        self._batch_size = batch_size
        batches = -(-len(self._frames) // batch_size)
        self._batches = -(-batches // world_size) * world_size

    def __len__(self) -> int:
        return self._batches

    def __getitem__(self, number: int) -> Batch | InputError:
        if not 0 <= number < self._batches:
            raise IndexError(number)
        first = number * self._batch_size
        try:
            return collate([self._item(place) for place in range(first, first + self._batch_size)])
        except InputError as error:
            return error

    def _item(self, place: int) -> Item:
        frames, number = self._frames[place % len(self._frames)]
        item = first_readable(
            frames,
            lambda attempt: (number + attempt) % len(frames),
            self._reader,
            lambda key: numpy_generator(0, "views", key),
        )
        fills = place >= len(self._frames)
        if self._others:
            other = self._other_reference(place, item.identity)
            item = replace(item, other_reference=other, other_valid=other is not None)
        return replace(
            item, position=place, valid=not (fills or item.skipped), skipped=[] if fills else item.skipped
        )

    def _other_reference(self, place: int, identity: str) -> Images | None:
        """The references of the next frame in the list with another identity; None if there is none."""
        for further in range(1, len(self._frames)):
            other = (place + further) % len(self._frames)
            if self._identity(other) in (identity, None):
                continue
            frame = self._frame(other)
            try:
                return self._reader.read_references(frame, numpy_generator(0, "views", frame.key))
            except SampleError:
                continue
        return None

    def _identity(self, place: int) -> str | None:
        """The identity of the frame at index `place` of the list; None if it is damaged."""
        if place not in self._identities:
            try:
                self._identities[place] = self._reader.identity(self._frame(place))
            except SampleError:
                self._identities[place] = None
        return self._identities[place]

    def _frame(self, place: int) -> Frame:
        frames, number = self._frames[place]
        return frames.frame(number)
