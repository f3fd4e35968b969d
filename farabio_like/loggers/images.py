"""Tensors and figures as bytes of pictures, for loggers that take no tensors."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST_IMAGES = 64
SMALLEST = 64  # pixels of an image's longer side in a grid; smaller ones are enlarged
# Colours of a mask's classes: background black, then Okabe and Ito's, which colour-blind people tell apart.
_COLOURS = (
    *((0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0)),
    (204, 121, 167),
)


def as_bytes(images: Tensor) -> Tensor:
    """Return images as bytes of the shape (N, 3, H, W), at most `MOST_IMAGES` of them.

    Parameters
    ----------
    images : Tensor
        Shape (N, H, W), (N, 1, H, W) or (N, 3, H, W): floats from 0 to 1, bytes, or the classes of a mask.
    """
    images = images[:MOST_IMAGES]
    images = images.unsqueeze(1) if images.ndim == 3 else images
    if images.dtype == torch.bool:
        images = images.to(torch.uint8) * 255
    elif images.is_floating_point():
        images = (images.float().nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    elif images.dtype != torch.uint8 and images.shape[1] == 1:
        colours = torch.tensor(_COLOURS, dtype=torch.uint8)
        classes = images[:, 0].long()
        classes = torch.where(classes > 0, (classes - 1) % (len(_COLOURS) - 1) + 1, 0)
        images = colours[classes].permute(0, 3, 1, 2)
    return images.to(torch.uint8).expand(-1, 3, -1, -1)


def grid(images: Tensor) -> Tensor:
    """Return one picture, bytes of the shape (3, H, W), of a batch of images in rows."""
    images = as_bytes(images)
    number, _, height, width = images.shape
    if not number:
        return torch.zeros(3, 1, 1, dtype=torch.uint8)
    times = max(1, SMALLEST // max(height, width, 1))
    images = images.repeat_interleave(times, 2).repeat_interleave(times, 3)
    height, width = height * times, width * times
    columns = min(8, number)
    rows = math.ceil(number / columns)
    picture = torch.full((3, rows * (height + 2) + 2, columns * (width + 2) + 2), 255, dtype=torch.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + 2) + 2, index % columns * (width + 2) + 2
        picture[:, top : top + height, left : left + width] = image
    return picture


def png(picture: Tensor) -> bytes:
    """Return the PNG file of a picture, bytes of the shape (3, H, W)."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(file, format="PNG")
    return file.getvalue()


def figure_png(figure: Figure) -> bytes:
    """Return the PNG file of a figure."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
