"""Contact sheets of samples: views above their condition images."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from core.lists import spread
from portraits.cameras import angles
from portraits.contact_sheet import Band, camera_captions, stack
from shards.schema import Sample


def sample_sheet(samples: Sequence[Sample], columns: int = 8, side: int = 128) -> Image.Image:
    """For each sample, `columns` of its views in order of yaw, with their conditions below and yaw and pitch
    in degrees as captions. Tiles are `side` pixels wide; samples with few views are drawn side by side."""
    bands = [_band(sample, columns) for sample in samples]
    across = max(1, columns // max(band.columns for band in bands))
    return stack(bands, side, across=across)


def _band(sample: Sample, columns: int) -> Band:
    order = np.argsort(angles(sample.cameras)[:, 0])
    chosen = [order[place] for place in spread(len(order), columns, ends=True)]
    rows = {
        name: [Image.fromarray(images[view]) for view in chosen]
        for name, images in (("views", sample.views), ("conditions", sample.conditions))
    }
    return Band(rows, camera_captions(sample.cameras[chosen]), f"{sample.key}  ({sample.meta.split})")
