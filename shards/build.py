"""`python -m shards.build SOURCE … --out DIR`: capture or read frames and pack them into shards.

The options of a source are the parameters of its class. A new source is one line in `SOURCES`.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from jsonargparse import ActionConfigFile, ArgumentParser

from core.errors import InputError, one_line
from shards.builder import MAX_SKIPPED_SHARE, Source, build
from shards.manifest import Manifest
from shards.schema import SPLITS
from shards.writer import MAX_SHARD_BYTES

SOURCES = {
    "synthetic": "shards.sources.synthetic.SyntheticCapture",
    "nersemble": "shards.sources.nersemble.source.NersembleCapture",
    "panohead": "shards.sources.generated.PanoHeadGenerator",
    "eg3d": "shards.sources.generated.EG3DGenerator",
    "labelled": "shards.sources.labelled.LabelledFolder",
    "wild": "shards.sources.wild.WildPortraits",
}
PROCESSES = "worker processes; by default one per core, or one per GPU for what a GPU renders"


def make_parser(sources: Mapping[str, str]) -> ArgumentParser:
    """The command's parser: a subcommand for each source, whose options are the parameters of the class at
    the import path."""
    parser = ArgumentParser(prog="python -m shards.build", description="Build a folder of WebDataset shards.")
    commands = parser.add_subcommands(dest="source", metavar="SOURCE")
    for name, path in sources.items():
        command = ArgumentParser(description=f"Build shards from the {name} source.")
        command.add_class_arguments(source_class(path))
        command.add_argument("--out", type=str, required=True, help="the folder to make; it must not exist")
        command.add_argument("--processes", type=int, help=PROCESSES)
        command.add_argument(
            "--max_shard_mb", type=int, default=MAX_SHARD_BYTES >> 20, help="largest size of a shard in MB"
        )
        command.add_argument(
            "--max_skipped_share",
            type=float,
            default=MAX_SKIPPED_SHARE,
            help="fail the build if more than this share of the frames is skipped",
        )
        command.add_argument("--config", action=ActionConfigFile, help="a YAML file of these options")
        commands.add_subcommand(name, command)
    return parser


def source_class(path: str) -> type[Source]:
    """The class at an import path."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def describe(manifest: Manifest) -> str:
    """What was built, a line for each split that has samples."""
    lines = [
        f"  {split}: {manifest.samples(split)} frames of {len(manifest.identities[split])} identities,"
        f" {len(manifest.of_split(split))} shards"
        for split in SPLITS
        if manifest.samples(split)
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, sources: Mapping[str, str] = SOURCES) -> None:
    """Run the command. Raises InputError."""
    parser = make_parser(sources)
    chosen = parser.instantiate(parser.parse_args(arguments))
    settings = chosen[chosen.source].as_dict()
    out, processes = Path(settings.pop("out")), settings.pop("processes")
    max_shard_mb, max_skipped_share = settings.pop("max_shard_mb"), settings.pop("max_skipped_share")
    settings.pop("config")
    if max_shard_mb < 1:
        raise InputError(f"--max_shard_mb {max_shard_mb}: give 1 or more")
    source = source_class(sources[chosen.source])(**settings)
    if processes is None:
        processes = getattr(source, "processes", None)
    manifest = build(source, out, processes, max_shard_mb << 20, max_skipped_share)
    print(f"{out}:\n{describe(manifest)}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_line():
        try:
            main()
        except KeyboardInterrupt:
            print("stopped; the same command goes on from here", file=sys.stderr)
            raise SystemExit(130) from None
