"""The types of tasks: what each needs in the file, what it runs, and what comes out of it.

When it runs, and on which devices, is decided in `driver`.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import version
from ..config import get, load
from ..errors import ConfigError, closest
from . import life
from .devices import Share
from .grid import shown
from .record import RESULT
from .source import Source

if TYPE_CHECKING:
    from .dagfile import Dag, Job

__all__ = ["ALL_DETAILS", "TYPES", "check", "closest", "commands", "details_of", "environment"]

TYPES: dict[str, tuple[str, ...]] = {
    "train": ("config", "script"),
    "valid": ("run",),
    "infer": ("run", "input"),
    "submit": ("command",),
    "bash": ("command",),
    "python": ("function",),
}
ALL_DETAILS = frozenset(detail for details in TYPES.values() for detail in details)
OPTIONAL = {"config", "script", "run"}  # one of the first two; a run is that of the train task that it depends on
RUNS, PREDICTIONS, CALL = "runs", "predictions", ".call.json"
FORMATS = ("csv", "json", "jsonl")
_OTHER_WORDS = re.compile(r"true|false|null|nan|inf", re.IGNORECASE)
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_CALL = str(Path(__file__).with_name("call.py"))
_PACKAGE = Path(version.__file__).resolve().parent.parent


@dataclass(frozen=True)
class Context:
    """What a job has when it starts.

    Attributes
    ----------
    dag : Dag
    folder : Path
        Of its own, for what it writes.
    number : int
        The first time, or after how many calls to run it anew: a run anew has a run folder of its own.
    results : dict
        By the name of each task that it depends on: its result, of a task with a grid one for each cell's name.
    run : str or None
        The run folder that ``valid`` and ``infer`` are about.
    share : Share
    """

    dag: Dag
    folder: Path
    number: int
    results: dict[str, Any]
    run: str | None
    share: Share


def details_of(kind: Any, source: Source, *path: str) -> tuple[str, ...]:
    """Return the keys that belong to a type of task."""
    if isinstance(kind, str) and kind in TYPES:
        return TYPES[kind]
    if isinstance(kind, str) and _FUNCTION.fullmatch(kind):
        return ()
    near = closest(str(kind), TYPES)
    said = "is missing" if kind is None else f"is {kind!r}"
    raise source.error(
        f"type {said}.{near} There are: {', '.join(TYPES)}; one of yours is module:function.", *path, "type"
    )


def check(job: Job, dag: Dag) -> None:
    """Raise a ConfigError, with file and line, for what would let a job fail as soon as it starts."""
    task, source, path = job.task, dag.source, ("executors", job.task.name)
    details = TYPES.get(task.type, ())
    for key in details:
        value = task.details.get(key)
        if value is None and key in OPTIONAL:
            continue
        if not isinstance(value, str) or not value.strip():
            raise source.error(f"'{task.name}' of type {task.type} needs '{key}', a text; got {value!r}.", *path, key)
    for key in ("distr", "trace"):
        if getattr(task, key) and task.type != "train":
            raise source.error(
                f"{key} is for tasks of type train; '{task.name}' is one of type {task.type}.", *path, key
            )
    if task.type == "train":
        _check_train(job, dag)
    elif task.type in ("valid", "infer"):
        run_task(job, dag)
    elif task.type == "submit":
        _check_submit(job, dag)
    elif task.type != "bash":
        text = task.details.get("function", task.type)
        _check_function(text, dag, *path, "function" if "function" in task.details else "type")
        if task.type == "python":
            _check_arguments(job, dag)


def _check_train(job: Job, dag: Dag) -> None:
    task, source, path = job.task, dag.source, ("executors", job.task.name)
    given = [key for key in ("config", "script") if key in task.details]
    if len(given) != 1:
        raise source.error(
            f"'{task.name}' of type train needs 'config' or 'script'; it has {'both' if given else 'neither'}.",
            *path,
        )
    file = dag.folder / task.details[given[0]]
    if not file.is_file():
        raise source.error(f"there is no file {file}.", *path, given[0])
    if given == ["config"]:
        _check_config(job, dag, file)
    else:
        _parse(file)


def _check_config(job: Job, dag: Dag, file: Path) -> None:
    """Raise a ConfigError for a configuration that does not load with the values of a job, or describes no run."""
    # Late: it takes the import of torch, for which a pipeline without a training does not wait.
    from ..launch.build import plan_of

    try:
        plan_of(file, overrides=_overrides(job, dag))
    except ConfigError as error:
        where = dag.source.where("executors", job.task.name, "config")
        raise ConfigError(f"{where}: {job.name} does not load.\n{error}") from None


def _check_submit(job: Job, dag: Dag) -> None:
    task, path = job.task, ("executors", job.task.name)
    inferring = [name for name in task.depends if dag.tasks[name].type == "infer"]
    if len(inferring) != 1 or len(dag.tasks[inferring[0]].cells) != 1:
        raise dag.source.error(
            f"'{task.name}' submits the predictions of the task of type infer, without a grid, that it depends on; it "
            f"depends on {', '.join(task.depends) or 'none'}.",
            *path,
            "depends",
        )
    wanted = values_of(job).get("format", "csv")
    if wanted not in FORMATS:
        raise dag.source.error(
            f"params.format is {wanted!r}; one of {', '.join(FORMATS)} is expected.", *path, "params"
        )


def run_task(job: Job, dag: Dag) -> str | None:
    """Return the train task whose run a job of type valid or infer is about, None where it names a run folder."""
    task, path = job.task, ("executors", job.task.name)
    before = _before(task.name, dag)
    training = [name for name in before if dag.tasks[name].type == "train"]
    named = task.details.get("run")
    if named is None and len(training) == 1:
        return training[0]
    if named in training:
        return str(named)
    if named is None or named in dag.tasks:
        said = f"there are {', '.join(training)}" if training else "there is none"
        raise dag.source.error(
            f"'{task.name}' needs a run: a task of type train that it depends on ({said}), or a run folder.",
            *path,
            "run",
        )
    if not (dag.folder / named).is_dir():
        near = closest(named, training)
        raise dag.source.error(f"run is {named!r}, neither a task before it nor a run folder.{near}", *path, "run")
    return None


def _before(name: str, dag: Dag) -> list[str]:
    """Return the tasks that a task depends on, directly or not."""
    found: dict[str, None] = {}
    left = list(dag.tasks[name].depends)
    while left:
        other = left.pop(0)
        if other not in found:
            found[other] = None
            left += dag.tasks[other].depends
    return list(found)


def _check_function(text: str, dag: Dag, *path: str) -> None:
    """Find a function without importing its module: that may do anything."""
    if not _FUNCTION.fullmatch(text):
        raise dag.source.error(f"{path[-1]} is {text!r}; module:function is expected.", *path)
    module, _, name = text.partition(":")
    file = module_file(module, dag.folder)
    if file is None:
        raise dag.source.error(
            f"there is no module '{module}' beside {dag.source.path} nor among those installed.", *path
        )
    if file.suffix != ".py":
        return
    names = set(_names(_parse(file)))
    if name not in names and "*" not in names:
        raise dag.source.error(f"{file} has no '{name}'.{closest(name, names)}", *path)


def module_file(module: str, folder: Path) -> Path | None:
    """Return the file of a module: beside the pipeline, else an installed one."""
    for name in (f"{module.replace('.', '/')}.py", f"{module.replace('.', '/')}/__init__.py"):
        if (folder / name).is_file():
            return folder / name
    try:
        spec = find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), str(file))
    except SyntaxError as error:
        raise ConfigError(f"{file}:{error.lineno}: {error.msg}.") from None


def _names(tree: ast.Module) -> Iterable[str]:
    """Yield the names that a module defines or imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (each.asname or each.name for each in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _check_arguments(job: Job, dag: Dag) -> None:
    for key in values_of(job):
        if not key.isidentifier() or key == "results":
            raise dag.source.error(
                f"'{key}' cannot be an argument of {job.task.details['function']}.", "executors", job.task.name
            )


def values_of(job: Job) -> dict[str, Any]:
    """Return the parameters of a job, those of its cell last."""
    return {**job.task.params, **job.cell}


def environment(job: Job, context: Context) -> dict[str, str]:
    """Return the variables of a job: those of this process, its devices, its values as ``FARABIO_KEY``."""
    own = {f"FARABIO_{re.sub(r'[^A-Za-z0-9]', '_', key).upper()}": shown(v) for key, v in values_of(job).items()}
    threads = str(context.share.cpus)
    seed = {} if context.dag.seed is None else {"FARABIO_SEED": str(context.dag.seed)}
    path = [str(_PACKAGE)] if not {"site-packages", "dist-packages"} & set(_PACKAGE.parts) else []
    path += [each for each in [os.environ.get("PYTHONPATH")] if each]
    return {
        **os.environ,
        **({"PYTHONPATH": os.pathsep.join(path)} if path else {}),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",  # python is this one
        "PYTHONUNBUFFERED": "1",
        "CUDA_VISIBLE_DEVICES": ",".join(context.share.gpus),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        **seed,
        **own,
        **job.task.env,
        "FARABIO_TASK": job.task.name,
        "FARABIO_CELL": " ".join(f"{key}={shown(value)}" for key, value in job.cell.items()),
        "FARABIO_LOGDIR": str(logdir(context)),
        life.FOLDER: str(context.folder),
    }


def logdir(context: Context) -> Path:
    """Return where the runs of a train task go; a run anew does not go on from the one before."""
    return context.folder / (RUNS if context.number == 1 else f"{RUNS}.{context.number}")


def commands(job: Job, context: Context) -> list[list[str]]:
    """Return what a job runs, one after another; what a function is given lies in its folder then."""
    kind = job.task.type
    if kind == "bash":
        return [["bash", "-c", _filled(job.task.details["command"], values_of(job))]]
    if kind == "train":
        return _train(job, context)
    if kind == "valid":
        return [[sys.executable, "-m", "farabio_like", "test", str(context.run)]]
    if kind == "infer":
        given = job.task.details["input"]
        output = context.folder / PREDICTIONS
        return [[sys.executable, "-m", "farabio_like", "predict", str(context.run), given, "-o", str(output)]]
    call: dict[str, Any] = {"results": context.results, "result": str(context.folder / RESULT)}
    if kind == "submit":
        predictions = next(r for name, r in context.results.items() if context.dag.tasks[name].type == "infer")
        wanted = str(values_of(job).get("format", "csv"))
        file = str(context.folder / f"submission.{wanted}")
        command = _filled(job.task.details["command"], {**values_of(job), "file": file})
        call |= {"call": "submit", "predictions": predictions["output"], "file": file, "command": command}
    elif kind == "python":
        call |= {"call": "python", "function": job.task.details["function"], "arguments": values_of(job)}
    else:
        task = {"name": job.task.name, "cell": job.cell, "params": job.task.params, "folder": str(context.folder)}
        call |= {"call": "own", "function": kind, "task": {**task, "seed": context.dag.seed}}
    _write_privately(context.folder / CALL, json.dumps(call))
    return [[sys.executable, _CALL, str(context.folder / CALL)]]


def _train(job: Job, context: Context) -> list[list[str]]:
    task = job.task
    processes = len(context.share.gpus) or context.share.cpus
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    launcher = [sys.executable, *(torchrun if task.distr else [])]
    if "script" in task.details:
        training = [*launcher, str(context.dag.folder / task.details["script"])]
    else:
        overrides = _overrides(job, context.dag, {"settings.logdir": str(logdir(context))})
        training = [*launcher, "-m", "farabio_like", "run", task.details["config"], *overrides]
        training += ["--resume", "--name", "1"]
    trace = [sys.executable, _CALL, "trace", str(logdir(context))]
    return [training, trace] if task.trace else [training]


def _overrides(job: Job, dag: Dag, more: Mapping[str, Any] | None = None) -> list[str]:
    """Return the values of a train task as its command has them; settings may be new to the configuration."""
    settings = get(load(dag.folder / job.task.details["config"]), "settings", default={})
    values: dict[str, Any] = {**values_of(job), **(more or {})}
    if dag.seed is not None and get(settings, "seed") is None:
        values.setdefault("settings.seed", dag.seed)
    found = []
    for key, value in values.items():
        is_new = key.startswith("settings.") and key.split(".")[1] not in settings
        found.append(f"{'+' * is_new}{key}={value if _is_word(value) else json.dumps(value)}")
    return found


def _is_word(value: Any) -> bool:
    """Return whether a value is text that a command line would take for nothing else."""
    return (
        isinstance(value, str)
        and re.fullmatch(r"[A-Za-z_/][\w./ -]*", value) is not None
        and _OTHER_WORDS.fullmatch(value) is None
    )


def _filled(command: str, values: Mapping[str, Any]) -> str:
    """Return a command with its ``{key}`` replaced, quoted for the shell; other braces are the shell's."""
    for key, value in values.items():
        command = command.replace(f"{{{key}}}", shlex.quote(shown(value)))
    return command


def _write_privately(path: Path, text: str) -> None:
    """Write what a task is given, for nobody else to read: there may be secrets in it."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
