"""`python -m shards.cache_latents DIR --vae BACKBONE --out DIR`: add the VAE's latents to shards.

Writes a copy of the built folder in which each sample has a `latents.npz`, so that training does not encode
the same images in every epoch. The file holds the fingerprint of the VAE and is used only with that VAE.
"""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from core.destination import STAGING_HELP, Destination, is_url
from core.engine import THIS_PROCESS, EngineOptions
from core.errors import InputError, one_line
from core.signals import EndAtOnce
from shards.latents import BATCH
from shards.manifest import Manifest


def make_parser() -> ArgumentParser:
    """The command's parser."""
    parser = ArgumentParser(
        prog="diffportrait3d cache-latents", description="Add the VAE's latents to shards."
    )
    parser.add_argument("shards", type=str, help="a built folder")
    parser.add_argument("--vae", type=str, required=True, help="the Stable Diffusion folder of the VAE")
    parser.add_argument(
        "--out",
        type=str,
        required=True,
        help="the folder to write, which must not exist; or a URL that it is moved to (s3://, gs://, file://)",
    )
    parser.add_argument("--staging", type=str | None, help=STAGING_HELP)
    parser.add_argument("--batch", type=int, default=BATCH, help="images encoded at a time")
    parser.add_argument(
        "--device", type=str | None, help="cpu, cuda, cuda:1 …, mps; by default a GPU, if any"
    )
    parser.add_class_arguments(EngineOptions)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    chosen = make_parser().parse_args(arguments)
    options = EngineOptions.take(chosen.as_dict())
    folder, destination = Path(chosen.shards), Destination.of(chosen.out, chosen.staging)
    if chosen.batch < 1:
        raise InputError(f"--batch {chosen.batch}: give 1 or more")
    if destination.url is None and destination.folder.exists():
        raise InputError(f"{destination} exists already: choose another --out")
    destination.check_vacant()
    if is_url(chosen.shards):
        raise InputError(f"{chosen.shards}: only a folder is read; copy the shards to one first")
    device = options.cluster_device(chosen.device) if options.on_ray else None
    Manifest.load(folder)
    with EndAtOnce():
        from shards.latent_cache import cache, load_vae  # torch, diffusers: seconds

    vae = load_vae(chosen.vae, "cpu" if options.on_ray else chosen.device)
    manifest = cache(folder, destination, vae, chosen.batch, options.cluster() or THIS_PROCESS, device)
    print(f"{destination}: latents of the VAE {manifest.latents_of} in {len(manifest.shards)} shards")


if __name__ == "__main__":
    with one_line():
        main()
