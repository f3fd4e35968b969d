"""What a search is asked for, checked before the first trial; with file and line for what is wrong."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..config.files import read
from ..config.secrets import Secrets
from ..errors import ConfigError, closest
from ..launch.build import plan_of
from ..launch.plan import LaunchPlan
from ..metrics.direction import higher_by_name
from .space import GRID, Range, as_overrides, find_ranges, grid_cells, slug, to_set, without
from .study import PRUNERS, RUNS, SAMPLERS, Objective, Space, cell_key, checked_url

MOST_TRIALS = 100_000
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,59}", re.ASCII)


@dataclass
class Asked:
    """What a command line asks for.

    Attributes
    ----------
    file : pathlib.Path
        The configuration.
    overrides : list of str
    grid : list of str
        Rows; empty for ranges.
    trials : int or None
    metrics : list of str
        ``accuracy``, or ``throughput=max`` for one whose name does not tell which is better.
    epochs : int or None
    sampler, pruner : str, str or None
    seed : int or None
        Of the sampler.
    workers : int
    storage : str or None
    name : str or None
    searches : pathlib.Path
        The folder of all searches.
    allow : list of str
        Modules that the configuration may import from.
    """

    file: Path
    overrides: list[str] = field(default_factory=list)
    grid: list[str] = field(default_factory=list)
    trials: int | None = None
    metrics: list[str] = field(default_factory=list)
    epochs: int | None = None
    sampler: str = "tpe"
    pruner: str | None = None
    seed: int | None = None
    workers: int = 1
    storage: str | None = None
    name: str | None = None
    searches: Path = Path("searches")
    allow: list[str] = field(default_factory=list)

    @property
    def search(self) -> str:
        """The name of the search: that of the file where none is given."""
        return self.name or self.file.stem

    def line(self, name: str) -> str:
        """Return the same command line with another name."""
        words = ["farabio-like", "search", str(self.file), *self.overrides]
        words += [word for row in self.grid for word in (GRID, row)]
        given = {"trials": self.trials, "epochs": self.epochs, "pruner": self.pruner, "seed": self.seed}
        words += [word for key, value in given.items() if value is not None for word in (f"--{key}", str(value))]
        words += [word for metric in self.metrics for word in ("--metric", metric)]
        words += ["--sampler", self.sampler] if self.sampler != "tpe" else []
        words += ["--workers", str(self.workers)] if self.workers != 1 else []
        return Secrets().text(shlex.join([*words, "--name", name]))


@dataclass
class Checked:
    """A search that can start.

    Attributes
    ----------
    asked : Asked
    folder : pathlib.Path
    space : Space
    goals : list of Objective
    epochs : int
        0 where the trainer's class says it.
    overrides : list of str
        Of every trial.
    settings : dict
        What must stay the same while the study goes on, as plain data.
    """

    asked: Asked
    folder: Path
    space: Space
    goals: list[Objective]
    epochs: int
    overrides: list[str]
    settings: dict[str, Any]

    def run_name(self, values: Mapping[str, Any]) -> str:
        """Return the name of the run folder of some values."""
        return slug(values, self.settings["configuration"])

    @cached_property
    def wanted(self) -> dict[str, Mapping[str, Any] | None]:
        """By key what is to be tried: a cell, or None for what is drawn."""
        cells = {cell_key(cell): cell for cell in self.space.cells}
        return dict(cells) or {str(number): None for number in range(self.asked.trials or 0)}


def check(asked: Asked) -> Checked:
    """Check everything that can be known before the first trial.

    Raises
    ------
    ConfigError
        With file and line, for what is wrong.
    """
    _check_options(asked)
    data, places, written = read(asked.file, overrides=asked.overrides)
    if not isinstance(data, dict):
        raise ConfigError(f"{asked.file} is a list; expected the configuration of a run.")
    cells = grid_cells(asked.grid, asked.file) if asked.grid else []
    searched = {key.lstrip("+") for cell in cells for key in cell}
    ranges = [each for each in find_ranges(data, places) if each.key not in searched]
    if cells and ranges:
        each = ranges[0]
        raise ConfigError(
            f"{each.where}: {each.key} is a range, and {GRID} gives it no values. Write --trials 20 instead."
        )
    if not cells and not ranges:
        raise ConfigError(
            f"{asked.file} has no range to draw from. Write a value as {{low: 1e-5, high: 1e-1, log: true}}, or give "
            f"{GRID} config.lr=0.1,0.01 in place of --trials."
        )
    fixed = _fixed(asked, data, searched | {each.key for each in ranges})
    plan = _check_values(asked, ranges, cells, fixed)
    goals = _goals(asked, plan)
    fixed += [to_set(data, "monitor", goals[0].name), to_set(data, "monitor_mode", "max" if goals[0].higher else "min")]
    configuration = without(written, [key for key in searched if not _is_new(key, cells)], places)
    configuration = Secrets(data).values(configuration)
    if isinstance(configuration.get("settings"), dict):
        for name in ("num_epochs", "logdir", "monitor", "monitor_mode"):
            configuration["settings"].pop(name, None)
    space = Space(ranges, cells)
    settings = {
        "trainer": plan.trainer.__name__,
        "configuration": configuration,
        "metrics": [goal.name for goal in goals],
        "directions": ["max" if goal.higher else "min" for goal in goals],
        "grid": space.kinds if cells else {},
    }
    folder = (asked.searches.expanduser() / asked.search).absolute()
    epochs = plan.settings.get("_num_epochs", 0) if "settings.num_epochs" not in searched else 0
    return Checked(asked, folder, space, goals, epochs, [*asked.overrides, *fixed], settings)


def _is_new(key: str, cells: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a key is one that cells add to the configuration."""
    return any(f"+{key}" in cell for cell in cells)


