"""``report.html`` of a run: one page with everything, from the files of the run folder alone.

    python -m farabio_like.report runs/Digits/1

writes it again, also for a run that was killed. Every run writes it at its end, and after its test.
"""

from __future__ import annotations

import argparse
import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import plots
from .checkpoint import access
from .errors import ConfigError, printable
from .loggers.console import number, rate, seconds
from .rundir import layout, reader
from .rundir.reader import RunFiles

MOST_ROWS = 200  # epochs in the table
MOST_METRICS = 200
MOST_CLASSES = 5000  # of a metric that is drawn as bars
LARGEST_PICTURES = 1 << 27  # bytes, all together
LONGEST_VALUE = 1000  # characters of an entry of the configuration
KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}


def write(folder: str | Path) -> Path:
    """Write ``report.html`` into a run folder: numbers, settings, environment, and all pictures of ``plots``.

    Parameters
    ----------
    folder : path

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ConfigError
        If it is no run folder.
    ImportError
        Without jinja2.
    """
    from jinja2 import Environment, FileSystemLoader

    run = reader.read(folder)
    # The values are anything that users name so: all of them are escaped.
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, finalize=_shown)
    page = templates.get_template("report.html.jinja").render(contents(run))
    target, unfinished = run.path / layout.REPORT, run.path / f".{layout.REPORT}.{os.getpid()}"
    try:
        unfinished.unlink(missing_ok=True)  # it may be a link
        unfinished.write_text(page, encoding="utf-8", errors="replace")
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def rewrite(folder: str | Path) -> Path:
    """Draw the curves of a run again, from what its files say, and write its report; see `write`."""
    run = reader.read(folder)
    if not access.leads_out(run.path / layout.PLOTS, run.path):
        plots.save(plots.curves(run.history, run.best_epoch), run.path / layout.PLOTS / layout.CURVES)
        if not (run.path / layout.PLOTS / layout.PER_CLASS).is_file():  # the run knew the names of the classes
            draw_bars(run.path, run.history, run.best_epoch)
    return write(folder)


def _shown(value: Any) -> Any:
    """Return what stands in the page: text without characters that cannot be seen; escaping comes after it."""
    return printable(value, "\n\t") if type(value) is str else value


