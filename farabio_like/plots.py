"""Pictures of a run: curves, grids of images, confusion matrices, bars. Figures only, no pyplot, no window."""

from __future__ import annotations

import itertools
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PANELS = 9
MOST_CELLS = 30  # classes of a confusion matrix with names and counts
LONGEST_NAME = 28  # characters of a class or a metric
LONGEST_LABEL = 20  # of a line in a legend, which lies in its panel
TITLE_WIDTH, TITLE_LINES = 14, 3  # characters of a line above an image, and how many of them
LOG_FACTOR = 100
COLOURS = {"train": "C0", "valid": "C1"}


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches, whose parts make room for each other."""
    from .figure import Picture

    return Picture(figsize=(width, height), layout="constrained")


def curves(history: Sequence[dict[str, Any]], best_epoch: int | None = None) -> Figure:
    """Draw every metric of a history over the epochs, train and valid in one panel.

    The learning rate has a panel where it changes. An axis is logarithmic where `is_logarithmic` says so.

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
    found = metric_names(history)
    panels = [(name, {part: points_of(history, part, name) for part in COLOURS}) for name in found[:MOST_PANELS]]
    rates = _rates(history)
    if any(len({rate for _, rate in points}) > 1 for points in rates.values()) and len(panels) < MOST_PANELS:
        panels.append(("learning rate", rates))
    figure, axes = _panels(len(panels), 4.5, 3.4)
    drawn: dict[str, Any] = {}
    for axis, (name, lines) in zip(axes, panels, strict=False):
        for number, (label, points) in enumerate(lines.items()):
            if points:
                colour = COLOURS.get(label, f"C{number % 10}")
                drawn[label] = _line(axis, points, label=shorten(label, LONGEST_LABEL), color=colour)
        if best_epoch is not None:
            drawn["best"] = axis.axvline(best_epoch, color="0.7", ls="--", lw=1, zorder=0, label="best")
        _finish_curves(axis, name, lines.values())
        if lines.keys() != COLOURS.keys() and len(lines) > 1:  # of several learning rates
            axis.legend(loc="best" if len(history) <= 1000 else "upper right")
    labels = [label for label in (*COLOURS, "best") if label in drawn]
    if labels:  # one for all panels, where it covers no line
        figure.set_figheight(figure.get_figheight() + 0.25)
        figure.legend([drawn[label] for label in labels], labels, loc="outside upper center", ncols=len(labels))
    if len(found) > MOST_PANELS:
        figure.supxlabel(f"and {len(found) - MOST_PANELS} more metrics in the history", fontsize=9)
    return figure


