import numpy as np
import torch

from portraits.pixels import to_images, to_pixels


def test_pixels_round_trip_every_level():
    images = np.arange(2 * 16 * 8 * 3, dtype=np.int64).astype(np.uint8).reshape(2, 16, 8, 3)
    pixels = to_pixels(images)
    assert pixels.shape == (2, 3, 16, 8)
    assert pixels.dtype == torch.float32
    assert (pixels.min().item(), pixels.max().item()) == (-1.0, 1.0)
    np.testing.assert_array_equal(to_images(pixels), images)
    np.testing.assert_array_equal(to_images(pixels.double()), images)


def test_to_images_clamps_and_rounds():
    pixels = torch.tensor([-1.5, -0.999, 0.001, 1.2]).expand(3, 4).unsqueeze(0)
    assert to_images(pixels.movedim(1, 0))[0, :, 0].tolist() == [0, 0, 128, 255]
