"""The file of a pipeline: what it says, and what is found before anything starts."""

from pathlib import Path

import pytest

from farabio_like import ConfigError
from farabio_like.pipelines.dagfile import load
from farabio_like.pipelines.devices import DevicePool

from .driving import write

MLCOMP = """info:
  name: dag_grid
  project: examples
executors:
  bash:
    type: bash
    command: echo {variable}
    gpu: 2-4
    memory: 500 MB
    timeout: 2h
  bash2:
    type: bash
    command: echo {variable}
    depends: bash
grid:
  - variable: 0-2
"""


def test_a_file_of_the_shape_of_mlcomp():
    dag = load(write(MLCOMP))
    assert list(dag.jobs) == [f"{task}[variable={n}]" for task in ("bash", "bash2") for n in range(3)]
    assert dag.jobs["bash2[variable=1]"].needs == ("bash[variable=1]",)
    task = dag.tasks["bash"]
    assert (task.gpu, task.memory, task.timeout, task.cpu) == ((2, 4), 0.5, 7200, 1)


def test_all_cells_of_a_grid_come_before_what_depends_on_the_task():
    dag = load(
        write(
            "info: {name: a}\nexecutors:\n  b: {type: bash, command: x, depends: a}\n"
            "  a: {type: bash, command: x, grid: [{x: [1, 2]}]}"
        )
    )
    assert list(dag.jobs) == ["a[x=1]", "a[x=2]", "b"]
    assert dag.jobs["b"].needs == ("a[x=1]", "a[x=2]")


def test_values_are_replaced_by_dotted_path():
    dag = load(write(MLCOMP), ["executors.bash.gpu=1", "executors.bash.params.lr=1e-3", "grid.0.variable=[7]"])
    assert dag.tasks["bash"].gpu == (1, 1)
    assert dag.tasks["bash"].params == {"lr": 0.001}
    assert list(dag.jobs) == ["bash[variable=7]", "bash2[variable=7]"]