def draw_bars(
    folder: Path,
    history: Sequence[dict[str, Any]],
    best_epoch: int | None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Draw ``plots/per_class.png`` of the metrics that are lists: in the best epoch, or the last one that has any."""
    best = [entry for entry in history if entry["epoch"] == best_epoch]
    for entry in [*best, *reversed(history)]:
        for part in ("valid", "train"):
            lists = {name: value for name, value in entry.get(part, {}).items() if _is_per_class(value)}
            if lists:
                lists = dict(list(lists.items())[: plots.MOST_PANELS])
                fits = class_names is not None and {len(value) for value in lists.values()} == {len(class_names)}
                figure = plots.class_bars(lists, class_names if fits else None)
                figure.suptitle(f"{part}, epoch {entry['epoch']}", fontsize=10)
                plots.save(figure, folder / layout.PLOTS / layout.PER_CLASS)
                return


def contents(run: RunFiles) -> dict[str, Any]:
    """Return what the template shows."""
    columns = _columns(run.history)[: 2 * MOST_METRICS]
    rows = _some(run.history, run.best_epoch)
    environment = {key: _text(value) for key, value in run.environment.items() if key != "packages"}
    packages = run.environment.get("packages")
    names = plots.metric_names(run.history)
    pictures, left_out = _pictures(run.path / layout.PLOTS, run.path)
    if len(names) > MOST_METRICS:
        left_out.append(f"{layout.METRICS}: {len(names)} metrics; {MOST_METRICS} are shown")
    return {
        "title": plots.shorten(f"{run.owner or run.path.resolve().parent.name} {run.path.resolve().name}", 200),
        "path": str(run.path),
        "facts": _facts(run),
        "error": run.error,
        "problems": [*run.problems, *left_out],
        "best": [_best_row(run, name) for name in names[:MOST_METRICS]],
        "test": [(name, number(value)) for name, value in run.test.items() if isinstance(value, (int, float))],
        "pictures": pictures,
        "columns": [(part, plots.shorten(name)) for part, name in columns],
        "epochs": [{"best": e["epoch"] == run.best_epoch, "cells": _cells(e, columns)} for e in rows],
        "left_out": len(run.history) - len(rows),
        "config": [(key, plots.shorten(value, LONGEST_VALUE)) for key, value in run.config.items()],
        "settings": list(run.settings.items()),
        "environment": list(environment.items()),
        "packages": list(packages.items()) if isinstance(packages, Mapping) else [],
    }


def _facts(run: RunFiles) -> list[tuple[str, str]]:
    asked = run.settings.get("_num_epochs", "")
    last = run.history[-1]["epoch"] if run.history else 0
    facts = [("epochs", f"{last} of {asked}" if asked.isdecimal() else str(last))]
    best = run.best(run.monitor)
    if best is not None:
        part, value, epoch = best
        facts.append((f"best {part} {run.monitor}", f"{number(value)} in epoch {epoch}"))
    facts += [(f"test {n}", number(v)) for n, v in list(run.test.items())[:3] if isinstance(v, (int, float))]
    if run.history:
        facts.append(("time", seconds(sum(entry.get("seconds", 0.0) for entry in run.history))))
    if run.environment.get("time"):
        started = _text(run.environment["time"]).replace("T", " ").replace("+00:00", " UTC")
        facts.append(("started", plots.shorten(started, 100)))
    return facts


def _best_row(run: RunFiles, name: str) -> tuple[str, ...]:
    best = run.best(name)
    part = best[0] if best is not None else _part_of(run, name)
    shown = (part, number(best[1]), str(best[2])) if best is not None else (part, "-", "-")
    there = [entry[part][name] for entry in run.history if name in entry.get(part, {})]
    return (name, *shown, _number(there[-1]) if there else "-")


def _part_of(run: RunFiles, name: str) -> str:
    return "valid" if any(name in entry.get("valid", {}) for entry in run.history) else "train"


def _columns(history: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    found = dict.fromkeys(
        (part, name)
        for entry in history
        for part in ("train", "valid")
        for name, value in entry.get(part, {}).items()
        if isinstance(value, (int, float))
    )
    return sorted(found, key=lambda column: column[0] != "train")


def _cells(entry: dict[str, Any], columns: Sequence[tuple[str, str]]) -> list[str]:
    values = [_number(entry.get(part, {}).get(name)) for part, name in columns]
    return [str(entry["epoch"]), *values, rate(entry.get("lr")), seconds(entry.get("seconds", 0.0))]


def _some(history: Sequence[dict[str, Any]], best_epoch: int | None) -> list[dict[str, Any]]:
    """Return all epochs, or evenly spaced ones with the first, the best and the last."""
    step = -(-len(history) // MOST_ROWS) or 1
    kept = (index % step == 0 or index == len(history) - 1 for index in range(len(history)))
    return [e for e, keep in zip(history, kept, strict=True) if keep or e["epoch"] == best_epoch]


def _pictures(folder: Path, run: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the pictures as ``data:`` addresses, the curves first, with the width of those that are PNG.

    And what is left out: links that lead out of the run's folder, what is no file, and what is too large.
    """
    if access.leads_out(folder, run):
        return [], [f"{folder.name}: it is a link that leads out of the folder, and is not followed"]
    found = [path for path in folder.glob("*") if path.suffix.lower() in KINDS and not path.name.startswith(".")]
    pictures, left_out, room = [], [], LARGEST_PICTURES
    for path in sorted(found, key=lambda path: (path.name != layout.CURVES, path.name)):
        try:
            with access.open_inside(path, run) as file:
                data = file.read(room + 1)
        except OSError as error:
            left_out.append(f"{folder.name}/{path.name}: {error.strerror or error}")
            continue
        if len(data) > room:
            left_out.append(f"{folder.name}/{path.name}: the pictures together have more than {LARGEST_PICTURES} bytes")
            continue
        room -= len(data)
        kind = KINDS[path.suffix.lower()]
        address = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        width = int.from_bytes(data[16:20], "big") if kind == "image/png" else 0  # the header's first field
        pictures.append({"name": path.stem.replace("_", " "), "data": address, "width": width})
    return pictures, left_out


def _is_per_class(value: Any) -> bool:
    fits = isinstance(value, list) and 0 < len(value) <= MOST_CLASSES
    return fits and all(isinstance(part, (int, float)) for part in value)


def _number(value: Any) -> str:
    return number(value) if isinstance(value, (int, float)) else "-"


def _text(value: Any) -> str:
    if value is None or value == []:
        return "none"
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return plots.shorten(text, LONGEST_VALUE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command: draw the curves again and write the report."""
    parser = argparse.ArgumentParser(
        prog="python -m farabio_like.report", description="Write report.html into a run folder again."
    )
    parser.add_argument("run_folder", help="as in runs/Digits/1")
    folder = parser.parse_args(arguments).run_folder
    try:
        print(printable(str(rewrite(folder))))
    except (ConfigError, OSError) as error:
        parser.exit(2, f"{printable(str(error))}\n")
    except ImportError as error:
        parser.exit(2, f'{error}. Install what it needs: pip install "farabio-like[report]"\n')


if __name__ == "__main__":
    main()
