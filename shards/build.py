"""`python -m shards.build SOURCE … --out DIR`: capture or read frames and pack them into shards.

Every option of a source is a parameter of its constructor. A new source is one line in `SOURCES`.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import zip_longest
from pathlib import Path

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser

from core.errors import InputError, one_line
from shards.builder import MAX_SKIPPED_SHARE, Source, build
from shards.manifest import Manifest
from shards.schema import SPLITS
from shards.writer import MAX_SHARD_BYTES

SOURCES = {
    "synthetic": "shards.sources.synthetic.SyntheticCapture",
    "nersemble": "shards.sources.nersemble.source.NersembleCapture",
    "panohead": "shards.sources.panohead.PanoHeadFolder",
    "eg3d": "shards.sources.generated.EG3DGenerator",
    "wild": "shards.sources.wild.WildPortraits",
}
PROCESSES = "worker processes; by default one a core or, for what a GPU renders, one a GPU"
# Sources that an option turns into another one: panohead reads a folder; with --generator it makes people.
VARIANTS = {("panohead", "generator"): "shards.sources.generated.PanoHeadGenerator"}


def make_parser(sources: Mapping[str, str]) -> ArgumentParser:
    """The command's parser: a subcommand for each source name, its options from the class at the import
    path."""
    parser = ArgumentParser(prog="python -m shards.build", description="Build a folder of WebDataset shards.")
    commands = parser.add_subcommands(dest="source", metavar="SOURCE")
    for name, path in sources.items():
        command = ArgumentParser(description=f"Build shards from the {name} source.")
        command.add_class_arguments(source_class(path))
        command.add_argument("--out", type=str, required=True, help="the folder to make; it must not exist")
        command.add_argument("--processes", type=int, help=PROCESSES)
        command.add_argument(
            "--max_shard_mb", type=int, default=MAX_SHARD_BYTES >> 20, help="size bound of a shard"
        )
        command.add_argument(
            "--max_skipped_share",
            type=float,
            default=MAX_SKIPPED_SHARE,
            help="the share of skipped frames that fails the build",
        )
        command.add_argument("--config", action=ActionConfigFile, help="a YAML file of these options")
        commands.add_subcommand(name, command)
    return parser


def with_variants(sources: Mapping[str, str], arguments: Sequence[str]) -> dict[str, str]:
    """The sources, those exchanged whose option is among a command's arguments or in its YAML files. Raises
    InputError where such a file cannot be read."""
    given = given_options(arguments)
    return dict(sources) | {
        name: path for (name, option), path in VARIANTS.items() if name in sources and option in given
    }


def given_options(arguments: Sequence[str]) -> set[str]:
    """The names of a command's options, on its line or in the files of `--config`. Raises InputError."""
    names: set[str] = set()
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        option, assigned, value = argument.partition("=")
        if not option.startswith("--"):
            continue
        names.add(option.removeprefix("--"))
        if option == "--config":
            names |= _keys(Path(value if assigned else following))
    return names


def _keys(path: Path) -> set[str]:
    """The top-level names in a YAML file."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(
            f"--config {path}: cannot be read as YAML: {' '.join(str(error).split())}"
        ) from error
    return set(map(str, values)) if isinstance(values, dict) else set()


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
    arguments = sys.argv[1:] if arguments is None else arguments
    sources = with_variants(sources, arguments)
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
