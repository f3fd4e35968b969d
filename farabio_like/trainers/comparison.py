"""`ComparisonImages`: pictures of low resolution, bicubic, ours and high resolution side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import distributed
from ..callbacks.base import Callback
from ..checkpoint import write_durably
from ..loggers.images import png

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer

FOLDER = "samples"  # of a run
TITLES = ("low", "bicubic", "ours", "high")
LARGEST = 256  # pixels of the side of a panel: of a larger image the middle is shown
GAP, STRIP = 4, 16  # pixels between the panels, and above them for their names


def bicubic(images: Tensor, scale: int) -> Tensor:
    """Return images as a bicubic filter makes them larger, from 0 to 1: the one that papers compare with.

    That of MATLAB's ``imresize``, whose cubic has the parameter -0.5; torch has it with its antialiasing, which does
    nothing else where an image becomes larger.
    """
    size = [scale * length for length in images.shape[-2:]]
    return F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)


class ComparisonImages(Callback):
    """Writes a picture after every evaluation, into ``samples`` of the run folder and to the loggers.

    It has a row for each of the first images of the valid loader: the low resolution, with its pixels repeated, what a
    bicubic filter makes of it, what the network does, and the high resolution.

    Parameters
    ----------
    number : int
        Of rows; 0 for no picture.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._rows: list[Tensor] = []

    def listens_to(self, event: str) -> bool:
        """Cost nothing where no picture is asked for."""
        return self.number > 0

    def on_evaluate_epoch_start(self, trainer: ConvnetTrainer) -> None:
        """Begin a new picture."""
        self._rows = []

    def on_evaluate_batch_end(self, trainer: ConvnetTrainer) -> None:
        """Keep the first images."""
        if len(self._rows) >= self.number or not distributed.is_main():
            return
        batch = (trainer.inputs, trainer.outputs, trainer.targets)
        for low, ours, high in zip(*batch, strict=True):
            if len(self._rows) < self.number:
                self._rows.append(panels(low, ours, high))

    def on_evaluate_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Write the picture."""
        rows, self._rows = self._rows, []
        if not rows:
            return
        if trainer.run_dir is not None:
            picture = png(sheet(rows))
            path = trainer.run_dir / FOLDER / f"epoch-{trainer.epoch:04}.png"
            write_durably(path, lambda file: _write(file, picture))
        for title, images in zip(TITLES, zip(*rows, strict=True), strict=True):
            same = [image for image in images if image.shape == images[0].shape]
            trainer.loggers.images(f"{FOLDER}/{title}", torch.stack(same))


def panels(low: Tensor, ours: Tensor, high: Tensor) -> Tensor:
    """Return the four panels of an image, 4 x 3 x height x width from 0 to 1, of a large one the middle."""
    scale = high.shape[-1] // low.shape[-1]
    most = max(1, LARGEST // scale)
    box = []
    for length in low.shape[-2:]:
        start = max(0, (length - most) // 2)
        box.append(slice(start, min(length, start + most)))
    wider = [slice(scale * part.start, scale * part.stop) for part in box]
    low = low.float()
    larger = bicubic(low[None], scale)[0]
    repeated = low.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
    found = [image[:3, wider[0], wider[1]].float().cpu().clamp(0, 1) for image in (repeated, larger, ours, high)]
    return torch.stack([image if len(image) == 3 else image[:1].expand(3, -1, -1) for image in found])


def sheet(rows: list[Tensor]) -> Tensor:
    """Return one picture of rows of panels, bytes of 3 x height x width, with the names of the panels above."""
    from PIL import Image, ImageDraw

    widest = max(row.shape[-1] for row in rows)
    height = STRIP + sum(row.shape[-2] + GAP for row in rows) - GAP
    picture = Image.new("RGB", (len(TITLES) * (widest + GAP) - GAP, height), "white")
    draw = ImageDraw.Draw(picture)
    top = STRIP
    for number, title in enumerate(TITLES):
        draw.text((number * (widest + GAP) + 2, 2), title, fill="black")
    for row in rows:
        for number, panel in enumerate((row * 255).round().byte().permute(0, 2, 3, 1).numpy()):
            picture.paste(Image.fromarray(panel), (number * (widest + GAP), top))
        top += row.shape[-2] + GAP
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _write(file: Any, content: bytes) -> None:
    file.write(content)
