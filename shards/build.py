"""`python -m shards.build SOURCE … --out DIR`: render or read frames and pack them into shards.

The options of a source are the parameters of its class. A new source is one line in `SOURCES`.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from jsonargparse import ActionConfigFile, ArgumentParser

from core.errors import IncompleteError, one_line
from core.lists import shortened
from core.signals import EndAtOnce
from shards.build_plan import BuildOptions, BuildPlan, plan_build
from shards.builder import run_build
from shards.manifest import MANIFEST, Manifest
from shards.schema import SPLITS
from shards.skips import SKIPPED, load_skips
from shards.source import Source

SOURCES = {
    "synthetic": "shards.sources.synthetic.SyntheticCapture",
    "nersemble": "shards.sources.nersemble.source.NersembleCapture",
    "panohead": "shards.sources.generated.PanoHeadGenerator",
    "eg3d": "shards.sources.generated.EG3DGenerator",
    "labelled": "shards.sources.labelled.LabelledFolder",
    "wild": "shards.sources.wild.WildPortraits",
}
HELP = {
    "synthetic": "people of the built-in renderer",
    "nersemble": "a download of NeRSemble, in any of its layouts",
    "panohead": "people of a PanoHead generator",
    "eg3d": "people of an EG3D generator",
    "labelled": "a folder of images with EG3D camera labels",
    "wild": "a folder of photos, with estimated cameras, for testing",
}


def make_parser(sources: Mapping[str, str], chosen: str | None) -> ArgumentParser:
    """The command's parser, with a subcommand for each source.

    The options of a source are the parameters of the class at its import path. Only the class of the source
    `chosen` is imported, which takes seconds for each."""
    parser = ArgumentParser(prog="diffportrait3d build", description="Build a folder of WebDataset shards.")
    commands = parser.add_subcommands(dest="source", metavar="SOURCE")
    for name, path in sources.items():
        command = ArgumentParser(description=f"Build shards from {HELP.get(name, name)}.")
        if name == chosen:
            command.add_class_arguments(source_class(path))
            command.add_class_arguments(BuildOptions)
            command.add_argument("--config", action=ActionConfigFile, help="a YAML file of these options")
        commands.add_subcommand(name, command, help=HELP.get(name, name))
    return parser


def source_class(path: str) -> type[Source]:
    """The class at an import path."""
    module, _, name = path.rpartition(".")
    with EndAtOnce():
        return getattr(import_module(module), name)


def make_plan(arguments: Sequence[str] | None, sources: Mapping[str, str]) -> BuildPlan:
    """The plan of a command line. Raises InputError."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = make_parser(sources, arguments[0] if arguments else None)
    chosen = parser.instantiate(parser.parse_args(arguments))
    settings = chosen[chosen.source].as_dict()
    settings.pop("config")
    options = BuildOptions(**{name: settings.pop(name) for name in BuildOptions.__dataclass_fields__})
    return plan_build(source_class(sources[chosen.source])(**settings), options)


def describe(manifest: Manifest) -> str:
    """A summary with a line for each split that has samples."""
    lines = [
        f"  {split}: {manifest.samples(split)} frames of {len(manifest.identities[split])} identities,"
        f" {len(manifest.of_split(split))} shards"
        for split in SPLITS
        if manifest.samples(split)
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, sources: Mapping[str, str] = SOURCES) -> None:
    """Run the command.

    Raises InputError, and IncompleteError at the end if some of the user's files could not be used.
    """
    plan = make_plan(arguments, sources)
    manifest = run_build(plan)
    place = plan.destination
    skips = load_skips(place.folder / SKIPPED)
    place.deliver(MANIFEST)
    print(f"{place}:\n{describe(manifest)}")
    if plan.source.inputs is not None and skips:
        reasons = shortened([f"{skip.what}: {skip.reason}" for skip in skips], separator="; ")
        raise IncompleteError(
            f"{len(skips)} of {len(plan.units)} {plan.source.inputs} were left out; the others are in"
            f" {place}: {reasons} (all: {place}/{SKIPPED})"
        )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_line():
        try:
            main()
        except KeyboardInterrupt:
            print("stopped; run the same command again to resume", file=sys.stderr)
            raise SystemExit(130) from None
