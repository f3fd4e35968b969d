"""Runs of pipelines as the command line asks for them: started, gone on with, stopped, and told of."""

from __future__ import annotations

import functools
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..config.secrets import MASKED, Secrets
from ..errors import ConfigError, closest
from . import changes, devices, grid, life
from .dagfile import Dag, load
from .driver import GRACE, PATIENCE, Driver
from .record import RESULT, Record, append_event, hold_job, read_history

Say = Callable[[str], None]

UNTIL_KILLED = GRACE + PATIENCE + 10.0  # seconds that a driver has to end, with all its tasks
FAILED = 1


def start(file: Path, overrides: Sequence[str], dags: Path, fail_fast: bool, say: Say) -> int:
    """Run a pipeline for the first time, and return the exit status."""
    dag = load(file, overrides)
    pool = devices.here()
    pool.check(dag)
    record = Record.new(dags, dag.name)
    record.hold()
    say(f"run {record.name}: {len(dag.jobs)} jobs of {len(dag.tasks)} tasks, in {record.path}")
    return _drive(record, dag, pool, overrides, fail_fast, say)


def resume(run: str, overrides: Sequence[str], dags: Path, rerun: Sequence[str], fail_fast: bool, say: Say) -> int:
    """Go on with a run, and return the exit status; what has succeeded is not run again.

    Parameters
    ----------
    run : str
        ``<info.name>/<number>``, a name alone, or a folder.
    overrides : sequence of str
        Beside those that the run was started with.
    dags : Path
    rerun : sequence of str
        Tasks or jobs that are run anew with all that depends on them; ``changed``: those whose values, configuration
        or code are no longer the same.
    fail_fast : bool
    say : callable
    """
    record = Record.find(dags, run)
    record.hold()
    plan = record.plan()
    overrides = [*_remembered(plan, overrides), *overrides]
    dag = load(plan["file"], overrides)
    pool = devices.here()
    pool.check(dag)
    changed = _tell_changes(record, dag, plan, say)
    _run_anew(record, dag, _wanted(dag, rerun, changed), say)
    return _drive(record, dag, pool, overrides, fail_fast, say)


def _drive(
    record: Record, dag: Dag, pool: devices.DevicePool, overrides: Sequence[str], fail_fast: bool, say: Say
) -> int:
    made_of = changes.made_of(dag)
    record.write_plan(
        {
            "file": str(dag.source.path.resolve()),
            "overrides": Secrets(dag.source.values).arguments(overrides),
            "project": dag.project,
            "jobs": {
                name: {
                    "task": job.task.name,
                    "type": job.task.type,
                    "cell": Secrets(job.cell).values(job.cell),
                    "cell_name": grid.name(job.cell),
                    "needs": job.needs,
                }
                for name, job in dag.jobs.items()
            },
        }
    )
    driver = Driver(record, dag, pool, made_of, fail_fast, say)
    try:
        states = driver.run()
    finally:
        record.release()
    found = list(states.values())
    say(f"run {record.name}: {', '.join(f'{found.count(s)} {s}' for s in dict.fromkeys(found))}")
    if driver.killed_by:
        say(f"go on: farabio-like dag resume {record.name}")
        return 128 + driver.killed_by
    return FAILED if "Failed" in found else 0


