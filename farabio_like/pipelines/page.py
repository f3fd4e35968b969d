"""The page of a run: one HTML file with the graph, the jobs with their metrics, and curves."""

from __future__ import annotations

import html
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from . import drawing, results
from .dagfile import Dag
from .record import PAGE, RESULT, STATES, History, Record, write_durably
from .status import duration

SECONDS = 5  # between reloads
MOST_METRICS = 8  # columns and pictures
MOST_CURVES = 60  # lines of a picture

Columns = list[tuple[str, bool]]  # the heading, and whether there are numbers below


def write(record: Record, live: bool | None = None) -> Path:
    """Write the page of a run and return its path.

    Parameters
    ----------
    record : Record
    live : bool, optional
        Whether it reloads itself; default: whether the run is driven.
    """
    path = record.path / PAGE
    write_durably(path, render(record, record.driver() is not None if live is None else live))
    return path


def render(record: Record, live: bool) -> str:
    """Return the page as text."""
    plan = record.plan()
    states = record.states(plan)
    metrics = {
        name: results.curve(run)
        for name, planned in plan["jobs"].items()
        if planned["type"] == "train" and (run := results.run_folder(record.job_folder(planned))) is not None
    }
    names = _metric_names(metrics.values())
    colours = {name: f"hsl({index * 137.5 % 360:.0f} 65% 42%)" for index, name in enumerate(metrics)}
    columns, rows = _table(record, plan, states, metrics, names, colours)
    found = [state for state, _ in states.values()]
    drawn = [drawing.curves(name, _lines(metrics, name), colours) for name in names]
    pictures = "".join(drawn)
    return Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(record.name),
        summary=", ".join(f"{found.count(state)} {state}" for state in STATES if state in found),
        note=f"As of {time.strftime('%Y-%m-%d %H:%M:%S')}{'; reloads itself while the run goes on' if live else ''}.",
        graph=graph_of_plan(plan, {name: state for name, (state, _) in states.items()}),
        head="".join(
            f'<th aria-sort="none"{" data-number" * n}><button>{html.escape(t)}</button></th>' for t, n in columns
        ),
        rows="\n".join(rows),
        figures=f'<h2>Curves</h2><div class="figures">{pictures}</div>' if pictures else "",
        reload=f"setTimeout(() => location.reload(), {SECONDS * 1000});" if live else "",
    )


def graph_of(dag: Dag) -> str:
    """Return the graph of a pipeline that has not run, as SVG."""
    plan = {"jobs": {n: {"task": j.task.name, "type": j.task.type, "needs": j.needs} for n, j in dag.jobs.items()}}
    return graph_of_plan(plan, dict.fromkeys(dag.jobs, "NotRan"))


def graph_of_plan(plan: Mapping[str, Any], states: Mapping[str, str]) -> str:
    """Return the graph of a plan's tasks with the states of their jobs, as SVG."""
    needs: dict[str, dict[str, None]] = {}
    cells: dict[str, list[str]] = {}
    for name, planned in plan["jobs"].items():
        needs.setdefault(planned["task"], {}).update({plan["jobs"][need]["task"]: None for need in planned["needs"]})
        cells.setdefault(planned["task"], []).append(states[name])
    texts = {}
    for task, found in cells.items():
        counts = {state: found.count(state) for state in STATES if state in found}
        texts[task] = next(iter(counts)) if len(found) == 1 else ", ".join(f"{n} {s}" for s, n in counts.items())
    return drawing.graph(
        {task: list(each) for task, each in needs.items()}, texts, {t: _of_all(c) for t, c in cells.items()}
    )


def _of_all(states: Sequence[str]) -> str:
    """Return the state that says most of several."""
    order = ("Failed", "InProgress", "Stopped", "Queued", "Skipped", "NotRan", "Success")
    return next(state for state in order if state in states)


def _metric_names(epochs: Any) -> list[str]:
    """Return the metrics of all runs, as ``valid/loss``, those of the evaluation first."""
    found: dict[str, None] = {}
    for part in ("valid", "train"):
        for history in epochs:
            for key, value in (history[-1].get(part) or {}).items() if history else ():
                if isinstance(value, (int, float)):
                    found[f"{part}/{key}"] = None
    return list(found)[:MOST_METRICS]


def _lines(metrics: Mapping[str, list[dict[str, Any]]], name: str) -> dict[str, list[tuple[float, float]]]:
    part, _, key = name.partition("/")
    found: dict[str, list[tuple[float, float]]] = {}
    for job, history in list(metrics.items())[:MOST_CURVES]:
        values = [(entry.get("epoch"), (entry.get(part) or {}).get(key)) for entry in history]
        found[job] = [(x, y) for x, y in values if isinstance(x, int) and isinstance(y, (int, float))]
    return found


def _table(
    record: Record,
    plan: Mapping[str, Any],
    states: Mapping[str, tuple[str, History]],
    metrics: Mapping[str, list[dict[str, Any]]],
    names: Sequence[str],
    colours: Mapping[str, str],
) -> tuple[Columns, list[str]]:
    """Return the headings of the table, and its rows as HTML."""
    keys = list(dict.fromkeys(key for planned in plan["jobs"].values() for key in planned["cell"]))
    best = any("value" in (_result(record, planned) or {}) for planned in plan["jobs"].values())
    columns: Columns = [("task", False), *((key, _are_numbers(plan, key)) for key in keys), ("state", False)]
    columns += [("time", True), ("starts", True), *([("best", True)] if best else []), *((n, True) for n in names)]
    rows = []
    for name, planned in plan["jobs"].items():
        state, history = states[name]
        chip = f'<span class="chip" style="background:{colours[name]}"></span>' if name in colours else ""
        cells = [f"<td>{chip}{html.escape(planned['task'])}</td>"]
        cells += [_cell(planned["cell"].get(key, "")) for key in keys]
        cells.append(f'<td><span class="state {html.escape(state)}">{html.escape(state)}</span></td>')
        cells.append(_number(history.seconds, duration(history.seconds)))
        cells.append(_number(history.starts, str(history.starts)))
        if best:
            result = _result(record, planned) or {}
            cells.append(_number(result.get("value"), f"{result['value']:.4g}" if "value" in result else ""))
        last = metrics[name][-1] if metrics.get(name) else {}
        for metric in names:
            part, _, key = metric.partition("/")
            value = (last.get(part) or {}).get(key)
            cells.append(_number(value, f"{value:.4g}" if isinstance(value, (int, float)) else ""))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return columns, rows


def _result(record: Record, planned: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the result of a train job that has one."""
    if planned["type"] != "train":
        return None
    try:
        found = json.loads((record.job_folder(planned) / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("value"), (int, float)) else None


def _are_numbers(plan: Mapping[str, Any], key: str) -> bool:
    values = [planned["cell"][key] for planned in plan["jobs"].values() if key in planned["cell"]]
    return all(type(value) in (int, float) for value in values)


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"<td{' class=number' if type(value) in (int, float) else ''}>{html.escape(text)}</td>"


def _number(value: Any, text: str) -> str:
    finite = isinstance(value, (int, float)) and math.isfinite(value)
    return f'<td class="number" data-value="{value if finite else ""}">{html.escape(text)}</td>'
