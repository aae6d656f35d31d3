"""`python -m shards.inspect PATH`: count samples in shards, verify them, and draw a contact sheet."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jsonargparse import ArgumentParser
from tqdm import tqdm

from core.errors import InputError, one_line
from core.files import checksum
from core.lists import spread
from portraits.contact_sheet import picture_format, save_whole
from shards.catalog import Catalog, Shard
from shards.fetch import ShardCache, is_remote
from shards.frames import FrameSet
from shards.manifest import MANIFEST, Manifest, ShardRecord
from shards.sample_sheet import sample_sheet
from shards.schema import META, SPLITS, Sample, SampleError, count_views, decode, decode_meta


@dataclass
class Counts:
    """The counts of one source in one split."""

    frames: int = 0
    views: int = 0
    identities: set[str] = field(default_factory=set)


def count_frames(frames: FrameSet) -> tuple[dict[str, Counts], list[str]]:
    """The counts by source, and an error line for each damaged frame."""
    found: dict[str, Counts] = defaultdict(Counts)
    damaged = []
    for frame in map(frames.frame, range(len(frames))):
        try:
            views = count_views(frame.members)
            meta = decode_meta(frame.read((META,))[META])
        except SampleError as error:
            damaged.append(f"{frame.path.name}: {frame.key}: {error}")
            continue
        entry = found[meta.source]
        entry.frames += 1
        entry.views += views
        entry.identities.add(meta.identity)
    return found, damaged


def verify(folder: Path, records: Sequence[ShardRecord]) -> list[str]:
    """Verify the shards of a built folder, with a progress bar, and return an error line for each that is
    missing or differs from the manifest in size or checksum."""
    wrong = []
    with tqdm(total=sum(r.bytes for r in records), unit="B", unit_scale=True, desc="checksums") as bar:
        for record in records:
            path = folder / record.name
            if not path.is_file():
                wrong.append(f"{record.name} is missing")
            elif (size := path.stat().st_size) != record.bytes:
                wrong.append(f"{record.name} has {size} bytes, not {record.bytes}")
            elif checksum(path) != record.sha256:
                wrong.append(f"{record.name} has another checksum")
            bar.update(record.bytes)
    return wrong


def choose_samples(sets: Sequence[FrameSet], count: int) -> list[Sample]:
    """`count` evenly spaced samples. Raises InputError if one is damaged."""
    everything = [(frames, number) for frames in sets for number in range(len(frames))]
    samples = []
    for place in spread(len(everything), count):
        frames, number = everything[place]
        frame = frames.frame(number)
        try:
            samples.append(decode(frame.read(frame.members)))
        except SampleError as error:
            raise InputError(f"{frame.path}: {frame.key}: {error}") from error
    return samples


def make_parser() -> ArgumentParser:
    """The command's parser."""
    parser = ArgumentParser(
        prog="diffportrait3d inspect", description="Count samples in shards, and verify them."
    )
    parser.add_argument("path", type=str, help="a built folder, or shards: paths, globs, brace patterns")
    parser.add_argument("--sheet", type=str | None, help="write a contact sheet to this picture")
    parser.add_argument("--sheet_frames", type=int, default=6, help="number of frames on the contact sheet")
    parser.add_argument("--checksums", type=bool, default=True, help="verify the checksums in the manifest")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError after all counts are printed if something is damaged."""
    chosen = make_parser().parse_args(arguments)
    if is_remote(chosen.path):
        raise InputError(f"{chosen.path}: only local shards are inspected: copy them first")
    if chosen.sheet is not None:
        picture_format(Path(chosen.sheet))
        if chosen.sheet_frames < 1:
            raise InputError(f"--sheet_frames {chosen.sheet_frames}: give 1 or more")
    folder = Path(chosen.path)
    if (folder / MANIFEST).exists():
        _report_manifest(folder, Manifest.load(folder), chosen.checksums)
    cache = ShardCache(Path("shards/cache"), 0)
    catalog = Catalog(folder.name, chosen.path, cache)
    sets = [FrameSet(catalog.name, split, catalog.split(split), cache) for split in SPLITS]
    damaged = [message for frames in sets for message in _report_split(frames)]
    if chosen.sheet is not None:
        Path(chosen.sheet).parent.mkdir(parents=True, exist_ok=True)
        save_whole(sample_sheet(choose_samples(sets, chosen.sheet_frames)), Path(chosen.sheet))
        print(f"contact sheet: {chosen.sheet}")
    if damaged:
        raise InputError(f"{chosen.path}: {len(damaged)} damaged samples, the first: {damaged[0]}")


def _report_manifest(folder: Path, manifest: Manifest, checksums: bool) -> None:
    fewest, most = manifest.views
    views = str(most) if fewest == most else f"{fewest} to {most}"
    size = manifest.image_size
    print(
        f"{folder}: {manifest.source}, {size}x{size} pixels, {views} views, schema {manifest.schema_version}"
    )
    print("built with " + " ".join(f"{name}={value}" for name, value in manifest.settings.items()))
    if checksums and (wrong := verify(folder, manifest.shards)):
        raise InputError(
            f"{folder}: {len(wrong)} of {len(manifest.shards)} shards are damaged: {'; '.join(wrong)}"
        )


def _report_split(frames: FrameSet) -> list[str]:
    """Print the counts of a split, and return an error line for each damaged frame."""
    found, damaged = count_frames(frames)
    size = sum(_bytes(frames.shards)) / 1e6
    for source, entry in sorted(found.items()):
        print(
            f"{frames.split:5}  {source}: {entry.frames} frames, {len(entry.identities)} identities,"
            f" {entry.views} views; {len(frames.shards)} shards, {size:.1f} MB"
        )
    return damaged


def _bytes(shards: Iterable[Shard]) -> Iterable[int]:
    return (Path(shard.url).stat().st_size for shard in shards)


if __name__ == "__main__":
    with one_line():
        main()
