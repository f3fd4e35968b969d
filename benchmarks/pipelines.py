"""What a pipeline costs beside its tasks: time per empty task, and whether it grows with their number.

    python benchmarks/pipelines.py                      # 1,000 tasks in one run, and a status call
    python benchmarks/pipelines.py --tasks 200

The exit status is 1 where an empty task costs more than 30 ms beyond starting its process, or where the last tasks of
a run cost half as much again as the first. No torch is imported: neither by the driver nor by a task.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from farabio_like.pipelines import session, status
from farabio_like.pipelines.record import Record

MOST_MS = 30.0
MOST_GROWTH = 1.5


def starting_a_process(count=200):
    """Return the milliseconds of starting the process of an empty task, and of its end."""
    begin = time.perf_counter()
    for _ in range(count):
        subprocess.run(["bash", "-c", "true"], check=True)
    return 1000 * (time.perf_counter() - begin) / count


def run(tasks, folder):
    """Return the milliseconds of each tenth of the tasks, per task, and those of a status call."""
    cores = len(os.sched_getaffinity(0))
    rows = "\n".join(f"  t{n}: {{type: bash, command: 'true', cpu: {cores}}}" for n in range(tasks))
    file = folder / "empty.yml"
    file.write_text(f"info: {{name: empty}}\nexecutors:\n{rows}\n")
    ends = []
    say = lambda text: ends.append(time.perf_counter()) if ": Success" in text else None  # noqa: E731
    begin = time.perf_counter()
    assert session.start(file, [], folder / "dags", False, say) == 0
    ends = ends[:tasks]
    tenth = tasks // 10
    parts = [1000 * (b - a) / tenth for a, b in zip(ends[::tenth], ends[tenth::tenth], strict=False)]
    print(
        f"{tasks} tasks one after another: {1000 * (ends[-1] - ends[0]) / (tasks - 1):.1f} ms a task; "
        f"{ends[0] - begin:.1f} s until the first has ended"
    )
    print("per tenth: " + " ".join(f"{part:.1f}" for part in parts))
    begin = time.perf_counter()
    status.of(Record.find(folder / "dags", "empty"))
    return parts, 1000 * (time.perf_counter() - begin)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=1000)
    tasks = parser.parse_args().tasks
    process = starting_a_process()
    print(f"starting bash and waiting for it: {process:.1f} ms")
    with tempfile.TemporaryDirectory() as folder:
        parts, call = run(tasks, Path(folder))
    overhead = statistics.median(parts) - process
    growth = statistics.median(parts[-3:]) / statistics.median(parts[:3])
    print(f"overhead {overhead:.1f} ms a task (at most {MOST_MS:g}); the last tenths take {growth:.2f} times the first")
    print(f"status of {tasks} jobs: {call:.0f} ms")
    if overhead > MOST_MS or growth > MOST_GROWTH:
        sys.exit("too slow")


if __name__ == "__main__":
    main()