def _remembered(plan: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """Return the key=value of the start; a secret among them was not written down, and has to be given again."""
    given = {each.partition("=")[0] for each in overrides}
    kept = [str(each) for each in plan.get("overrides", []) if str(each).partition("=")[0] not in given]
    for each in kept:
        if MASKED in each:
            key = each.partition("=")[0]
            raise ConfigError(f"'{key}' is a secret, which is not kept: give it again, as in dag resume RUN {key}=...")
    return kept


def _tell_changes(record: Record, dag: Dag, plan: dict[str, Any], say: Say) -> list[str]:
    """Say what is no longer as it was when a job was started, and return those jobs."""
    made_of = json.loads(json.dumps(changes.made_of(dag)))
    changed = []
    for name, job in dag.jobs.items():
        history = read_history(record.folder(job.task.name, grid.name(job.cell)))
        if history.start is None:
            continue
        lines = changes.differences(history.start.get("made_of", {}), made_of[name])
        if lines:
            changed.append(name)
            kept = history.end is not None and history.end["event"] == "Success"
            say(f"{name} has changed{' and is kept, as it has succeeded' if kept else ''}:")
            for line in lines:
                say(f"    {line}")
    gone = [name for name in plan["jobs"] if name not in dag.jobs]
    if gone:
        say(f"no longer in the file: {', '.join(gone)}")
    if changed:
        say("run them anew: --rerun changed")
    return changed


def _wanted(dag: Dag, rerun: Sequence[str], changed: Sequence[str]) -> list[str]:
    """Return the jobs that are to be run anew: those named, and what depends on them."""
    wanted: set[str] = set()
    tasks = [job.task.name for job in dag.jobs.values()]
    for text in rerun:
        wanted.update(changed if text == "changed" else matching(text, dag.jobs, tasks, "changed"))
    for name, job in dag.jobs.items():  # needs stand before what depends on them
        if wanted.intersection(job.needs):
            wanted.add(name)
    return [name for name in dag.jobs if name in wanted]


def matching(text: str, jobs: Sequence[str] | dict[str, Any], tasks: Sequence[str], *words: str) -> list[str]:
    """Return the jobs that a text names: one, or all cells of a task."""
    found = [name for name, task in zip(jobs, tasks, strict=True) if text in (name, task)]
    if not found:
        near = closest(text, [*jobs, *tasks, *words])
        raise ConfigError(f"there is no task '{text}'.{near} There are: {', '.join(dict.fromkeys(tasks))}.")
    return found


def _run_anew(record: Record, dag: Dag, names: Sequence[str], say: Say) -> None:
    for name in names:
        job = dag.jobs[name]
        folder = record.folder(job.task.name, grid.name(job.cell))
        if read_history(folder).start is None:
            continue
        lock = hold_job(folder)
        if lock is None:
            raise ConfigError(f"{name} cannot be run anew: a process of its last start still runs.")
        try:
            (folder / RESULT).unlink(missing_ok=True)
            append_event(folder, {"event": "again"})
        finally:
            os.close(lock)
        say(f"{name} is run anew")


def stop(run: str, dags: Path, say: Say) -> int:
    """Stop a run: its driver, and every task with all its processes."""
    record = Record.find(dags, run)
    driver = record.driver()
    if driver is not None and life.is_alive(driver) is None:
        raise ConfigError(f"the run {record.name} is driven on {driver['machine']}: stop it there.")
    if driver is not None:
        for number in (signal.SIGTERM, signal.SIGCONT):  # it may be paused
            _send(driver, number)
        if not _gone(driver, UNTIL_KILLED):
            say(f"its driver, process {driver['pid']}, does not end and is killed")
            _send(driver, signal.SIGKILL)
            _gone(driver, PATIENCE)
    states = record.states()
    alive = [(name, history) for name, (_, history) in states.items() if history.is_alive]
    for name, history in alive:
        if history.start is not None and not _gone(history.start, GRACE + PATIENCE):
            say(f"{name}: its supervisor does not end and is killed")
            _send(history.start, signal.SIGKILL)
    plan = record.plan()
    for name, (_, history) in record.states(plan).items():
        if history.start is not None and history.end is None and not history.is_alive:
            folder = str(record.job_folder(plan["jobs"][name]))
            life.end_processes(functools.partial(life.processes_of, folder))
    found = [state for state, _ in record.states().values()]
    say(f"run {record.name}: {', '.join(f'{found.count(s)} {s}' for s in dict.fromkeys(found))}")
    return 0


def _send(who: dict[str, Any], number: int) -> None:
    if life.is_alive(who):
        try:
            os.kill(who["pid"], number)
        except ProcessLookupError:
            pass


def _gone(who: dict[str, Any], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while life.is_alive(who):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
