"""Curves over the epochs, of one run and of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .figure import can_be_drawn, new_figure
from .figure import label as as_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST_PANELS = 9
LONGEST_LABEL = 20  # of a line in a legend, which lies in its panel
TITLE_WIDTH, TITLE_LINES = 14, 3  # characters of a line above an image, and how many of them
LOG_FACTOR = 100
COLOURS = {"train": "C0", "valid": "C1"}


def curves(history: Sequence[dict[str, Any]], best_epoch: float | None = None) -> Figure:
    """Draw every metric of a history over the epochs, train and valid in one panel.

    The learning rate has a panel where it changes. An axis is logarithmic where `is_logarithmic` says so.

    Parameters
    ----------
    history : sequence of dict
        As `ConvnetTrainer.train` returns it.
    best_epoch : float, optional
        Marked by a vertical line; of an evaluation within an epoch see `place_of`.

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
                drawn[label] = _line(axis, points, label=as_label(label, LONGEST_LABEL), color=colour)
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
        labels = [as_label(run, 60) for run in drawn]
        columns = max(1, min(len(labels), int(figure.get_figwidth() * 11 / (max(map(len, labels)) + 8))))
        rows = math.ceil(len(labels) / columns)
        figure.set_figheight(figure.get_figheight() + 0.22 * rows)
        figure.legend(list(drawn.values()), labels, loc="outside lower center", ncols=columns, fontsize=9)
    return figure


def metric_names(history: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of the metrics that are a number in some epoch, in the order in which they appear."""
    epochs = [each for entry in history for each in (entry, *entry.get("evaluations", ()))]
    parts = [entry.get(part, {}) for entry in epochs for part in COLOURS]
    numbers = {name for part in parts for name, value in part.items() if can_be_drawn(value)}
    return [name for name in dict.fromkeys(name for part in parts for name in part) if name in numbers]


def points_of(history: Sequence[dict[str, Any]], part: str, name: str) -> list[tuple[float, float]]:
    """Return the epochs and finite values of one metric; evaluations within an epoch lie between two epochs."""
    points: list[tuple[float, float]] = []
    for entry in history:
        for record in entry.get("evaluations", ()) if part == "valid" else ():
            if can_be_drawn(record.get("valid", {}).get(name)):
                points.append((place_of(entry, record), record["valid"][name]))
        if can_be_drawn(entry.get(part, {}).get(name)):
            points.append((entry["epoch"], entry[part][name]))
    return points


def place_of(entry: Mapping[str, Any], record: Mapping[str, Any]) -> float:
    """Return where an evaluation within an epoch lies on the axis of the epochs: after so many of its batches."""
    batches = entry.get("batches") or 0
    return entry["epoch"] - 1 + min(1.0, record["batch"] / batches if batches else 1.0)


def is_logarithmic(values: Sequence[float]) -> bool:
    """Return whether values are seen better on a logarithmic axis.

    That is where all are positive and the largest is at least `LOG_FACTOR` times the smallest; except those that
    rise within 0 to 1, as an accuracy does: of them the upper end matters.
    """
    if not values or min(values) <= 0 or max(values) < LOG_FACTOR * min(values):
        return False
    return not (max(values) <= 1 and values[-1] > values[0])


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
    axis.set_title(as_label(name, 40), fontsize=12 if len(name) <= 24 else 10)
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
                if can_be_drawn(value):
                    label = " ".join(str(part) for part in (key, number) if part != "") or "lr"
                    lines.setdefault(label, []).append((entry["epoch"], value))
    return dict(list(lines.items())[:MOST_PANELS])
