"""The file of a pipeline: its keys, and what is checked before anything starts.

What a task of a type runs is in `kinds`; the combinations of a grid are made in `grid`.
"""

from __future__ import annotations

import graphlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import grid, kinds
from .grid import Cell
from .source import Source, read

INFO = ("name", "project", "seed")
COMMON = ("type", "depends", "gpu", "cpu", "memory", "env", "params", "grid", "distr", "trace", "retries", "timeout")
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*")
_UNITS = {"": 1.0, "gb": 1.0, "g": 1.0, "mb": 1e-3, "m": 1e-3, "tb": 1e3, "t": 1e3}
_TIMES = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Task:
    """One entry of ``executors``.

    Attributes
    ----------
    gpu : tuple of two ints
        The fewest and the most GPUs.
    memory : float
        In GB.
    timeout : float or None
        In seconds.
    details : dict
        What its type needs: ``command``, ``config``, ``script``, ``function``, ``run``, ``input``.
    """

    name: str
    type: str
    depends: tuple[str, ...]
    gpu: tuple[int, int]
    cpu: int
    memory: float
    env: dict[str, str]
    params: dict[str, Any]
    cells: tuple[Cell, ...]
    distr: bool
    trace: bool
    retries: int
    timeout: float | None
    details: dict[str, Any]

    @property
    def own_keys(self) -> set[str]:
        """The keys of its own grid; those of the pipeline's are not among them."""
        return {key for cell in self.cells for key in cell}


@dataclass(frozen=True)
class Job:
    """A task in one cell of the grids: what runs, succeeds or fails.

    Attributes
    ----------
    name : str
        ``train``, or ``train[lr=0.1 batch_size=32]``.
    cell : dict
        Values by dotted key, those of the whole pipeline's grid first.
    needs : tuple of str
        The names of the jobs that have to succeed before.
    """

    name: str
    task: Task
    cell: Cell
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Dag:
    """A pipeline that has been read and checked."""

    source: Source
    name: str
    project: str
    seed: int | None
    tasks: dict[str, Task]
    jobs: dict[str, Job]

    @property
    def folder(self) -> Path:
        """The folder of the file, from where tasks run."""
        return self.source.path.resolve().parent


def load(path: str | Path, overrides: Sequence[str] = ()) -> Dag:
    """Read a pipeline and check it.

    Parameters
    ----------
    path : str or Path
    overrides : sequence of str
        As in ``["executors.train.gpu=2"]``.

    Raises
    ------
    ConfigError
        With file and line, for keys that are unknown or have a wrong value, dependencies that do not exist or go round
        in a circle, grids without cells, cells that are there twice, and whatever a type of task finds.
    """
    source = read(path, overrides)
    source.check_keys(source.values, ("info", "executors", "grid"), "a pipeline")
    info = _dict(source, "info", required=True)
    source.check_keys(info, INFO, "info", "info")
    name = info.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise source.error(f"info.name is {name!r}; letters, digits and .-_ are expected.", "info", "name")
    seed = info.get("seed")
    if seed is not None:
        seed = _whole(source, seed, 0, "info", "seed")
    executors = _dict(source, "executors", required=True)
    if not executors:
        raise source.error("executors has no task.", "executors")
    tasks = {str(key): _task(source, str(key), values) for key, values in executors.items()}
    _check_dependencies(source, tasks)
    shared = grid.cells(source.values["grid"], source, "grid") if "grid" in source.values else [{}]
    jobs = _jobs(source, tasks, shared)
    dag = Dag(source, name, str(info.get("project", "")), seed, tasks, jobs)
    for job in jobs.values():
        kinds.check(job, dag)
    return dag


def _task(source: Source, name: str, values: Any) -> Task:
    path = ("executors", name)
    if not _NAME.fullmatch(name):
        raise source.error(f"the task {name!r}: a name has letters, digits and .-_ only.", *path)
    if not isinstance(values, dict):
        raise source.error(f"the task '{name}' is {values!r}; keys with values are expected, type at least.", *path)
    kind = values.get("type")
    details = kinds.details_of(kind, source, *path)
    for key in values:
        if key in kinds.ALL_DETAILS and key not in details:
            owners = ", ".join(each for each in kinds.TYPES if key in kinds.TYPES[each])
            raise source.error(f"'{key}' is no key of a task of type {kind}; it is one of {owners}.", *path, key)
    source.check_keys(values, (*COMMON, *details), f"the task '{name}' of type {kind}", *path)
    depends = values.get("depends") or []
    depends = [depends] if isinstance(depends, str) else depends
    if not isinstance(depends, list) or not all(isinstance(each, str) for each in depends):
        raise source.error(f"depends is {depends!r}; a task or a list of tasks is expected.", *path, "depends")
    return Task(
        name=name,
        type=str(kind),
        depends=tuple(dict.fromkeys(depends)),
        gpu=_gpus(source, values.get("gpu", 0), *path, "gpu"),
        cpu=_whole(source, values.get("cpu", 1), 1, *path, "cpu"),
        memory=_measure(source, values.get("memory", 0), _UNITS, 'memory in GB, or as in "500 MB"', *path, "memory"),
        env={str(k): grid.shown(v) for k, v in _dict(source, *path, "env").items()},
        params=_dict(source, *path, "params"),
        cells=tuple(grid.cells(values["grid"], source, *path, "grid") if "grid" in values else [{}]),
        distr=_flag(source, values.get("distr", False), *path, "distr"),
        trace=_flag(source, values.get("trace", False), *path, "trace"),
        retries=_whole(source, values.get("retries", 0), 0, *path, "retries"),
        timeout=_measure(source, values["timeout"], _TIMES, 'seconds, or as in "2h"', *path, "timeout")
        if values.get("timeout") is not None
        else None,
        details={key: values[key] for key in details if key in values},
    )


