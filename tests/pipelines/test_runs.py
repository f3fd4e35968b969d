"""Runs of pipelines: states, results, kills at any moment, going on; and that no process is left."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from farabio_like.pipelines import life
from farabio_like.pipelines.record import Record, append_event, read_history

from .driving import background, dag, kill, nothing_runs, of_tasks, result, starts, states, until, write

HEAD = "info: {name: p, seed: 3}\nexecutors:\n"


@pytest.fixture(autouse=True)
def no_process_is_left(leaves_nothing):
    yield
    nothing_runs()


def test_results_reach_what_depends_on_them():
    Path("tasks.py").write_text(
        "def split(n):\n    return list(range(n))\n"
        "def add(results, by):\n    return sum(results['split']) + by\n"
        "def merge(results):\n    return results\n"
        "def given(**values):\n    return values\n"
        "def own(task):\n    return [task.name, task.cell, task.params, task.seed, task.folder.name, task.results]\n"
    )
    text = """
  split: {type: python, function: "tasks:split", params: {n: 4}}
  add: {type: python, function: "tasks:add", depends: split, grid: [{by: [10, 20]}]}
  merge: {type: python, function: "tasks:merge", depends: [add, split]}
  uneven: {type: python, function: "tasks:merge", depends: rows}
  rows: {type: python, function: "tasks:given", grid: [[{a: 1}, {b: 2}]]}
  mine: {type: "tasks:own", params: {a: 1}, depends: split, grid: [{x: ["0"]}]}
"""
    output = dag("run", write(HEAD + text))
    assert "run p/1: 8 Success" in output
    assert result("p", "uneven") == {"rows": {"a=1": {"a": 1}, "b=2": {"b": 2}}}
    assert result("p", "merge") == {"add": {"by=10": 16, "by=20": 26}, "split": [0, 1, 2, 3]}
    assert result("p", "mine[x=0]") == ["mine", {"x": "0"}, {"a": 1}, 3, "x=0", {"split": [0, 1, 2, 3]}]
    assert set(starts("p").values()) == {1}


def test_values_reach_a_command_and_its_environment():
    text = """
  a:
    type: bash
    command: >-
      echo {x.y} $FARABIO_X_Y $FARABIO_SEED $KEY $OMP_NUM_THREADS "$CUDA_VISIBLE_DEVICES." ${HOME:+home} $FARABIO_CELL
    env: {KEY: 7}
    cpu: 1
    grid: [{x.y: ["a; b", 1e-3]}]
"""
    output = dag("run", write(HEAD + text))
    assert "a[x.y=a; b] | a; b a; b 3 7 1 . home x.y=a; b" in output
    assert "a[x.y=0.001] | 0.001 0.001 3 7 1 . home x.y=0.001" in output
    assert "0.001 0.001 3" in dag("logs", "p/1", "a[x.y=0.001]")


def test_a_failure_skips_what_depends_on_it_and_nothing_else():
    text = """
  bad: {type: bash, command: "for n in $(seq 20); do echo line $n; done; exit 3"}
  after: {type: bash, command: "true", depends: bad}
  last: {type: bash, command: "true", depends: after}
  other: {type: bash, command: "true"}
  result: {type: python, function: "tasks:odd"}
"""
    Path("tasks.py").write_text("def odd():\n    return {1, 2}\n")
    output = dag("run", write(HEAD + text), code=1)
    assert states("p") == {
        "bad": "Failed", "other": "Success", "result": "Failed", "after": "Skipped", "last": "Skipped"
    }  # fmt: skip
    assert "bad: Failed" in output and "exit status 3" in output and "\n    line 20\n" in output
    assert "cannot be written as JSON" in output


def test_retries_timeouts_and_fail_fast():
    text = """
  retried: {type: bash, command: "echo x >> tries; test $(wc -l < tries) -ge 3", retries: 2}
  late: {type: bash, command: "trap '' TERM; sleep 100 & wait", timeout: 0.3}
"""
    dag("run", write(HEAD + text), code=1)
    assert states("p") == {"retried": "Success", "late": "Failed"}
    assert starts("p") == {"retried": 3, "late": 1}
    assert "timeout" in dag("status", "p")


def test_the_first_failure_stops_the_rest_where_that_is_asked():
    text = """
  a: {type: bash, command: "sleep 0.3; exit 1"}
  b: {type: bash, command: "sleep 1000"}
  c: {type: bash, command: "true", depends: b}
