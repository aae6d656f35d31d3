import torch

from callbacks.pictures import grid


def test_items_in_columns_pictures_side_by_side():
    values = torch.arange(6).float().div(5).mul(2).sub(1)  # 3 items of 2 pictures
    pictures = values.view(3, 2, 1, 1, 1).expand(3, 2, 3, 4, 4)
    image = grid(pictures, columns=2, upscale=2)
    assert image.size == (2 * 2 * 8, 2 * 8)
    shades = [[image.getpixel((8 * x + 4, 8 * y + 4))[0] for x in range(4)] for y in range(2)]
    assert shades == [[0, 51, 102, 153], [204, 255, 255, 255]]