def comparison(histories: Mapping[str, Sequence[dict[str, Any]]], names: Sequence[str]) -> Figure:
    """Draw metrics of several runs, a panel for each: the valid values, or the train ones where there are no others.

    Parameters
    ----------
    histories : mapping of str to sequence of dict
        By the name of the run.
    names : sequence of str
        Of the metrics; the first `MOST_PANELS` are drawn.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = _panels(min(len(names), MOST_PANELS), 5, 3.6)
    styles = ("-", "--", ":", "-.")
    drawn = {}
    for axis, name in zip(axes, names, strict=False):
        lines = []
        for number, (run, history) in enumerate(histories.items()):
            points = points_of(history, "valid", name) or points_of(history, "train", name)
            if points:
                style = styles[number // 10 % len(styles)]
                drawn[run] = _line(axis, points, color=f"C{number % 10}", linestyle=style)
                lines.append(points)
        _finish_curves(axis, name, lines)
    if drawn:
        labels = [shorten(run, 60) for run in drawn]
        columns = max(1, min(len(labels), int(figure.get_figwidth() * 11 / (max(map(len, labels)) + 8))))
        rows = math.ceil(len(labels) / columns)
        figure.set_figheight(figure.get_figheight() + 0.22 * rows)
        figure.legend(list(drawn.values()), labels, loc="outside lower center", ncols=columns, fontsize=9)
    return figure


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
    texts = [textwrap.fill(str(title), TITLE_WIDTH, max_lines=TITLE_LINES, placeholder="…") for title in titles or ()]
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
        A value that is not finite is written instead of a bar.
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
        finite = [value if math.isfinite(value) else 0.0 for value in values]
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
                end = value if math.isfinite(value) else 0.0
                text = f" {value:.3g} " if math.isfinite(value) else f" {value} "
                axis.text(end, place, text, va="center", ha="right" if end < 0 else "left", fontsize=8)
        else:
            axis.set_ylabel("class")
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.set_title(shorten(metric), fontsize=11)
        axis.grid(axis="x", alpha=0.3)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Save a figure as a picture, complete whenever it is there; its folder is made when it is missing."""
    from .figure import DPI

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(unfinished, dpi=DPI, format=path.suffix[1:] or "png")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def metric_names(history: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of the metrics that are a number in some epoch, in the order in which they appear."""
    parts = [entry.get(part, {}) for entry in history for part in COLOURS]
    numbers = {name for part in parts for name, value in part.items() if _is_number(value)}
    return [name for name in dict.fromkeys(name for part in parts for name in part) if name in numbers]


def points_of(history: Sequence[dict[str, Any]], part: str, name: str) -> list[tuple[float, float]]:
    """Return the epochs and finite values of one metric."""
    return [(e["epoch"], e[part][name]) for e in history if _is_number(e.get(part, {}).get(name))]


def is_logarithmic(values: Sequence[float]) -> bool:
    """Return whether values are seen better on a logarithmic axis.

    That is where all are positive and the largest is at least `LOG_FACTOR` times the smallest; except those that
    rise within 0 to 1, as an accuracy does: of them the upper end matters.
    """
    if not values or min(values) <= 0 or max(values) < LOG_FACTOR * min(values):
        return False
    return not (max(values) <= 1 and values[-1] > values[0])


def shorten(text: str, most: int = LONGEST_NAME) -> str:
    """Return `text` with its middle left out where it is longer than `most` characters."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


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
    return [shorten(str(name)) for name in class_names]


def _panels(count: int, width: float, height: float) -> tuple[Figure, list[Any]]:
    """Return a figure with at least so many panels of this size, at most three in a row; the unused are empty."""
    columns = max(1, min(count, 3))
    rows = max(1, math.ceil(count / columns))
    figure = new_figure(width * columns, height * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_axis_off()
    if not count:
        figure.text(0.5, 0.5, "no numbers", ha="center", va="center", color="0.4")
    return figure, axes


def _finish_curves(axis: Any, name: str, lines: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    if any(is_logarithmic([value for _, value in points]) for points in lines):
        if all(value > 0 for points in lines for _, value in points):
            axis.set_yscale("log")
    axis.set_title(shorten(name, 40), fontsize=12 if len(name) <= 24 else 10)
    axis.set_xlabel("epoch")
    axis.ticklabel_format(axis="x", style="plain", useOffset=False)
    epochs = {epoch for points in lines for epoch, _ in points}
    axis.xaxis.set_major_locator(MaxNLocator(10 if max(epochs, default=0) < 10_000 else 5, integer=True))
    if len(epochs) == 1:
        axis.set_xticks(list(epochs))
    axis.grid(alpha=0.3)


def _line(axis: Any, points: Sequence[tuple[float, float]], **style: Any) -> Any:
    """Draw points as a line, with markers where there are few."""
    markers = {"marker": "o", "markersize": 3} if len(points) <= 100 else {}
    (line,) = axis.plot(*zip(*points, strict=True), **markers, **style)
    return line


def _rates(history: Sequence[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Return the learning rates over the epochs, by optimizer and parameter group where there are several."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for entry in history:
        given = entry.get("lr")
        for key, rate in given.items() if isinstance(given, Mapping) else [("", given)]:
            groups: list[tuple[Any, Any]] = list(enumerate(rate)) if isinstance(rate, (list, tuple)) else [("", rate)]
            for number, value in groups:
                if _is_number(value):
                    label = " ".join(str(part) for part in (key, number) if part != "") or "lr"
                    lines.setdefault(label, []).append((entry["epoch"], value))
    return dict(list(lines.items())[:MOST_PANELS])


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


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