"""
    dag("run", write(HEAD + text), "--fail-fast", code=1)
    found = states("p")
    assert (found["a"], found["c"]) == ("Failed", "NotRan")
    assert found["b"] in ("Stopped", "NotRan")  # on one core it has not begun


SLOW = (
    HEAD
    + """
  first: {type: bash, command: "echo x >> first"}
  slow:
    type: bash
    command: "echo x >> slow; setsid sleep 1000 & s=$(cat seconds); touch started; sleep $s"
    depends: first
  last: {type: bash, command: "echo x >> last", depends: slow}
"""
)


def lines(name):
    return len(Path(name).read_text().splitlines())


def begin(text=SLOW):
    Path("seconds").write_text("1000")
    driver = background("run", write(text))
    until(Path("started").exists)
    Path("seconds").write_text("0")
    return driver


def test_a_killed_driver_leaves_no_process_and_its_run_goes_on():
    driver = begin()
    kill(driver)
    nothing_runs()
    assert states("p") == {"first": "Success", "slow": "Stopped", "last": "NotRan"}
    dag("resume", "p")
    assert states("p") == {"first": "Success", "slow": "Success", "last": "Success"}
    assert starts("p") == {"first": 1, "slow": 2, "last": 1}
    assert (lines("first"), lines("slow"), lines("last")) == (1, 2, 1)
    dag("resume", "p")
    assert starts("p") == {"first": 1, "slow": 2, "last": 1}


def test_a_killed_task_has_failed_with_all_its_processes():
    driver = begin()
    main = read_history(Path("dags/p/1/tasks/slow")).start["pid"]
    children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    assert driver.wait(60) == 1
    driver.stdout.close()
    nothing_runs()
    assert states("p") == {"first": "Success", "slow": "Failed", "last": "Skipped"}


def test_a_killed_supervisor_has_failed_with_all_its_processes():
    driver = begin()
    os.kill(read_history(Path("dags/p/1/tasks/slow")).start["pid"], signal.SIGKILL)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 1
    assert "its supervisor was killed by signal 9" in output
    nothing_runs()
    assert states("p")["slow"] == "Failed"


def test_driver_and_supervisor_killed_together_leave_what_resume_ends():
    driver = begin()
    supervisor = read_history(Path("dags/p/1/tasks/slow")).start["pid"]
    os.kill(supervisor, signal.SIGSTOP)
    kill(driver)
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: states("p")["slow"] == "Stopped")
    dag("resume", "p")
    nothing_runs()
    assert starts("p") == {"first": 1, "slow": 2, "last": 1}


def test_a_paused_supervisor_is_waited_for_and_never_run_beside():
    driver = begin()
    supervisor = read_history(Path("dags/p/1/tasks/slow")).start["pid"]
    os.kill(supervisor, signal.SIGSTOP)
    kill(driver)
    assert states("p")["slow"] == "InProgress"
    again = background("resume", "p")
    line = until(lambda: next((line for line in again.stdout if "waiting for it" in line), None))
    assert str(supervisor) in line
    time.sleep(1)
    assert lines("slow") == 1
    os.kill(supervisor, signal.SIGCONT)
    again.communicate(timeout=60)
    assert again.returncode == 0
    assert starts("p") == {"first": 1, "slow": 2, "last": 1}


def test_a_second_driver_says_who_is_the_first_and_stop_ends_it():
    driver = begin()
    assert f"process (number {driver.pid} on" in dag("resume", "p", code=2)
    assert f"driven by process {driver.pid}" in dag("status")
    assert states("p") == {"first": "Success", "slow": "InProgress", "last": "NotRan"}
    driver.send_signal(signal.SIGSTOP)
    dag("stop", "p/1")
    driver.communicate(timeout=60)
    assert driver.returncode == 128 + signal.SIGTERM
    assert states("p") == {"first": "Success", "slow": "Stopped", "last": "NotRan"}
    nothing_runs()


@pytest.mark.parametrize("pause", [0.0, 0.3, 0.6])
def test_a_task_is_stopped_while_it_starts(pause):
    text = "".join(f"  t{n}: {{type: bash, command: sleep 1000}}\n" for n in range(4))
    driver = background("run", write(HEAD + text))
    until(lambda: any(Path("dags").glob("p/*/plan.json")))
    time.sleep(pause)
    dag("stop", "p")
    driver.communicate(timeout=60)
    assert set(states("p").values()) <= {"Stopped", "NotRan"}


def test_what_has_changed_is_shown_and_run_anew_when_asked():
    Path("tasks.py").write_text("import helper\ndef make(n):\n    return helper.twice(n)\n")
    Path("helper.py").write_text("def twice(n):\n    return 2 * n\n")
    text = (
        HEAD
        + """
  a: {type: python, function: "tasks:make", params: {n: 2}}
  b: {type: bash, command: "echo b", depends: a}
  c: {type: bash, command: "echo c"}
