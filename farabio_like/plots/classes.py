"""Pictures of classes: confusion matrices and bars."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from .curves import _panels
from .figure import can_be_drawn, label, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST_CELLS = 30  # classes of a confusion matrix with names and counts


def confusion_matrix(matrix: Tensor, class_names: Sequence[str] | None = None) -> Figure:
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
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"confusion_matrix got the shape {tuple(matrix.shape)}; expected (C, C).")
    classes = len(matrix)
    names = class_labels(class_names, classes, "confusion_matrix")
    counts = matrix.detach().cpu()
    share = counts.double() / counts.sum(1, keepdim=True).clamp_min(1e-12)
    side = 2.5 + 0.5 * min(classes, MOST_CELLS)
    margin = 0.07 * max(map(len, names), default=0) if classes <= MOST_CELLS else 0
    figure = new_figure(side + margin + 1, side + margin)
    panel = figure.subplots()
    picture = panel.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(picture, ax=panel, label="share of the true class", shrink=0.9, aspect=25)
    panel.set_xlabel("predicted")
    panel.set_ylabel("true")
    if classes <= MOST_CELLS:
        panel.set_xticks(range(classes), names, rotation=90 if max(map(len, names), default=0) > 3 else 0)
        panel.set_yticks(range(classes), names)
        for row, column in itertools.product(range(classes), repeat=2):
            colour = "white" if share[row, column] > 0.5 else "black"
            count = counts[row, column].item()
            text = f"{count:g}" if count < 1e5 else f"{count:.2g}"
            panel.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    return figure


def class_bars(metrics: Mapping[str, Sequence[float]], class_names: Sequence[str] | None = None) -> Figure:
    """Draw the values of metrics for every class as bars, a panel for each metric, class 0 on top.

    Parameters
    ----------
    metrics : mapping of str to sequence of float
        A value that is not finite, or huge, is written instead of a bar.
    class_names : sequence of str, optional
        One per class; default: the numbers from 0 on.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        For another number of names.
    """
    from matplotlib.ticker import MaxNLocator

    most = max((len(values) for values in metrics.values()), default=1)
    named = most <= 2 * MOST_CELLS
    height = 1.0 + (0.24 * most if named else 8.0)
    figure, axes = _panels(len(metrics), 4.2, height)
    for axis, (metric, values) in zip(axes, metrics.items(), strict=False):
        names = class_labels(class_names, len(values), "class_bars")
        finite = [value if can_be_drawn(value) else 0.0 for value in values]
        places = range(len(values))
        axis.barh(places, finite, color="C0", height=0.75 if named else 1.0)
        low, high = min([0.0, *finite]), max([0.0, *finite])
        high = 1.0 if low == 0 and high <= 1 else high  # a share of the whole
        room = 0.2 * (high - low)
        axis.set_xlim(low - (room if low < 0 else 0), high + room)
        axis.set_ylim(len(values) - 0.5, -0.5)
        if named:
            axis.set_yticks(places, names, fontsize=9)
            for place, value in zip(places, values, strict=True):
                end = value if can_be_drawn(value) else 0.0
                text = f" {value:.3g} "
                axis.text(end, place, text, va="center", ha="right" if end < 0 else "left", fontsize=8)
        else:
            axis.set_ylabel("class")
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.set_title(label(metric), fontsize=11)
        axis.grid(axis="x", alpha=0.3)
    return figure


def class_labels(class_names: Sequence[str] | None, classes: int, where: str) -> list[str]:
    """Return a short label for every class: its name, or its number.

    Raises
    ------
    ValueError
        For another number of names than classes.
    """
    if class_names is None:
        return [str(number) for number in range(classes)]
    if len(class_names) != classes:
        raise ValueError(f"{where} got {len(class_names)} class_names for {classes} classes.")
    return [label(str(name)) for name in class_names]
