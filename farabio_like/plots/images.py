"""Grids of images, with masks and predictions."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .curves import TITLE_LINES, TITLE_WIDTH
from .figure import label, new_figure, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def image_grid(
    images: Tensor,
    titles: Sequence[str] | None = None,
    columns: int = 8,
    wrong: Sequence[bool] | None = None,
    masks: Tensor | None = None,
) -> Figure:
    """Draw a batch of images in a grid.

    Parameters
    ----------
    images : Tensor
        Shape (N, H, W), (N, 1, H, W) or (N, 3, H, W); any range, each image is scaled by its own extremes.
    titles : sequence of str, optional
        One per image.
    columns : int
    wrong : sequence of bool, optional
        Titles of these images are red.
    masks : Tensor, optional
        Shape (N, H, W) or (N, 1, H, W): the class of every pixel, laid over the image in colours. Class 0, the
        background, and negative numbers stay clear.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        For another shape.
    """
    images = _arranged(images)
    if masks is not None:
        masks = _fitting(masks, images)
    texts = [_wrapped(str(title)) for title in titles or ()]
    columns = max(1, min(columns, len(images)))
    rows = max(1, math.ceil(len(images) / columns))
    tall = min(max(images.shape[1] / max(images.shape[2], 1), 0.3), 3.0)
    lines = max((text.count("\n") + 1 for text in texts), default=0)
    figure = new_figure(1.25 * columns, (1.2 * tall + 0.16 * lines + 0.05) * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for index, panel in enumerate(panels):
        panel.set_axis_off()
        if index < len(images):
            panel.imshow(_scaled(images[index]).numpy(), cmap="gray", interpolation="nearest", vmin=0, vmax=1)
            if masks is not None:
                panel.imshow(_overlay(masks[index]), interpolation="nearest")
            if texts:
                colour = "crimson" if wrong is not None and wrong[index] else "black"
                panel.set_title(texts[index], fontsize=9, color=colour, pad=3)
    return figure


def prediction_grid(
    images: Tensor, predicted: Tensor, targets: Tensor, class_names: Sequence[str] | None = None, columns: int = 8
) -> Figure:
    """Draw images with the class that was predicted, in red with the true one where that is another.

    Parameters
    ----------
    images : Tensor
        As `image_grid` takes them.
    predicted, targets : Tensor
        Numbers of classes, shape (N,).
    class_names : sequence of str, optional
        Default: the numbers.
    columns : int

    Returns
    -------
    matplotlib.figure.Figure
    """
    pairs = list(zip(predicted.tolist(), targets.tolist(), strict=True))
    name = str if class_names is None else class_names.__getitem__
    titles = [name(p) if p == t else _mistake(name(p), name(t)) for p, t in pairs]
    return image_grid(images, titles, columns, [p != t for p, t in pairs])


def _wrapped(title: str) -> str:
    """Return a title in lines that fit above an image."""
    lines = textwrap.wrap(title, TITLE_WIDTH, max_lines=TITLE_LINES, placeholder="…")
    return "\n".join(label(line, TITLE_WIDTH) for line in lines)


def _mistake(predicted: str, true: str) -> str:
    """Return the title of an image that was mistaken: both names have their place in it."""
    text = f"{predicted}, is {true}"
    if len(textwrap.wrap(text, TITLE_WIDTH)) <= TITLE_LINES:
        return text
    most = TITLE_WIDTH - 1
    return f"{shorten(predicted, most)}, is {shorten(true, most)}"


def _arranged(images: Tensor) -> Tensor:
    """Return images of the shape (N, H, W) or (N, H, W, 3)."""
    given = tuple(images.shape)
    images = images.detach().cpu().float()
    if images.dim() == 3:
        return images
    if images.dim() == 4 and images.shape[1] in (1, 3):
        return images[:, 0] if images.shape[1] == 1 else images.permute(0, 2, 3, 1)
    raise ValueError(f"image_grid got the shape {given}; expected (N, H, W), (N, 1, H, W) or (N, 3, H, W).")


def _fitting(masks: Tensor, images: Tensor) -> Tensor:
    """Return the masks of such images in the shape (N, H, W)."""
    masks = masks.detach().cpu()
    masks = masks.squeeze(1) if masks.dim() == 4 else masks
    if masks.shape != images.shape[:3]:
        expected = tuple(images.shape[:3])
        raise ValueError(f"image_grid got masks of the shape {tuple(masks.shape)}; expected {expected}.")
    return masks


def _scaled(image: Tensor) -> Tensor:
    """Return an image between 0 and 1; what is not finite is 0."""
    there = image[image.isfinite()]
    low, high = (there.min(), there.max()) if there.numel() else (torch.tensor(0.0), torch.tensor(1.0))
    return ((image - low) / (high - low).clamp_min(1e-12)).nan_to_num(0.0, 1.0, 0.0).clamp(0, 1)


def _overlay(mask: Tensor) -> Any:
    """Return the colours, with their opacity, of a mask of classes."""
    from matplotlib import colormaps

    palette = torch.tensor([colormaps["tab10"](number)[:3] for number in range(10)])
    labels = mask.long()
    opacity = torch.where(labels > 0, 0.5, 0.0)
    return torch.cat([palette[(labels - 1) % len(palette)], opacity.unsqueeze(-1)], -1).numpy()
