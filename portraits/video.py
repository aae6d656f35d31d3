"""Writing of views as an MP4 video (H.264)."""

from collections.abc import Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from core.errors import InputError
from core.files import whole_file

SMALLEST_SIDE = 256  # pixels; smaller views are enlarged by an integer factor
QUALITY = 8  # on imageio-ffmpeg's scale of 0 to 10


def check_video() -> None:
    """Raise InputError if imageio-ffmpeg, which writes videos, is not installed."""
    if find_spec("imageio_ffmpeg") is None:
        raise InputError("writing an MP4 needs one more package: pip install imageio-ffmpeg")


def write_video(path: Path, images: Sequence[Image.Image], fps: float) -> None:
    """Write RGB images (S, S) atomically as an MP4 of `fps` frames a second."""
    from imageio_ffmpeg import write_frames

    side = images[0].width * max(1, -(-SMALLEST_SIDE // images[0].width))
    # 4:2:0 chroma subsampling needs even sides; a macro block size of 2 avoids any other resizing
    options = {"fps": fps, "quality": QUALITY, "macro_block_size": 2, "output_params": ["-f", "mp4"]}
    with whole_file(path) as partial, closing(write_frames(str(partial), (side, side), **options)) as writer:
        writer.send(None)
        for image in images:
            shown = image.resize((side, side), Image.Resampling.BICUBIC)
            writer.send(np.ascontiguousarray(shown.convert("RGB")))