def _check_options(asked: Asked) -> None:
    if not asked.grid and asked.trials is None:
        raise ConfigError(f"nothing says what to try. Write {GRID} config.lr=0.1,0.01, or --trials 20 with ranges.")
    if asked.grid and asked.trials is not None:
        raise ConfigError(f"{GRID} tries its cells, and --trials draws from ranges; give one of them.")
    if asked.trials is not None and not 1 <= asked.trials <= MOST_TRIALS:
        raise ConfigError(f"--trials {asked.trials}: expected 1 to {MOST_TRIALS}.")
    for option, value, there in (("sampler", asked.sampler, SAMPLERS), ("pruner", asked.pruner, PRUNERS)):
        if value is not None and value not in there:
            raise ConfigError(f"--{option} {value!r}: expected {', '.join(there)}.{closest(value, there, cutoff=0.5)}")
    if asked.workers < 1:
        raise ConfigError(f"--workers {asked.workers}: expected 1 or more.")
    if asked.epochs is not None and asked.epochs < 1:
        raise ConfigError(f"--epochs {asked.epochs}: expected 1 or more.")
    if not _NAME.fullmatch(asked.search):
        raise ConfigError(
            f"the name {asked.search!r}: expected letters, digits, _, . and -, 60 at most. Give a --name."
        )
    if len(asked.metrics) > 1 and (asked.pruner is not None or asked.sampler == "cmaes"):
        option = "--sampler cmaes" if asked.pruner is None else f"--pruner {asked.pruner}"
        raise ConfigError(f"{option} is for one objective; --metric names {len(asked.metrics)}.")
    if asked.storage is not None:
        checked_url(asked.storage)


def _fixed(asked: Asked, data: Mapping[str, Any], searched: set[str]) -> list[str]:
    """Return the overrides that every trial gets beside those of the command line."""
    taken = searched & {"settings.logdir", "settings.monitor", "settings.monitor_mode", "trainer"}
    if taken:
        raise ConfigError(f"{min(taken)} cannot be searched: it is the same in all trials.")
    fixed = [to_set(data, "logdir", str((asked.searches.expanduser() / asked.search).absolute() / RUNS))]
    if asked.epochs is not None:
        if "settings.num_epochs" in searched:
            raise ConfigError("--epochs says what settings.num_epochs, which is searched, is to be.")
        if data.get("stages"):
            raise ConfigError("--epochs: the configuration has stages, which say their epochs themselves.")
        fixed.append(to_set(data, "num_epochs", asked.epochs))
    return fixed


def _check_values(
    asked: Asked, ranges: Sequence[Range], cells: Sequence[Mapping[str, Any]], fixed: Sequence[str]
) -> LaunchPlan:
    """Check the configuration with every value that a grid has, and with both ends of every range; return one plan."""
    seen: set[str] = set()
    plan: LaunchPlan | None = None
    tries = cells or _examples(ranges)
    for values in tries:
        new = set(as_overrides(values)) - seen
        if new:
            seen |= new
            overrides = [*asked.overrides, *fixed, *as_overrides(values)]
            plan = plan_of(asked.file, overrides=overrides, allow=asked.allow)
    assert plan is not None
    return plan


def _examples(ranges: Sequence[Range]) -> list[dict[str, Any]]:
    """Return values with which every end and every choice of every range comes once."""
    most = max(len(each.examples()) for each in ranges)
    return [{e.key: e.examples()[min(i, len(e.examples()) - 1)] for e in ranges} for i in range(most)]


def _goals(asked: Asked, plan: LaunchPlan) -> list[Objective]:
    """Return the objectives: by default the metric that the configuration monitors, else the loss."""
    own = plan.settings.get("_monitor") or "loss"
    mode = plan.settings.get("_monitor_mode")
    given = asked.metrics or [f"{own}={mode}" if mode else own]
    goals = []
    for text in given:
        name, equals, said = text.partition("=")
        higher = {"max": True, "min": False}.get(said) if equals else higher_by_name(name.rpartition("/")[2])
        if not name or higher is None:
            raise ConfigError(
                f"--metric {text!r}: nothing tells whether more or less of it is better. Write --metric "
                f"{name or 'accuracy'}=max, or --metric {name or 'loss'}=min."
            )
        goals.append(Objective(name, higher))
    if len({goal.name for goal in goals}) < len(goals):
        raise ConfigError(f"--metric: one of them is there twice: {', '.join(given)}.")
    return goals
