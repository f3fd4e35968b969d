"""What a search has found: the table of its trials, the best one, its configuration, and pictures."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from .. import plots
from ..config.files import load, save
from ..errors import ConfigError, closest
from ..rundir import layout
from . import grid
from .search import RECORD
from .study import EPOCHS, PRUNED, RUN, VALUES, Study, open_storage, study_of
from .workers import say_best, values_text

OWN_SETTINGS = ("logdir", "monitor", "monitor_mode")  # that a search sets by itself
WIDTH, HEIGHT = 8.0, 4.5  # inches


def storage_of(searches: Path, name: str, url: str | None) -> RDBStorage:
    """Open the storage of a search that is there."""
    folder = searches.expanduser() / name
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = None
    if url is None and record is None:
        there = [path.parent.name for path in searches.expanduser().glob(f"*/{RECORD}")]
        said = f" There are: {', '.join(sorted(there))}." if there else ""
        raise ConfigError(f"there is no search {name!r} in {searches}.{closest(name, there)}{said}")
    if url is None and record.get("storage"):
        raise ConfigError(f"the trials of {name} are in {record['storage']}. Give it: --storage ...")
    return open_storage(url, folder)


def _study(searches: Path, name: str, url: str | None) -> Study:
    return study_of(storage_of(searches, name, url), name, (searches.expanduser() / name).absolute())


def overview(searches: Path) -> str:
    """Return a line for each search in a folder."""
    lines = []
    for path in sorted(searches.expanduser().glob(f"*/{RECORD}")):
        name = path.parent.name
        try:
            study = _study(searches, name, None)
        except ConfigError as error:
            lines.append(f"{name}: {error}")
        else:
            lines.append(f"{name}: {_counts(list(study.trials().values()))}")
    return "\n".join(lines) or f"there is no search in {searches}"


def _counts(trials: list[FrozenTrial]) -> str:
    states = [trial.state for trial in trials]
    return ", ".join(f"{states.count(state)} {state.name.lower()}" for state in TrialState if state in states)


def status(searches: Path, name: str, url: str | None) -> str:
    """Return the trials of a search, a line each, and how many there are of each state."""
    study = _study(searches, name, url)
    trials = list(study.trials().values())
    epochs = study.optuna.user_attrs[EPOCHS]
    lines = [f"{name}: {_counts(trials)}{f', of {epochs} epochs' if epochs else ''}"]
    for trial in trials:
        lines.append(f"{trial.number:>5}  {trial.state.name.lower():<9} {_told(study, trial)}")
    say_best(study, lines.append)
    return "\n".join(lines)


def _told(study: Study, trial: FrozenTrial) -> str:
    text = grid.name(trial.user_attrs[VALUES] or trial.params)
    if trial.state == TrialState.COMPLETE:
        return f"{text}: {values_text(trial, study.goals)}"
    if trial.state == TrialState.PRUNED:
        return f"{text}: after epoch {trial.user_attrs.get(PRUNED, '?')}"
    if trial.state != TrialState.RUNNING:
        return text
    reported = trial.last_step
    where = f"epoch {reported}: {trial.intermediate_values[reported]:.6g}" if reported is not None else "no epoch yet"
    run = trial.user_attrs.get(RUN)
    lives = (
        "" if not study.is_ours(trial) or study.is_held(run) else "; its process is dead, the same line goes on with it"
    )
    return f"{text}: {where}{lives}"


def best(searches: Path, name: str, url: str | None, write: Path | None) -> str:
    """Return the best trials, and write the configuration of the first of them."""
    study = _study(searches, name, url)
    lines: list[str] = []
    say_best(study, lines.append)
    if not lines:
        raise ConfigError(f"no trial of {name} is complete yet: farabio-like search status {name}")
    if write is not None:
        lines.append(_write(study, study.best()[0], write))
    return "\n".join(lines)


def _write(study: Study, trial: FrozenTrial, path: Path) -> str:
    kept = study.run_folder(trial) / layout.LAUNCH
    if not kept.is_file():
        raise ConfigError(f"the run of the best trial is not on this machine: there is no {kept}.")
    configuration = load(kept)
    settings: dict[str, Any] = configuration.get("settings") or {}
    for key in OWN_SETTINGS:
        settings.pop(key, None)
    save(configuration, path)
    source = str(configuration.get("trainer", "")).rpartition(":")[0]
    if source.endswith(".py") and not (path.absolute().parent / source).is_file():
        return f"{path} is written; put {source} beside it"
    return f"{path} is written"


def pictures(searches: Path, name: str, url: str | None) -> list[Path]:
    """Draw the history of the first objective and the importance of each value into the search's folder."""
    study = _study(searches, name, url)
    goal = study.goals[0]
    done = [trial for trial in study.trials().values() if trial.state == TrialState.COMPLETE]
    if not done:
        raise ConfigError(f"no trial of {name} is complete yet: there is nothing to draw.")
    numbers, values = [trial.number for trial in done], [trial.values[0] for trial in done]
    figure = plots.new_figure(WIDTH, HEIGHT)
    axes = figure.add_subplot()
    better = max if goal.higher else min
    order = sorted(zip(numbers, values, strict=True))
    so_far = [better(value for _, value in order[: index + 1]) for index in range(len(order))]
    axes.plot(numbers, values, "o", label="a trial")
    axes.step([number for number, _ in order], so_far, where="post", label="best so far")
    axes.set(xlabel="trial", ylabel=goal.name)
    axes.legend()
    made = [study.folder / "history.png"]
    plots.save(figure, made[0])
    importance = _importance(study)
    if importance:
        figure = plots.new_figure(WIDTH, HEIGHT)
        axes = figure.add_subplot()
        axes.barh(list(importance)[::-1], list(importance.values())[::-1])
        axes.set(xlabel=f"importance for {goal.name}", xlim=(0, 1))
        made.append(study.folder / "importance.png")
        plots.save(figure, made[1])
    return made


def _importance(study: Study) -> dict[str, float]:
    """Return how much of the spread of the results each value explains; nothing where too few trials tell."""
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return optuna.importance.get_param_importances(
                study.optuna, evaluator=evaluator, target=lambda trial: trial.values[0]
            )
        except (ValueError, RuntimeError):  # fewer than two trials, or one value
            return {}
