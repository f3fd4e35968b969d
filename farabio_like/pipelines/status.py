"""Tables of runs of pipelines, as text for a terminal."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import printable
from . import results
from .dagfile import Dag
from .record import STATES, History, Record


def overview(dags: Path) -> str:
    """Return a line for each run: how many jobs are in which state, and whether it is driven."""
    rows = []
    for record in Record.all(dags):
        found = [state for state, _ in record.states().values()]
        counts = ", ".join(f"{found.count(state)} {state}" for state in STATES if state in found)
        driver = record.driver()
        rows.append([record.name, counts, f"driven by process {driver['pid']}" if driver is not None else ""])
    return table(["run", "jobs", ""], rows) if rows else f"there is no run in {dags}"


def of(record: Record) -> str:
    """Return a line for each job of a run."""
    plan = record.plan()
    rows = []
    for name, (state, history) in record.states(plan).items():
        folder = record.job_folder(plan["jobs"][name])
        run = results.run_folder(folder) if plan["jobs"][name]["type"] == "train" else None
        metric = results.last_metric(folder) if run is not None else ""
        shown = os.path.relpath(run) if run is not None else ""
        rows.append([name, state, duration(history.seconds), str(history.starts), metric, shown])
    text = table(["job", "state", "time", "starts", "last metrics", "run folder"], rows)
    notes = [f"{name}: {why}" for name, (_, history) in record.states(plan).items() if (why := _why(history))]
    return "\n".join([f"run {record.name} in {record.path}", text, *notes])


def _why(history: History) -> str:
    if history.start is not None and history.end is None and history.is_alive is None:
        return f"runs on {history.start.get('machine')}, of which nothing is known here"
    return str((history.end or {}).get("why") or "")


def graph(dag: Dag) -> str:
    """Return a line for each task: its type, its cells, and what it depends on."""
    rows = []
    for task in dag.tasks.values():
        count = sum(job.task is task for job in dag.jobs.values())
        rows.append([task.name, task.type, f"{count} job{'s' * (count != 1)}", ", ".join(task.depends)])
    return table(["task", "type", "jobs", "depends on"], rows)


def duration(seconds: float | None) -> str:
    """Return a time as people read it; empty for none."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    form = "%-M min %-S s" if seconds < 3600 else f"{int(seconds // 3600)} h %-M min"
    return time.strftime(form, time.gmtime(seconds))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return columns of text; those without a word in them are left out."""
    used = [index for index in range(len(head)) if any(row[index] for row in rows)]
    lines = [[row[index] for index in used] for row in ([*head], *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(used))]
    return "\n".join(
        printable("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
        for line in lines
    )
