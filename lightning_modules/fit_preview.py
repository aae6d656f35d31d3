"""Fit a model's preview decoder, a linear one, to its VAE by least squares: a few seconds, a few kB.

`python -m lightning_modules.fit_preview --model checkpoints/mini --data tests/data/people --split val` writes
`preview_decoder/` into the model folder, for `synthesize --decoder preview`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jsonargparse import ArgumentParser
from torch import Tensor
from tqdm import tqdm

from core.errors import InputError, one_line
from core.files import whole_folder
from core.model_folders import save_model
from core.shipped import find_shipped
from datamodules.pool import read_images
from lightning_modules.networks.portrait import PREVIEW_DECODER
from lightning_modules.networks.pretrained import Backbone, load_backbone
from lightning_modules.networks.preview import fit_decoder
from lightning_modules.sampling import latents
from portraits.pixels import levels_to_pixels
from shards.manifest import Manifest
from shards.schema import Split

BATCH = HELD_OUT = 16


def fit_preview(
    model: str,
    data: str = "shards/built/synthetic",
    split: Split = "train",
    images: int = 2000,
    kernel: int = 3,
) -> None:
    """Write the decoder, and print how near its images are to the VAE's.

    Args:
        model: a model folder, which gets `preview_decoder/`; one that is there is replaced
        data: a built folder of its image size
        split: split of the images
        images: number of images that it is fitted to, at most; further ones measure it
        kernel: side of the convolution, odd

    Raises InputError if the data do not fit the model.
    """
    folder, backbone = find_shipped(model), load_backbone(model)
    size, wanted = Manifest.load(Path(data)).image_size, backbone.unet.config.sample_size
    if size != wanted * backbone.downsampling:
        raise InputError(
            f"{data} has images of {size} pixels; {folder} is for {wanted * backbone.downsampling}"
        )
    if kernel < 1 or kernel % 2 == 0:
        raise InputError(f"--kernel {kernel}: give an odd number")
    rows = read_images(Path(data), split).rows[: images + HELD_OUT]
    if len(rows) < 2 * HELD_OUT:
        raise InputError(f"{data} has {len(rows)} images of {split}: give {2 * HELD_OUT} or more")
    decoder = fit_decoder(_pairs(backbone, rows[HELD_OUT:]), backbone.downsampling, kernel)
    encoded = latents.encode(backbone.vae, rows[:HELD_OUT], BATCH)
    made, exact = (latents.decode(network, encoded, BATCH) for network in (decoder, backbone.vae))
    with whole_folder(folder / PREVIEW_DECODER, replace=True) as place:
        save_model(decoder, place, torch.float16)
    psnr = -10 * ((made - exact).div(2).square().mean()).log10()
    print(
        f"{folder / PREVIEW_DECODER}: fitted to {len(rows) - HELD_OUT} images; {psnr:.1f} dB PSNR against the"
        f" VAE's images on {HELD_OUT} others"
    )


def _pairs(backbone: Backbone, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of latents (N, 4, H, W) in F's scale and images (N, 3, S, S) in [-1, 1]."""
    for levels in tqdm(rows.split(BATCH), desc="encode", unit="batch"):
        yield latents.encode(backbone.vae, levels, BATCH), levels_to_pixels(levels)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Raises InputError."""
    parser = ArgumentParser(
        prog="diffportrait3d fit-preview", description="Fit a model's small decoder for previews."
    )
    parser.add_function_arguments(fit_preview)
    fit_preview(**parser.parse_args(arguments).as_dict())


if __name__ == "__main__":
    with one_line():
        main()
