"""Runs side by side: their best values, what was set differently, and one picture with their curves.

python -m farabio_like.compare runs/Digits/1 runs/Digits/2 -o compare.png --metric accuracy
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from . import plots
from .errors import ConfigError, closest, printable
from .loggers.console import number, seconds
from .rundir import reader
from .rundir.reader import RunFiles

WIDTH = 80
LONGEST_CELL = 24
MOST_METRICS = 200
NOT_SETTINGS = {"_epoch"}  # it says where a run is


def compare(folders: Sequence[str | Path], metric: str | None = None) -> str:
    """Return the tables of several runs, as text of at most 80 columns.

    Parameters
    ----------
    folders : sequence of path
        Run folders.
    metric : str, optional
        Show this metric alone; default: all of them.

    Returns
    -------
    str
        The best value of every metric in every run, marked with ``*`` where it is the best of all runs; the
        metrics of the tests; and the configuration and the settings that are not the same in all runs.

    Raises
    ------
    ConfigError
        For a folder that is no run, one given twice, and a metric that no run has.
    """
    runs = _read(folders)
    names = labels([run.path for run in runs])
    tables = [
        _best_table(runs, names, _metrics(runs, metric)),
        _test_table(runs, names, metric),
        _differences(runs, names),
    ]
    return "\n\n".join(table for table in tables if table)


def draw(folders: Sequence[str | Path], path: str | Path, metric: str | None = None) -> None:
    """Draw the curves of several runs into one picture; the arguments are those of `compare`.

    Parameters
    ----------
    folders : sequence of path
    path : path
        The picture: ``.png``, ``.svg`` or ``.pdf``.
    metric : str, optional
    """
    runs = _read(folders)
    histories = {label: run.history for label, run in zip(labels([run.path for run in runs]), runs, strict=True)}
    plots.save(plots.comparison(histories, _metrics(runs, metric)), path)


def labels(paths: Sequence[Path]) -> list[str]:
    """Return short names for run folders: what is left of them without the folders that they share."""
    full = [path.resolve() for path in paths]
    if len(full) == 1:
        return [full[0].name]
    common = Path(os.path.commonpath([path.parent for path in full]))
    return [str(path.relative_to(common)) for path in full]


def _read(folders: Sequence[str | Path]) -> list[RunFiles]:
    runs = [reader.read(folder) for folder in folders]
    seen: set[Path] = set()
    for run in runs:
        if run.path.resolve() in seen:
            raise ConfigError(f"{run.path} is given twice. Give every run folder once.")
        seen.add(run.path.resolve())
    return runs


def _metrics(runs: Sequence[RunFiles], metric: str | None) -> list[str]:
    """Return the metrics to show: what the first run monitors comes first."""
    there = list(dict.fromkeys(name for run in runs for name in plots.metric_names(run.history)))[:MOST_METRICS]
    if metric is None:
        return sorted(there, key=lambda name: name != runs[0].monitor)
    if metric not in there:
        raise ConfigError(
            f"no run has a metric {metric!r}.{closest(metric, there)} There are: {', '.join(there) or 'none'}."
        )
    return [metric]


def _best_table(runs: Sequence[RunFiles], names: Sequence[str], metrics: Sequence[str]) -> str:
    rows: list[list[str]] = []
    for run, name in zip(runs, names, strict=True):
        asked = run.settings.get("_num_epochs", "?")
        last = run.history[-1]["epoch"] if run.history else 0
        rows.append([name, f"{last}/{asked}", seconds(sum(entry.get("seconds", 0.0) for entry in run.history))])
    for metric in metrics:
        found = [run.best(metric) for run in runs]
        values = [best[1] for best in found if best is not None]
        top = _best_of(runs, metric, values)
        for row, best in zip(rows, found, strict=True):
            mark = "*" if best is not None and len(runs) > 1 and best[1] == top else " "
            row.append("-  " if best is None else f"{number(best[1])} {mark}")
    return _table("best values", ["run", "epochs", "time", *(f"{name}  " for name in metrics)], rows)


def _best_of(runs: Sequence[RunFiles], metric: str, values: Sequence[float]) -> float | None:
    """Return the best of some values of a metric, by the direction of the run that monitors it."""
    judge = next((run for run in runs if run.monitor == metric), RunFiles(Path()))
    ranked = RunFiles(Path(), settings=judge.settings)
    ranked.history = [
        {"epoch": place, **dict.fromkeys(("train", "valid"), {metric: value})} for place, value in enumerate(values)
    ]
    best = ranked.best(metric)
    return None if best is None else best[1]


def _test_table(runs: Sequence[RunFiles], names: Sequence[str], metric: str | None) -> str:
    numbers = [{n: v for n, v in run.test.items() if isinstance(v, (int, float))} for run in runs]
    metrics = [name for name in dict.fromkeys(n for test in numbers for n in test) if metric in (None, name)]
    rows = [
        [name, *(number(test[column]) if column in test else "-" for column in metrics)]
        for name, test in zip(names, numbers, strict=True)
    ]
    return _table("test", ["run", *metrics], rows) if metrics else ""


def _differences(runs: Sequence[RunFiles], names: Sequence[str]) -> str:
    """Return a table with a row per run and a column per setting that differs."""
    values = [{"class": run.owner, **run.config, **run.settings} for run in runs]
    keys = [key for key in dict.fromkeys(key for given in values for key in given) if key not in NOT_SETTINGS]
    keys = [key for key in keys if len({given.get(key) for given in values}) > 1]
    if len(runs) < 2:
        return ""
    if not keys:
        return "configuration and settings: the same in all runs"
    rows = [[name, *(given.get(key, "-") for key in keys)] for name, given in zip(names, values, strict=True)]
    return _table("configuration and settings that differ", ["run", *keys], rows)


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned table; the columns that do not fit into 80 follow below, with the first one again."""
    columns = [[_cut(row[place]) for row in (heads, *rows)] for place in range(len(heads))]
    widths = [max(map(len, column)) for column in columns]
    blocks: list[list[int]] = [[0]]
    for place in range(1, len(columns)):
        used = sum(widths[other] + 2 for other in blocks[-1])
        if used + widths[place] > WIDTH and len(blocks[-1]) > 1:
            blocks.append([0])
        blocks[-1].append(place)
    lines = [title]
    for block in blocks:
        for line in range(len(rows) + 1):
            cells = [columns[place][line].rjust(widths[place]) for place in block[1:]]
            lines.append("  ".join([columns[0][line].ljust(widths[0]), *cells]).rstrip())
        lines.append("")
    return "\n".join(lines[:-1])


def _cut(text: str) -> str:
    text = printable(text)  # what files say
    if len(text) <= LONGEST_CELL:
        return text
    half = LONGEST_CELL // 2  # both ends tell names apart
    return f"{text[:half]}~{text[half + 1 - LONGEST_CELL :]}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command: print the tables and draw the picture."""
    parser = argparse.ArgumentParser(
        prog="python -m farabio_like.compare", description="Compare runs: best values, settings, curves."
    )
    parser.add_argument("run_folders", nargs="+", help="as in runs/Digits/1 runs/Digits/2")
    parser.add_argument("-o", "--output", default="compare.png", help="the picture (default: compare.png)")
    parser.add_argument("--metric", help="this metric alone")
    given = parser.parse_args(arguments)
    try:
        print(compare(given.run_folders, given.metric))
        draw(given.run_folders, given.output, given.metric)
    except (ConfigError, OSError) as error:
        parser.exit(2, f"{printable(str(error))}\n")
    print(printable(f"\ncurves in {given.output}", "\n"))


if __name__ == "__main__":
    main()
