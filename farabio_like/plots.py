"""Pictures of a run: curves of its history, grids of images, confusion matrices. Figures only, no pyplot, no window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 9
MOST_CELLS = 30  # classes of a confusion matrix with names and counts


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


def confusion_matrix(matrix: torch.Tensor, class_names: Sequence[str] | None = None) -> Figure:
    """Draw a confusion matrix: row 0 on top, rows the true class, columns the predicted one.

    Parameters
    ----------
    matrix : Tensor
        Counts, shape (C, C). They are written into the cells, up to `MOST_CELLS` classes; the colour is their
        share of the row.
    class_names : sequence of str, optional
        One per class; default: the numbers from 0 on.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        For another shape, or another number of names.
    """
    from matplotlib.figure import Figure

    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"confusion_matrix got the shape {tuple(matrix.shape)}; expected (C, C).")
    classes = len(matrix)
    names = [str(number) for number in range(classes)] if class_names is None else list(class_names)
    if len(names) != classes:
        raise ValueError(f"confusion_matrix got {len(names)} class_names for {classes} classes.")
    counts = matrix.detach().cpu()
    share = counts.double() / counts.sum(1, keepdim=True).clamp_min(1e-12)
    side = 2.5 + 0.5 * min(classes, MOST_CELLS)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    panel = figure.subplots()
    picture = panel.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(picture, ax=panel, label="share of the true class")
    panel.set_xlabel("predicted")
    panel.set_ylabel("true")
    if classes <= MOST_CELLS:
        panel.set_xticks(range(classes), names, rotation=90 if max(map(len, names)) > 3 else 0)
        panel.set_yticks(range(classes), names)
        for row in range(classes):
            for column in range(classes):
                colour = "white" if share[row, column] > 0.5 else "black"
                count = counts[row, column].item()
                text = f"{count:g}" if count < 1e5 else f"{count:.2g}"
                panel.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Save a figure as a picture; its folder is made when it is missing."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