HEAD = "info: {name: a}\nexecutors:\n"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("- a", 1, "a mapping of keys"),
        ("", 1, "a mapping of keys"),
        ("info: {nam: a}\nexecutors: {}", 1, "Did you mean 'name'"),
        ("info: {name: ../a}\nexecutors: {}", 1, "letters, digits"),
        ("info: {name: a, seed: -1}\nexecutors: {}", 1, "at least 0"),
        ("info: {name: a}", 1, "'executors' is missing"),
        ("info: {name: a}\nexecutors: {}", 2, "no task"),
        ("info: {name: a}\nexecutor: {}", 2, "Did you mean 'executors'"),
        (HEAD + "  a: {type: bash, comand: x}", 3, "Did you mean 'command'"),
        (HEAD + "  a: {type: bsh, command: x}", 3, "Did you mean 'bash'"),
        (HEAD + "  a: {command: x}", 3, "type is missing"),
        (HEAD + "  a: {type: bash}", 3, "needs 'command'"),
        (HEAD + "  a: {type: bash, command: 3}", 3, "needs 'command'"),
        (HEAD + "  a: {type: bash, command: x, function: y}", 3, "is no key of a task of type bash"),
        (HEAD + "  a: {type: bash, command: x, depends: c}\n  b: {type: bash, command: x}", 3, "'c', which is no task"),
        (HEAD + "  a:\n    type: bash\n    command: x\n    depends: [1]", 6, "a task or a list of tasks"),
        (HEAD + "  a: {type: bash, command: x, depends: a}", 3, "in a circle: a -> a"),
        (HEAD + "  a: {type: bash, command: x, depends: b}\n  b: {type: bash, command: x, depends: a}", 3, "circle"),
        (HEAD + "  a:\n    type: bash\n    command: x\n    grid:\n      - x: []", 7, "needs a list of values"),
        (HEAD + "  a: {type: bash, command: x, gpu: 4-2}", 3, "the smaller one"),
        (HEAD + "  a: {type: bash, command: x, gpu: -1}", 3, "a number, or a range"),
        (HEAD + "  a: {type: bash, command: x, gpu: true}", 3, "a number, or a range"),
        (HEAD + "  a: {type: bash, command: x, cpu: 0}", 3, "at least 1"),
        (HEAD + "  a: {type: bash, command: x, memory: 1 PB}", 3, "memory in GB"),
        (HEAD + "  a: {type: bash, command: x, timeout: 0}", 3, "more than 0"),
        (HEAD + "  a: {type: bash, command: x, retries: 1.5}", 3, "whole number"),
        (HEAD + "  a: {type: bash, command: x, distr: true}", 3, "for tasks of type train"),
        (HEAD + "  a: {type: train}", 3, "it has neither"),
        (HEAD + "  a: {type: train, config: none.yml}", 3, "there is no file"),
        (HEAD + "  a: {type: python, function: nope}", 3, "module:function"),
        (HEAD + "  a: {type: python, function: 'no_such_module:f'}", 3, "no module 'no_such_module'"),
        (HEAD + "  a: {type: python, function: 'json:dmps'}", 3, "Did you mean"),
        (HEAD + "  a: {type: python, function: 'json:dumps', params: {a.b: 1}}", 3, "cannot be an argument"),
        (HEAD + "  a: {type: infer, input: x}", 3, "needs a run"),
        (HEAD + "  a: {type: submit, command: x}", 3, "the task of type infer"),
        (HEAD + "  a: {type: bash, command: x}\n  a: {type: bash, command: y}", 4, "stands twice"),
        (HEAD + "  a: {type: bash, command: x, grid: [{x: [1]}]}\ngrid: [{x: [1]}]", 3, "in the grid of the pipeline"),
        (HEAD + "  a: &a\n    b: *a", 3, "contains itself"),
        (HEAD + "  a: [", 4, "no YAML"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(text, line, said):
    with pytest.raises(ConfigError, match=said) as error:
        load(write(text))
    assert f"p.yml:{line}:" in str(error.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("a", "no key=value"),
        ("executors.a.gpuu=1", "on the command line"),
        ("info.name.x=1", "has no 'x'"),
        ("a..b=1", "no key"),
    ],
)
def test_what_is_wrong_with_an_override_is_said(override, said):
    with pytest.raises(ConfigError, match=said):
        load(write(HEAD + "  a: {type: bash, command: x}"), [override])


@pytest.mark.parametrize(("key", "value"), [("gpu", "3"), ("cpu", "5"), ("memory", "9")])
def test_more_than_there_is_is_refused(key, value):
    dag = load(write(HEAD + f"  a: {{type: bash, command: x, {key}: {value}}}"))
    with pytest.raises(ConfigError, match=rf"p.yml:3: 'a' asks for {key}: {value}, but this machine has"):
        DevicePool(["0", "1"], 4, 8.0).check(dag)


def test_devices_are_given_and_taken_back():
    tasks = load(write(HEAD + "  a: {type: bash, command: x, gpu: 1-2}\n  b: {type: bash, command: x, gpu: 2}")).tasks
    pool = DevicePool(["0", "1", "2"], 4, 8.0)
    first, second = pool.take(tasks["a"]), pool.take(tasks["a"])
    assert (first.gpus, second.gpus) == (("0", "1"), ("2",))
    assert pool.take(tasks["b"]) is None
    assert pool.lacks(tasks["b"]) == {"gpu"}
    pool.give_back(second)
    pool.give_back(first)
    assert (pool.gpus, pool.cpus, pool.memory) == (["0", "1", "2"], 4, 8.0)


def test_functions_are_looked_for_without_importing_them():
    Path("tasks.py").write_text("raise SystemExit('imported')\ndef make():\n    pass\n")
    assert load(write(HEAD + "  a: {type: python, function: 'tasks:make'}")).jobs
