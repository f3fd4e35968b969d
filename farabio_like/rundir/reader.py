"""Reading a run folder, also of a run that was killed. Nothing is written here."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..metrics.direction import higher_by_name, improves
from .layout import CONFIG, ENVIRONMENT, METRICS

PARTS = ("valid", "train")
_NUMBERS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


@dataclass
class RunFiles:
    """What the files of a run folder say.

    Attributes
    ----------
    path : pathlib.Path
    owner : str
        Name of the trainer's class.
    config, settings : dict of str to str
        By dotted path: ``{"data.size": "64"}``; the values as they are written.
    environment : dict
    history : list of dict
        One per epoch, as `ConvnetTrainer.train` returns it.
    best_epoch : int or None
    waiting : list of dict
        Evaluations within the epoch that is not at its end yet.
    test : dict
        The metrics of the last test.
    error : str
        What has ended the run; empty if nothing has, or if it went on since.
    """

    path: Path
    owner: str = ""
    config: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int | None = None
    waiting: list[dict[str, Any]] = field(default_factory=list)
    test: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def monitor(self) -> str:
        """The metric that decides which epoch is best."""
        return self._monitored[1]

    @property
    def _monitored(self) -> tuple[tuple[str, ...], str]:
        """The parts of which the setting asks for the metric, and its name."""
        name = self.settings.get("_monitor", "null")
        part, _, rest = name.partition("/")
        if part in PARTS and rest:
            return (part,), rest
        return PARTS, "loss" if name == "null" else name

    def best(self, name: str) -> tuple[str, float, int] | None:
        """Return part, value and epoch of the best value of a metric: a valid one where there is any.

        None too for one whose better direction neither the settings nor its name tell.
        """
        parts, monitored = self._monitored
        mode = self.settings.get("_monitor_mode", "null") if name == monitored else "null"
        higher = higher_by_name(name) if mode == "null" else mode == "max"
        for part in parts if name == monitored else PARTS:
            if name == monitored and mode == "null" and (marked := self._marked(part, name)) is not None:
                return marked
            if higher is None:
                continue
            found: tuple[str, float, int] | None = None
            for entry in self.history:
                for value in _values(entry, part, name):
                    if found is None or improves(higher, value, found[1]):
                        found = part, value, entry["epoch"]
            if found is not None:
                return found
        return None

    def _marked(self, part: str, name: str) -> tuple[str, float, int] | None:
        """Return part, value and epoch where the run itself has found the best, by what a metric object said."""
        entry: dict[str, Any] = next((entry for entry in self.history if entry["epoch"] == self.best_epoch), {})
        within = [record for record in entry.get("evaluations", ()) if record.get("best")]
        best = within[-1] if within and not entry.get("best") else entry
        value = best.get(part, {}).get(name)
        return (part, value, entry["epoch"]) if isinstance(value, (int, float)) else None


def read(folder: str | Path) -> RunFiles:
    """Read a run folder.

    Parameters
    ----------
    folder : path

    Returns
    -------
    RunFiles

    Raises
    ------
    ConfigError
        If it is no run folder.
    """
    from . import config_file

    path = Path(folder)
    if not path.is_dir():
        raise ConfigError(f"{path} is no folder. Give run folders, as in runs/Digits/1.")
    if not (path / CONFIG).is_file() and not (path / METRICS).is_file():
        inside = sorted(found.parent for found in path.glob(f"*/{CONFIG}"))
        hint = f" There are runs in it: {', '.join(map(str, inside[:5]))}." if inside else ""
        raise ConfigError(f"{path} is no run folder: it has neither {CONFIG} nor {METRICS}.{hint}")
    run = RunFiles(path)
    values, problems = config_file.values(_text(path / CONFIG, config_file.LARGEST + 1))
    for problem in problems:
        warnings.warn(f"{path / CONFIG}: {problem}", stacklevel=1)  # said once, however often it is read
    run.owner = values.get("class", "")
    run.config = {key[len("config.") :]: value for key, value in values.items() if key.startswith("config.")}
    run.settings = {key[len("settings.") :]: value for key, value in values.items() if key.startswith("settings.")}
    run.environment = _object(_text(path / ENVIRONMENT))
    for line in _text(path / METRICS).splitlines():
        _add(run, _object(line))
    return run


def _add(run: RunFiles, entry: dict[str, Any]) -> None:
    """Add a line of metrics.jsonl; an epoch that comes again, after a resume, takes the place of the first one."""
    if isinstance(entry.get("test"), dict):
        run.test = entry["test"]
    if isinstance(entry.get("error"), str):
        run.error = f"{entry['error']} (step {entry.get('step')})"
    if _is_evaluation(entry):
        run.waiting.append(entry)
    if "train" not in entry or not isinstance(entry.get("epoch"), int):
        return  # before the first step, or a line of another kind
    while run.history and run.history[-1]["epoch"] >= entry["epoch"]:
        run.history.pop()
    within = [record for record in run.waiting if record["epoch"] == entry["epoch"]]
    run.waiting = []
    run.history.append({**entry, "evaluations": within} if within else entry)
    run.error = ""
    marked = [e["epoch"] for e in run.history if e.get("best") or any(r.get("best") for r in e.get("evaluations", ()))]
    run.best_epoch = marked[-1] if marked else None


def _is_evaluation(entry: dict[str, Any]) -> bool:
    """Return whether a line is that of an evaluation within an epoch."""
    counted = all(type(entry.get(name)) is int for name in ("epoch", "step", "batch"))
    return counted and "train" not in entry and isinstance(entry.get("valid"), dict)


def _values(entry: dict[str, Any], part: str, name: str) -> list[float]:
    """Return the numbers that an epoch has of a metric: those of the evaluations within it, and its own."""
    parts = [entry, *entry.get("evaluations", ())] if part == "valid" else [entry]
    found = [each.get(part, {}).get(name) for each in parts]
    return [value for value in found if isinstance(value, (int, float)) and value == value]


def _text(path: Path, most: int = -1) -> str:
    """Return a file's text, its first so many characters; of a file that is not there, none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(most)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}.") from error


def _object(text: str) -> dict[str, Any]:
    """Return a JSON object; an empty one for text that a killed process has left unfinished."""
    try:
        found = json.loads(text)
        return _with_numbers(found) if isinstance(found, dict) else {}
    except (ValueError, RecursionError):
        return {}


def _with_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_numbers(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_numbers(part) for part in value]
    return _NUMBERS.get(value, value) if isinstance(value, str) else value
