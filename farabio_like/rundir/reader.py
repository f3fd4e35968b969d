"""Reading a run folder, also of a run that was killed. Nothing is written here."""

from __future__ import annotations

import math
import os
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint import access
from ..config.secrets import Secrets
from ..errors import ConfigError, printable
from ..metrics.direction import higher_by_name, improves
from .layout import CONFIG, ENVIRONMENT, METRICS

PARTS = ("valid", "train")
# Of a file that is read; far beyond any that a run writes.
LAST_EPOCH = 1 << 53
MOST_EPOCHS = 250_000
MOST_KEPT = 1 << 28  # characters of the lines of epochs
MOST_METRICS = 200  # of a part of an epoch
LONGEST_ERROR = 10_000  # characters
LONGEST_SECONDS = 1e10  # of an epoch
MOST_PROBLEMS = 5  # of a file that are told
_OF_THE_RUN = {"train", "test", "error", "batch"}  # lines with one of these are not a logger's
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
    problems : list of str
        What could not be read, for each file.
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
    problems: list[str] = field(default_factory=list)

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
    """Read a run folder; it may be a stranger's, and what cannot be read of it is named in a warning for each file.

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
    path = Path(folder)
    if not path.is_dir():
        raise ConfigError(f"{path} is no folder. Give run folders, as in runs/Digits/1.")
    if not os.path.lexists(path / CONFIG) and not os.path.lexists(path / METRICS):
        inside = sorted(found.parent for found in path.glob(f"*/{CONFIG}"))
        hint = f" There are runs in it: {', '.join(map(str, inside[:5]))}." if inside else ""
        raise ConfigError(f"{path} is no run folder: it has neither {CONFIG} nor {METRICS}.{hint}")
    run, secrets = RunFiles(path), Secrets()
    for name, take in ((CONFIG, _take_config), (ENVIRONMENT, _take_environment), (METRICS, _take_metrics)):
        problems: list[str] = []
        try:
            take(run, path / name, secrets, problems)
        except FileNotFoundError:
            pass
        except OSError as error:
            problems.append(error.strerror or str(error))
        except ValueError as error:
            problems.append(str(error))
        if problems:
            more = [f"and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
            said = printable("; ".join([*problems[:MOST_PROBLEMS], *more]))
            run.problems.append(f"{name}: {said}")
            warnings.warn(f"{printable(str(path / name))}: {said}", stacklevel=1)  # said once, however often it is read
    return run


def _take_config(run: RunFiles, path: Path, secrets: Secrets, problems: list[str]) -> None:
    from . import config_file

    found, damage = config_file.values(access.read_text(path, run.path, 4 * (config_file.LARGEST + 1)))
    problems += damage
    found = secrets.leaves(found)
    run.owner = found.get("class", "")
    run.config = {key[len("config.") :]: value for key, value in found.items() if key.startswith("config.")}
    run.settings = {key[len("settings.") :]: value for key, value in found.items() if key.startswith("settings.")}


def _take_environment(run: RunFiles, path: Path, secrets: Secrets, problems: list[str]) -> None:
    try:
        found = access.read_object(path, run.path)
        command = found.get("command")
        if isinstance(command, list):
            found["command"] = secrets.arguments(map(str, command))
        run.environment = secrets.values(found)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _take_metrics(run: RunFiles, path: Path, secrets: Secrets, problems: list[str]) -> None:
    room = MOST_KEPT
    for number, entry in access.lines(path, run.path, problems):
        if entry.keys().isdisjoint(_OF_THE_RUN):
            continue  # of a logger's interval, or of another kind
        where = f"line {number}"
        try:
            size = len(repr(entry))
            room -= size
            if room < 0 or len(run.history) >= MOST_EPOCHS:
                problems.append(f"from {where} on: it has more epochs than are read")
                return
            _add(run, _with_numbers(entry), where, secrets, problems)
        except RecursionError:
            problems.append(f"{where}: it is nested too deeply")


def _add(run: RunFiles, entry: dict[str, Any], where: str, secrets: Secrets, problems: list[str]) -> None:
    """Add a line of metrics.jsonl; an epoch that comes again, after a resume, takes the place of the first one."""
    if "test" in entry:
        run.test = _metrics(entry, "test", where, problems)
    if isinstance(entry.get("error"), str):
        step = entry.get("step")
        said = f" (step {step})" if isinstance(step, int) else ""
        run.error = f"{secrets.text(entry['error'][:LONGEST_ERROR])}{said}"
    if _is_evaluation(entry):
        run.waiting.append({**entry, "valid": _metrics(entry, "valid", where, problems)})
    if "train" not in entry:
        return  # before the first step, or a line of another kind
    epoch = entry.get("epoch")
    if type(epoch) is not int or not 0 <= epoch <= LAST_EPOCH:
        problems.append(f"{where}: 'epoch' is {_short(epoch)}, not the number of one")
        return
    while run.history and run.history[-1]["epoch"] >= epoch:
        run.history.pop()
    for part in ("train", "valid"):
        if part in entry:
            entry[part] = _metrics(entry, part, where, problems)
    for name, fits in (("lr", _is_rate), ("seconds", _is_duration)):
        if name in entry and not fits(entry[name]):
            problems.append(f"{where}: '{name}' is {_short(entry.pop(name))}, not a number that it can be")
    entry.pop("evaluations", None)  # they are those of the lines before
    if type(entry.get("batches", 0)) is not int:
        del entry["batches"]
    within = [record for record in run.waiting if record["epoch"] == epoch]
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


def _metrics(entry: dict[str, Any], part: str, where: str, problems: list[str]) -> dict[str, Any]:
    """Return the metrics of a part of a line, as many as are read, and none where it has something else there."""
    found = entry[part]
    if not isinstance(found, dict):
        problems.append(f"{where}: '{part}' is {_short(found)}, not the metrics by their names")
        return {}
    if len(found) > MOST_METRICS:
        problems.append(f"{where}: '{part}' has {len(found)} metrics; {MOST_METRICS} are read")
        found = dict(list(found.items())[:MOST_METRICS])
    return found


def _is_rate(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_rate, value.values()))
    if isinstance(value, list):
        return all(map(_is_rate, value))
    return value is None or isinstance(value, (int, float))


def _is_duration(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= LONGEST_SECONDS


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _with_numbers(value: Any) -> Any:
    """Return parts of JSON with their numbers, each of which a float has room for."""
    if isinstance(value, dict):
        return {key: _with_numbers(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_numbers(part) for part in value]
    if isinstance(value, int) and abs(value) > LAST_EPOCH:
        return float(value) if abs(value) < sys.float_info.max else math.inf if value > 0 else -math.inf
    return _NUMBERS.get(value, value) if isinstance(value, str) else value
