"""What a job has given: of a function its value, of a training its run folder and best metric.

It is worked out once, when the job has succeeded, and kept beside its events.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .kinds import PREDICTIONS, RUNS
from .record import RESULT, write_durably

METRICS = "metrics.jsonl"
LAST_BYTES = 65_536  # of a file of metrics that is looked at while a task trains


def of(folder: Path, kind: str, run: str | None = None) -> Any:
    """Return the result of a job that has succeeded, as plain data.

    Parameters
    ----------
    folder : Path
        Of the job.
    kind : str
        The type of the task.
    run : str, optional
        The run folder that a job of type valid or infer is about.
    """
    with contextlib.suppress(OSError, ValueError):
        return json.loads((folder / RESULT).read_text(encoding="utf-8"))
    value: Any = None
    if kind == "train":
        run_of_it = run_folder(folder)
        value = {"run": str(run_of_it) if run_of_it is not None else None}
        with contextlib.suppress(ConfigError, OSError):  # the run is what counts: its numbers may be unreadable
            value |= _best(run_of_it)
    elif kind == "valid":
        value = {"run": run, "metrics": _run_files(run).test if run is not None else {}}
    elif kind == "infer":
        value = {"run": run, "output": str(folder / PREDICTIONS)}
    if value is not None:
        with contextlib.suppress(OSError):
            write_durably(folder / RESULT, json.dumps(value))
    return value


def run_folder(folder: Path) -> Path | None:
    """Return the newest run folder of a train task: that of the last time when it was run anew."""
    for logdir in sorted(folder.glob(f"{RUNS}*"), key=_number, reverse=True):
        runs = [path.parent for path in logdir.glob("*/*/config.yaml")]
        if runs:
            return max(runs, key=lambda path: (path / "config.yaml").stat().st_mtime)
    return None


def _number(logdir: Path) -> int:
    match = re.fullmatch(r".*\.(\d+)", logdir.name)
    return int(match[1]) if match else 1


def _best(run: Path | None) -> dict[str, Any]:
    """Return the best value of what a run monitors."""
    if run is None:
        return {}
    # Late: it takes the import of torch, for which a pipeline without a training does not wait.
    from ..metrics.direction import higher_by_name

    files = _run_files(run)
    best = files.best(files.monitor)
    if best is None:
        return {}
    mode = files.settings.get("_monitor_mode", "null")
    higher = higher_by_name(files.monitor) if mode == "null" else mode == "max"
    return {"metric": f"{best[0]}/{files.monitor}", "value": best[1], "epoch": best[2], "higher": higher}


def _run_files(run: str | Path) -> Any:
    from ..rundir import reader

    return reader.read(run)


def best_run(outcomes: Mapping[str, Any]) -> str:
    """Return the run folder with the best value of what is monitored.

    Parameters
    ----------
    outcomes : mapping of str to dict
        Result by job.

    Raises
    ------
    ConfigError
        If there is none, or if nothing tells which is better.
    """
    for name, outcome in outcomes.items():
        if not outcome or not outcome.get("run"):
            raise ConfigError(
                f"{name} has left no run: a script's trainer needs self._logdir = os.environ['FARABIO_LOGDIR']."
            )
    found = list(outcomes.values())
    if len(found) == 1:
        return str(found[0]["run"])
    metrics = {each.get("metric") for each in found}
    higher = found[0].get("higher")
    if len(metrics) > 1 or None in metrics or higher is None:
        raise ConfigError(
            f"which of the runs of {', '.join(outcomes)} is the best cannot be told: they monitor {metrics}. Set "
            "_monitor and _monitor_mode, or name a run folder."
        )
    best = max(found, key=lambda each: each["value"] if higher else -each["value"])
    return str(best["run"])


def metric_text(value: Any) -> str:
    """Return the metric of a result for the terminal; empty where it has none."""
    if not isinstance(value, dict):
        return ""
    if "metric" in value:
        return f", best {value['metric']} {value['value']:.4g} in epoch {value['epoch']}"
    shown = [f"{k} {v:.4g}" for k, v in (value.get("metrics") or {}).items() if isinstance(v, (int, float))]
    return f", {', '.join(shown)}" if shown else ""


def last_metric(folder: Path) -> str:
    """Return the metrics of the last epoch of a training under way, or of one that has ended."""
    run = run_folder(folder)
    for entry in reversed(curve(run, LAST_BYTES) if run is not None else []):
        part = "valid" if isinstance(entry.get("valid"), dict) and entry["valid"] else "train"
        values = entry.get(part)
        if isinstance(values, dict):
            numbers = [f"{part}/{k} {v:.4g}" for k, v in values.items() if isinstance(v, (int, float))]
            return f"epoch {entry.get('epoch', '?')}: {', '.join(numbers[:3])}"
    return ""


def curve(run: Path, last: int | None = None) -> list[dict[str, Any]]:
    """Return the epochs that the metrics of a run folder tell of, of its last bytes where that is asked for."""
    try:
        with open(run / METRICS, "rb") as file:
            if last is not None:
                file.seek(max(0, file.seek(0, 2) - last))
            text = file.read()
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and "train" in entry and "batch" not in entry:
                found.append(entry)
    return found
