"""Pictures of a run: curves of its history, grids of images. Figures only, no pyplot, no window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 9


def curves(history: Sequence[dict[str, Any]], best_epoch: int | None = None) -> Figure:
    """Draw every metric of a history over the epochs, train and valid in one panel.

    Parameters
    ----------
    history : sequence of dict
        As `ConvnetTrainer.train` returns it.
    best_epoch : int, optional
        Marked by a vertical line.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = list(
        dict.fromkeys(name for entry in history for part in ("train", "valid") for name in entry.get(part, {}))
    )
    names = [
        name
        for name in names
        if any(_is_number(entry.get(part, {}).get(name)) for entry in history for part in ("train", "valid"))
    ]
    names = names[:MOST_PANELS]
    columns = max(1, min(len(names), 3))
    rows = max(1, math.ceil(len(names) / columns))
    figure = Figure(figsize=(4.5 * columns, 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for name, panel in zip(names, panels, strict=False):
        for part in ("train", "valid"):
            points = [(e["epoch"], e[part][name]) for e in history if _is_number(e.get(part, {}).get(name))]
            if points:
                panel.plot(*zip(*points, strict=True), label=part, marker="o", markersize=3)
        if best_epoch is not None:
            panel.axvline(best_epoch, color="0.7", linestyle="--", linewidth=1, zorder=0, label="best")
        panel.set_title(name)
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.3)
        panel.legend()
    for panel in list(figure.axes)[len(names) :]:
        panel.set_axis_off()
    return figure


def image_grid(
    images: torch.Tensor, titles: Sequence[str] | None = None, columns: int = 8, wrong: Sequence[bool] | None = None
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

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        For another shape.
    """
    from matplotlib.figure import Figure

    images = images.detach().cpu().float()
    if images.dim() == 4 and images.shape[1] in (1, 3):
        images = images.permute(0, 2, 3, 1).squeeze(-1) if images.shape[1] == 1 else images.permute(0, 2, 3, 1)
    elif images.dim() != 3:
        raise ValueError(
            f"image_grid got the shape {tuple(images.shape)}; expected (N, H, W), (N, 1, H, W) or (N, 3, H, W)."
        )
    rows = max(1, math.ceil(len(images) / columns))
    figure = Figure(figsize=(1.2 * columns, 1.4 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for index, panel in enumerate(panels):
        panel.set_axis_off()
        if index < len(images):
            image = images[index]
            low, high = image.min(), image.max()
            scaled = (image - low) / (high - low).clamp_min(1e-12)
            panel.imshow(scaled.numpy(), cmap="gray", interpolation="nearest")
            if titles is not None:
                panel.set_title(
                    titles[index], fontsize=9, color="crimson" if wrong is not None and wrong[index] else "black"
                )
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Save a figure as a picture; its folder is made when it is missing."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
