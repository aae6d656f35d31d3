"""`diffportrait3d import-baseline KIND FILE… --out DIR`: the released files of a baseline → safetensors.

No code in the files is executed. The terms of the weights are printed and stored in the folder's card.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from core.errors import InputError, one_line
from core.files import whole_folder
from core.signals import EndAtOnce

if TYPE_CHECKING:  # what reads weights is imported when files are converted, so that help comes at once
    from baselines.folders import Card

KINDS = ("zero123", "triplanenet", "goae")


@dataclass(frozen=True)
class Imported:
    """The result of an import: a one-line description, and its card."""

    description: str
    card: "Card"


def import_zero123(checkpoint: Path, folder: Path, averaged: bool = True) -> Imported:
    """Convert an original Zero-1-to-3 checkpoint (`105000.ckpt`, …) into the new folder `folder`, in
    diffusers' layout. `averaged` takes the UNet's average over training where the file has one, as the demo
    does. Raises InputError."""
    with EndAtOnce():
        from baselines.folders import Card
        from baselines.zero123.checkpoint import networks_of
        from baselines.zero123.folder import KIND, save_networks
        from baselines.zero123.system import Zero123

    networks, average = networks_of(checkpoint, averaged)
    unet = "the average over training (EMA)" if average else "not averaged"
    card = Card(KIND, (checkpoint.name,), Zero123.licence, (f"UNet: {unet}",))
    with whole_folder(folder) as partial:
        save_networks(networks, partial, card)
    side = networks.image_size
    return Imported(f"Zero-1-to-3, {side}x{side}, UNet {unet}", card)


def import_triplanenet(network: Path, folder: Path, average: Path | None = None) -> Imported:
    """Convert `triplanenet_v2_final.pth` into the new folder `folder`. `average` is `ffhq512-128.pth`, which
    has the average style and the generator's settings. Raises InputError."""
    with EndAtOnce():
        from baselines.folders import Card, save_baseline
        from baselines.triplanenet.checkpoint import networks_of
        from baselines.triplanenet.system import KIND, TriPlaneNet

    encoders, generator, notes = networks_of(network, average)
    files = (network.name, *([average.name] if average else []))
    card = Card(KIND, files, TriPlaneNet.licence, tuple(notes))
    save_baseline(folder, card, encoders.state_dict(), generator, network.name)
    variant = "pixel shuffle" if encoders.triplanenet_encoder.pixel_shuffle else "nearest pixels"
    return Imported(f"TriPlaneNet v2, second encoder with {variant}", card)


def import_goae(encoder: Path, correction: Path, generator: Path, folder: Path) -> Imported:
    """Convert `encoder_FFHQ.pt` and `afa_FFHQ.pt`, with a generator's pickle or folder, into the new folder
    `folder`. Raises InputError."""
    with EndAtOnce():
        from baselines.folders import Card, save_baseline
        from baselines.goae.checkpoint import networks_of
        from baselines.goae.system import GOAE, KIND

    networks, own = networks_of(encoder, correction, generator)
    card = Card(KIND, tuple(path.name for path in (encoder, correction, generator)), GOAE.licence)
    save_baseline(folder, card, networks.state_dict(), own, generator.name)
    return Imported("GOAE on EG3D", card)


def run(chosen: Namespace) -> Imported:
    """Run the import that was chosen. Raises InputError."""
    folder = Path(chosen[chosen.kind].out)
    if folder.exists():
        raise InputError(f"--out {folder} exists already: remove it or choose another folder")
    options = chosen[chosen.kind]
    if chosen.kind == "zero123":
        return import_zero123(Path(options.checkpoint), folder, options.averaged)
    if chosen.kind == "triplanenet":
        average = Path(options.average) if options.average else None
        return import_triplanenet(Path(options.network), folder, average)
    return import_goae(Path(options.encoder), Path(options.correction), Path(options.generator), folder)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="diffportrait3d import-baseline",
        description="Convert the released files of a baseline. Nothing in them is executed.",
        exit_on_error=False,
    )
    kinds = parser.add_subcommands(dest="kind")
    zero123 = ArgumentParser(description="Zero-1-to-3.", exit_on_error=False)
    zero123.add_argument("checkpoint", type=str, help="105000.ckpt, 165000.ckpt, zero123-xl.ckpt, …")
    zero123.add_argument(
        "--averaged", type=bool, default=True, help="the UNet's average over training (EMA), if there is one"
    )
    triplanenet = ArgumentParser(description="TriPlaneNet v2.", exit_on_error=False)
    triplanenet.add_argument("network", type=str, help="triplanenet_v2_final.pth")
    triplanenet.add_argument(
        "--average", type=str, default=None, help="ffhq512-128.pth: latent_avg and the generator's settings"
    )
    goae = ArgumentParser(description="GOAE.", exit_on_error=False)
    goae.add_argument("encoder", type=str, help="encoder_FFHQ.pt")
    goae.add_argument("correction", type=str, help="afa_FFHQ.pt")
    goae.add_argument(
        "generator", type=str, help="ffhqrebalanced512-128.pkl, or the folder that import-gan converted it to"
    )
    for name, sub in zip(KINDS, (zero123, triplanenet, goae), strict=True):
        sub.add_argument("--out", type=str, required=True, help="the folder to write; it must not exist yet")
        kinds.add_subcommand(name, sub)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    try:
        chosen = _parser().parse_args(arguments)
    except ArgumentError as error:
        raise InputError(" ".join(str(error).split())) from error
    made = run(chosen)
    print(f"{chosen[chosen.kind].out}: {made.description}")
    for note in made.card.notes:
        print(f"note: {note}")
    print(f"terms: {made.card.licence}")


if __name__ == "__main__":
    with one_line():
        main()