"""
    )
    dag("run", write(text))
    assert "changed" not in dag("resume", "p")
    Path("helper.py").write_text("def twice(n):\n    return 3 * n\n")
    output = dag("resume", "p", "executors.c.command=echo d")
    assert "a has changed and is kept" in output and "helper.py has changed" in output
    assert "command: echo c -> echo d" in output
    assert starts("p") == {"a": 1, "c": 1, "b": 1}
    dag("resume", "p", "--rerun", "changed")
    assert starts("p") == {"a": 2, "c": 2, "b": 2}
    assert result("p", "a") == 6
    dag("resume", "p", "--rerun", "b")
    assert starts("p") == {"a": 2, "c": 2, "b": 3}
    assert "Did you mean" in dag("resume", "p", "--rerun", "chnged", code=2)


def test_secrets_are_in_no_file():
    Path("tasks.py").write_text("def make(api_key):\n    assert api_key == 'hunter2hunter2'\n")
    text = "  a: {type: python, function: 'tasks:make', params: {api_key: none}}\n"
    dag("run", write(HEAD + text), "executors.a.params.api_key=hunter2hunter2")
    assert states("p") == {"a": "Success"}
    for path in Path("dags").rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path
    assert "give it again" in dag("resume", "p", code=2)


def test_a_line_that_was_cut_off_says_nothing():
    folder = Path("job")
    folder.mkdir()
    (folder / "events.jsonl").write_bytes(b'{"event": "start", "pid": 1}\n{"event": "Succ\0\0\0')
    assert read_history(folder).end is None
    append_event(folder, {"event": "Failed"})
    history = read_history(folder)
    assert (history.starts, history.end["event"]) == (1, "Failed")


def test_a_job_of_before_the_reboot_is_stopped():
    dag("run", write(HEAD + "  a: {type: bash, command: 'true'}"))
    record = Record.find(Path("dags"), "p/1")
    start = {**read_history(record.path / "tasks/a").start, "boot": "another"}
    (record.path / "tasks/a/events.jsonl").write_text(json.dumps(start) + "\n")
    assert states("p") == {"a": "Stopped"}
    (record.path / "tasks/a/events.jsonl").write_text(json.dumps({**start, "machine": "elsewhere"}) + "\n")
    assert states("p") == {"a": "InProgress"}
    assert "runs on elsewhere" in dag("status", "p")


def test_a_number_that_another_process_has_got_is_no_life():
    me = life.identity()
    assert life.is_alive(me)
    assert not life.is_alive({**me, "ticks": me["ticks"] - 1})
    assert life.is_alive({**me, "machine": "elsewhere"}) is None


def test_misuse_ends_with_two():
    assert "cannot be read" in dag("run", "none.yml", code=2)
    assert "there is no run" in dag("status", "none", code=2)
    dag("run", write(HEAD + "  a: {type: bash, command: 'true', gpu: 99}"), code=2)
    assert not Path("dags").exists()
    assert not of_tasks(".")


@pytest.mark.skipif(os.geteuid() != 0 or not hasattr(os, "posix_fallocate"), reason="mounting needs root")
def test_a_full_disk_loses_no_success():
    Path("small").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", "small"], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        text = """
  fill: {type: bash, command: "dd if=/dev/zero of=small/big bs=1k count=1000 2>/dev/null; true"}
  next: {type: bash, command: "true", depends: fill}
"""
        output = dag("run", write(HEAD + text), "--dags", "small/dags", code=1)
        assert "fill: Success" in output
        assert "its start cannot be written" in output or "No space left" in output
        Path("small/big").unlink()
        dag("resume", "p", "--dags", "small/dags")
        record = Record.find(Path("small/dags"), "p")
        assert {job: history.starts for job, (_, history) in record.states().items()} == {"fill": 1, "next": 1}
    finally:
        subprocess.run(["umount", "small"], check=True)