def _dict(source: Source, *path: str, required: bool = False) -> dict[str, Any]:
    found: Any = source.values
    for key in path:
        found = found.get(key)
    if found is None and not required:
        return {}
    if not isinstance(found, dict):
        said = "is missing" if found is None else f"is {found!r}"
        raise source.error(f"'{'.'.join(path)}' {said}; keys with values are expected.", *path)
    return found


def _whole(source: Source, value: Any, least: int, *path: str) -> int:
    if type(value) is not int or value < least:
        raise source.error(f"{path[-1]} is {value!r}; a whole number of at least {least} is expected.", *path)
    return value


def _flag(source: Source, value: Any, *path: str) -> bool:
    if type(value) is not bool:
        raise source.error(f"{path[-1]} is {value!r}; true or false is expected.", *path)
    return value


def _gpus(source: Source, value: Any, *path: str) -> tuple[int, int]:
    """Return the fewest and the most GPUs of ``2`` or ``2-4``."""
    match = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", str(value)) if type(value) in (int, str) else None
    if match is None:
        raise source.error(f"gpu is {value!r}; a number, or a range as in 2-4, is expected.", *path)
    fewest, most = int(match[1]), int(match[2] or match[1])
    if most < fewest or (most > 0 and fewest == 0):
        raise source.error(f"gpu is {value!r}; the first number is at least 1 and the smaller one.", *path)
    return fewest, most


def _measure(source: Source, value: Any, units: dict[str, Any], what: str, *path: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", "" if isinstance(value, bool) else str(value))
    if match is None or match[2].lower() not in units or not math.isfinite(float(match[1])):
        raise source.error(f"{path[-1]} is {value!r}; {what} is expected.", *path)
    found = float(match[1]) * units[match[2].lower()]
    if path[-1] == "timeout" and found <= 0:
        raise source.error(f"timeout is {value!r}; it is more than 0.", *path)
    return found


def _check_dependencies(source: Source, tasks: dict[str, Task]) -> None:
    for task in tasks.values():
        for other in task.depends:
            if other not in tasks:
                near = kinds.closest(other, tasks)
                raise source.error(
                    f"'{task.name}' depends on '{other}', which is no task.{near} There are: {', '.join(tasks)}.",
                    "executors",
                    task.name,
                    "depends",
                )
    try:
        graphlib.TopologicalSorter({task.name: task.depends for task in tasks.values()}).prepare()
    except graphlib.CycleError as error:
        circle = error.args[1]
        raise source.error(
            f"the tasks depend on one another in a circle: {' -> '.join(reversed(circle))}.",
            "executors",
            circle[0],
            "depends",
        ) from None


def _jobs(source: Source, tasks: dict[str, Task], shared: Sequence[Cell]) -> dict[str, Job]:
    """Return every task in every cell, tasks before those that depend on them."""
    order = graphlib.TopologicalSorter({task.name: task.depends for task in tasks.values()}).static_order()
    names: dict[tuple[str, int], list[str]] = {}
    jobs: dict[str, Job] = {}
    for task in map(tasks.__getitem__, _in_file_order(order, tasks)):
        for number, outer in enumerate(shared):
            for inner in task.cells:
                twice = outer.keys() & inner.keys()
                if twice:
                    raise source.error(
                        f"the key '{min(twice)}' is in the grid of the pipeline and in that of '{task.name}'.",
                        "executors",
                        task.name,
                        "grid",
                    )
                cell = {**outer, **inner}
                text = grid.name(cell)
                job = f"{task.name}[{text}]" if cell else task.name
                needs = tuple(each for other in task.depends for each in names[other, number])
                if job in jobs:
                    raise source.error(f"the cell {text} is there twice.", "executors", task.name, "grid")
                jobs[job] = Job(job, task, cell, needs)
                names.setdefault((task.name, number), []).append(job)
    return jobs


def _in_file_order(order: Any, tasks: dict[str, Task]) -> list[str]:
    """Return the tasks level by level, within a level as the file has them."""
    depth: dict[str, int] = {}
    for name in order:
        depth[name] = 1 + max((depth[other] for other in tasks[name].depends), default=-1)
    return sorted(tasks, key=lambda name: depth[name])
