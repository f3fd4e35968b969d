"""What a training library costs: CPU time per step of ours, a hand-written loop and four other libraries.

Every round measures a contestant and the hand-written loop in turn (A B A B ...), on one core and one thread. The
CPU clock is read inside the run, where a step (or an epoch) begins and where one begins many steps later, so that what
it costs to start and to end a run is in no figure. An extra cost is the median over the rounds of the
difference from the hand-written loop in the same round: neighbours in time share the machine's moods
(clock, caches, other tenants), so pairs cancel slow drifts, and the median ignores spoiled rounds;
many short rounds are steadier than a few long ones. Ratios are the medians of the same pairs' ratios.
The rounds are spread over several processes: where the memory of a process happens to lie moves the cost of a
step by 2 us either way, the same in all rounds of that process. A process runs one library in one mode, as a
program of its user does: beside what others import and leave behind, a step of any of them costs some us more.

Usage::

    pip install . -r benchmarks/requirements.txt
    python benchmarks/overhead.py [--quick] [--only ours,argus]

The exit code is 1 where ours is past one of its bounds or trains other weights than the hand-written loop.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import ModuleType

import torch
from contestants import jobs

BASELINE, OURS, IDLE = "handwritten", "ours", "ours+10 idle"
MODULES = {
    BASELINE: "handwritten",
    OURS: "ours",
    IDLE: "ours_idle",
    "lightning": "with_lightning",
    "ignite": "with_ignite",
    "argus": "with_argus",
    "skorch": "with_skorch",
}
# What is measured in how many processes, beside the hand-written loop: ours has narrow bounds.
OTHERS = [name for name in MODULES if name not in (BASELINE, OURS, IDLE)]
GROUPS = [
    ([(OURS, True)], 8),
    ([(OURS, False), (IDLE, False)], 6),
    *(([(name, bare)], 2) for name in OTHERS for bare in (True, False)),
]


@dataclass(frozen=True)
class Task:
    """One table. Steps are counted in epochs for the digits."""

    kind: str
    title: str
    first: int  # the clock is read when this step begins ...
    last: int  # ... and when this one does
    rounds: int  # in each process
    check: int = 0  # the weights are compared in runs of about so many steps, 0 for not at all
    note: str = ""

    def watch(self, clock: Callable[[], float], last: int | None = None) -> jobs.Watch:
        unit = jobs.steps_per_epoch(self.kind)
        return jobs.Watch(self.first * unit, (last or self.last) * unit, clock)


TASKS = [
    Task(
        "empty",
        "(a) an empty step: the loop itself",
        first=100,
        last=1100,
        rounds=4,
        note="argus and skorch: the step hands back a ready-made loss, as their loops read one after it.",
    ),
    Task(
        "ready",
        "(b) MLP 64-32-10, ready batches of 32 in a list",
        first=20,
        last=320,
        rounds=16,
        check=60,
    ),
    Task(
        "digits",
        "(c) MLP 64-128-10, digits, DataLoader of 64, validation after each epoch included",
        first=1,
        last=5,
        rounds=6,
        check=3,
    ),
]


@dataclass
class Row:
    """A contestant in one of its modes, with what was measured."""

    name: str
    bare: bool
    microseconds: list[float] = field(default_factory=list)
    calls: float | None = None
    weights: str = ""

    @property
    def mode(self) -> str:
        return "-" if self.name == BASELINE else "bare" if self.bare else "default"


@dataclass(frozen=True)
class Bound:
    """A limit for ours: `measure` of its row against the hand-written one, or against ours in the same mode."""

    kind: str
    mode: str
    what: str
    limit: float
    measure: Callable[[Row, Row], float]
    name: str = OURS
    against: str = BASELINE


def extra_time(row: Row, baseline: Row) -> float:
    """Return the median over the rounds of the extra microseconds per step."""
    return statistics.median(a - b for a, b in zip(row.microseconds, baseline.microseconds, strict=True))


def ratio(row: Row, baseline: Row) -> float:
    """Return the median over the rounds of the ratio of the costs of a step."""
    return statistics.median(a / b for a, b in zip(row.microseconds, baseline.microseconds, strict=True))


def extra_calls(row: Row, baseline: Row) -> float:
    """Return how many more Python functions a step calls."""
    return row.calls - baseline.calls


def per_step(row: Row, baseline: Row) -> float:
    """Return the median microseconds per step."""
    return statistics.median(row.microseconds)


BOUNDS = [
    Bound("empty", "bare", "us per step", 3, per_step),
    # No bound in microseconds: the same code costs 6 on one machine and 14 on another, whose caches hold less of a
    # step. The calls are the same everywhere, and a further one shows at once.
    Bound("ready", "bare", "times the hand-written loop", 1.06, ratio),
    Bound("ready", "default", "times the hand-written loop", 1.10, ratio),
    Bound("ready", "bare", "extra Python calls per step", 18.1, extra_calls),
    Bound("ready", "default", "extra Python calls per step", 22, extra_calls),
    # How much fetching one by one costs beside the network's own work differs by machine and day: 0.63 to 0.71.
    Bound("digits", "bare", "times the hand-written loop", 0.85, ratio),
    Bound("ready", "default", "us more with ten idle callbacks", 1, extra_time, IDLE, against=OURS),
    # Default mode also keeps the whole state of the best epochs, and writes and syncs one now and then.
    Bound("digits", "default", "times the hand-written loop", 1.00, ratio),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round, no bounds")
    measured = [name for name in MODULES if name != BASELINE]
    parser.add_argument("--only", metavar="NAMES", help=f"some of {','.join(measured)}")
    parser.add_argument("--tasks", metavar="KINDS", help="some of " + ",".join(task.kind for task in TASKS))
    arguments = parser.parse_args()
    names = chosen(parser, arguments.only, measured)
    kinds = chosen(parser, arguments.tasks, [task.kind for task in TASKS])

    there = pin()
    print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, one thread on {there}, CPU time")
    found = load({BASELINE, *names})
    failures = [f"{OURS} cannot be imported"] if OURS in names and OURS not in found else []
    for task in TASKS:
        if task.kind in kinds:
            failures += compare(task, found, arguments.quick)
    for failure in failures:
        print("FAILED:", failure)
    return 1 if failures else 0


def chosen(parser: argparse.ArgumentParser, asked: str | None, known: list[str]) -> list[str]:
    """Return the names of a comma-separated option, all of them where it was not given."""
    names = known if asked is None else asked.split(",")
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(known)}")
    return names


def pin() -> str:
    """Keep this process on one core and torch on one thread; return which core that is."""
    torch.set_num_threads(1)
    if not hasattr(os, "sched_setaffinity"):
        return "any core"
    last = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {last})
    return f"core {last}"


def load(names: set[str]) -> list[str]:
    """Import the contestants' modules, say which libraries are missing, return the others in the table's order."""
    found = []
    for name in MODULES:
        if name in names:
            try:
                with silence():
                    contestant(name)
                found.append(name)
            except ImportError as error:
                print(f"{name}: skipped, {error}")
    return found


def contestant(name: str) -> ModuleType:
    return importlib.import_module(f"contestants.{MODULES[name]}")


def compare(task: Task, names: list[str], quick: bool) -> list[str]:
    """Measure one task, print its table and return what is wrong with ours."""
    if quick:
        task = replace(task, last=2 * task.first, rounds=1)
    tables: list[list[Row]] = []
    for group, processes in GROUPS:
        there = [(name, bare) for name, bare in group if name in names]
        if there:
            tables.append(measure_in_processes(task, [(BASELINE, True), *there], 1 if quick else processes))
    print_table(task, tables)
    rows = [row for table in tables for row in table]
    failures = [
        f"{task.title}: {row.name} {row.mode} trains other weights than the hand-written loop"
        for row in rows
        if row.name in (OURS, IDLE) and row.weights not in ("", "equal")
    ]
    for table in tables if not quick else []:
        failures += check_bounds(task, table)
    return failures


def measure_in_processes(task: Task, modes: list[tuple[str, bool]], processes: int) -> list[Row]:
    """Measure contestants, each with whether it is bare, in so many processes, one after the other."""
    rows: list[Row] = []
    for number in range(processes):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            measured = pool.apply(measure, (task, modes, number == 0))
        for row, again in zip(rows, measured, strict=False):
            row.microseconds += again.microseconds
        rows = rows or measured
    return rows


def measure(task: Task, modes: list[tuple[str, bool]], first: bool) -> list[Row]:
    """Measure one task in this process; weights and calls, which are the same in all, in the first one."""
    pin()
    rows = [Row(name, bare) for name, bare in modes]
    if task.check and first:
        compare_weights(task, rows)
    for row in rows:
        microseconds(row, task)  # imports, and fills caches
        if first:
            row.calls = count_calls(row, task)
    # What the imports left behind is not to be walked by the garbage collections that a contestant sets off.
    gc.collect()
    gc.freeze()
    for number in range(task.rounds):
        # In turn from both ends, so that none is always measured after the same one.
        for row in rows if number % 2 else reversed(rows):
            row.microseconds.append(microseconds(row, task))
    return rows


def run(row: Row, kind: str, watch: jobs.Watch, own_shuffle: bool = False) -> jobs.Job:
    """Train once."""
    with tempfile.TemporaryDirectory() as folder, silence():
        job = jobs.make(kind, watch, None if row.bare else folder, own_shuffle)
        train = contestant(row.name).prepare(job)
        # The digits' shuffle starts from here, whatever was drawn before.
        torch.manual_seed(jobs.SEED)
        gc.collect()
        train()
    return job


def microseconds(row: Row, task: Task) -> float:
    """Return the CPU time per step of one run."""
    watch = task.watch(time.process_time)
    run(row, task.kind, watch)
    return 1e6 * watch.elapsed / (watch.last - watch.first)


def count_calls(row: Row, task: Task) -> float:
    """Return how many Python functions a step calls."""
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        if event == "call" and frame.f_code is not clock.__code__:
            count += 1

    def clock() -> int:
        sys.setprofile(profile)  # at the first reading; at the second it is set already
        return count

    watch = task.watch(clock)
    gc.disable()
    try:
        run(row, task.kind, watch)
    finally:
        sys.setprofile(None)
        gc.enable()
    return watch.elapsed / (watch.last - watch.first)


def compare_weights(task: Task, rows: list[Row]) -> None:
    """Note for every row whether it trains the same weights as the hand-written loop, bit for bit.

    Where a library draws more random numbers than the loop does (for batches that it validates before the
    first epoch, say), its shuffle is another one; with a shuffle that has its own generator it may be equal.
    """
    baseline = rows[0]
    for row in rows[1:]:
        row.weights = "differ"
        for own_shuffle, verdict in ((False, "equal"), (True, "equal but for the shuffle")):
            expected, got = (weights(each, task, own_shuffle) for each in (baseline, row))
            if all(map(torch.equal, expected, got)):
                row.weights = verdict
                break


def weights(row: Row, task: Task, own_shuffle: bool) -> list[torch.Tensor]:
    job = run(row, task.kind, task.watch(time.process_time, task.check), own_shuffle)
    return list(job.model.state_dict().values())


def print_table(task: Task, tables: list[list[Row]]) -> None:
    print(f"\n{task.title}\nmicroseconds of CPU time per step")
    line = "{:<13}{:<8}{:>7}{:>9}{:>20}{:>9}{:>8}{:>8}  {}".format
    print(line("contestant", "mode", "rounds", "median", "min .. max", "extra", "ratio", "calls", "weights"))
    together = replace(tables[0][0], microseconds=[each for table in tables for each in table[0].microseconds])
    rows = [together, *(row for table in tables for row in table[1:])]
    for row, baseline in zip(rows, [together, *(table[0] for table in tables for _ in table[1:])], strict=True):
        figures = (
            str(len(row.microseconds)),
            f"{per_step(row, baseline):.1f}",
            f"{min(row.microseconds):.1f} .. {max(row.microseconds):.1f}",
            f"{extra_time(row, baseline):+.1f}",
            f"{ratio(row, baseline):.2f}",
            f"{row.calls:.1f}",
        )
        print(line(row.name, row.mode, *figures, row.weights))
    if any(row.name in task.note for row in rows):
        print(task.note)


def check_bounds(task: Task, rows: list[Row]) -> list[str]:
    """Print the bounds on ours in this task; return those that it misses."""
    missed = []
    for bound in BOUNDS:
        for row in rows:
            if (bound.kind, bound.name, bound.mode) == (task.kind, row.name, row.mode):
                same = [r for r in rows if r.name == bound.against and r.mode in ("-", bound.mode)]
                if not same:
                    continue
                baseline = same[0]
                value = bound.measure(row, baseline)
                kept = value <= bound.limit
                line = f"{row.name} {row.mode}: {value:.2f} {bound.what}, at most {bound.limit:g}"
                print(f"{'kept  ' if kept else 'MISSED'} {line}")
                if not kept:
                    missed.append(f"{task.title}: {line}")
    return missed


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Send the process's output to the null device, so that no terminal takes part in what is measured."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 1)
        os.dup2(null, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, original in zip((1, 2), saved, strict=True):
            os.dup2(original, descriptor)
            os.close(original)
        os.close(null)


if __name__ == "__main__":
    sys.exit(main())
