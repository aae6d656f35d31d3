"""`diffportrait3d import-gan NETWORK.pkl --out DIR`: convert a published EG3D or PanoHead network."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from core.errors import InputError, one_line
from generators.gan.checkpoint import generator_of
from generators.gan.folder import save_generator
from generators.gan.generator import Generator


def import_gan(network: Path, folder: Path) -> None:
    """Convert a published EG3D or PanoHead network pickle into the new generator folder `folder`. No code in
    the pickle is executed. Raises InputError."""
    if folder.exists():
        raise InputError(f"--out {folder} exists already: remove it or choose another folder")
    generator = generator_of(network)
    save_generator(generator, folder, network.name)
    print(f"{folder}: {describe(generator)}")


def describe(generator: Generator) -> str:
    """A generator's kind, size and rendering settings, in one line."""
    architecture, settings = generator.architecture, generator.settings
    millions = sum(x.numel() for x in generator.state_dict().values()) / 1e6
    return (
        f"{settings.kind}, {millions:.1f} M parameters, {architecture.size}x{architecture.size} from "
        f"{settings.rendering}x{settings.rendering} rendered with {settings.coarse} + {settings.fine} depths"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = ArgumentParser(
        prog="diffportrait3d import-gan",
        description="Convert a published EG3D or PanoHead network into a folder of safetensors and JSON.",
    )
    parser.add_argument(
        "network", type=str, help="the pickle: ffhqrebalanced512-128.pkl, easy-khair-….pkl, …"
    )
    parser.add_argument("--out", type=str, required=True, help="the folder to write; it must not exist yet")
    chosen = parser.parse_args(arguments)
    import_gan(Path(chosen.network), Path(chosen.out))


if __name__ == "__main__":
    with one_line():
        main()
