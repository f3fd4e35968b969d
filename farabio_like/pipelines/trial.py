"""The process of one trial: it trains a run, from its checkpoint where there is one, and tells the study of it.

It holds the lock of its trial from its start to its end, by a file that its parent has opened, and dies with its
parent. Which trial it is comes by its standard input, so that no address with a password is in a list of processes.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import Trial, TrialState

from .. import components
from ..callbacks.base import Callback, CallbackOrder
from ..errors import ConfigError, NonFiniteError
from ..launch.build import built, plan_of
from ..rundir import index, reader
from ..training.monitor import Monitor
from .study import DIVERGED, PRUNED, Objective, Study, open_storage, pruner

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer

CONFIG_ERROR, FAILED = 2, 1
SET_PARENT_DEATH_SIGNAL = 1  # of prctl(2)
PARTS = ("valid", "train")


class Report(Callback):
    """Reports every epoch to the study, and ends the run where the study's pruner says so.

    Parameters
    ----------
    trial : optuna.trial.Trial
    goals : list of Objective
        With several of them nothing is reported before the end: pruners are for one.
    """

    order = CallbackOrder.Other

    def __init__(self, trial: Trial, goals: Sequence[Objective]) -> None:
        self.trial = trial
        self.goals = goals
        self.reported = 0

    def on_epoch_end(self, trainer: ConvnetTrainer) -> None:
        """Read the metrics of the epochs since the last report, those before a resumption included."""
        for goal in self.goals:  # a metric that is not there is said in the first epoch
            Monitor(goal.name, "max" if goal.higher else "min", owner="--metric").read(trainer, trainer.history[-1])
        if len(self.goals) > 1:
            return
        known = self.trial.storage.get_trial(self.trial._trial_id).intermediate_values
        for epoch, value in values_of(trainer.history, self.goals[0].name).items():
            if epoch > self.reported and epoch not in known:
                self.trial.report(value, epoch)
            self.reported = max(self.reported, epoch)
        if trainer.epoch < trainer._num_epochs and self.trial.should_prune():
            self.trial.set_user_attr(PRUNED, trainer.epoch)
            trainer.stop_train()


def values_of(history: Sequence[Mapping[str, Any]], name: str) -> dict[int, float]:
    """Return a metric by epoch: that of the evaluations, where any has it."""
    part, _, rest = name.partition("/")
    parts, metric = ((part,), rest) if part in PARTS and rest else (PARTS, name)
    for each in parts:
        found = {entry["epoch"]: entry[each].get(metric) for entry in history if isinstance(entry.get(each), dict)}
        numbers = {epoch: float(value) for epoch, value in found.items() if isinstance(value, (int, float))}
        if numbers:
            return numbers
    return {}


def outcome(history: Sequence[Mapping[str, Any]], goals: Sequence[Objective]) -> tuple[int, list[float]]:
    """Return the best epoch of a run by the first objective, and all objectives in that epoch.

    Raises
    ------
    ConfigError
        If no epoch has them all.
    """
    found = [values_of(history, goal.name) for goal in goals]
    epochs = [e for e in found[0] if all(math.isfinite(each.get(e, math.nan)) for each in found)]
    if not epochs:
        raise ConfigError(f"no epoch has finite numbers for {', '.join(goal.name for goal in goals)}.")
    sign = -1 if goals[0].higher else 1
    best = min(epochs, key=lambda epoch: sign * found[0][epoch])
    return best, [each[best] for each in found]


def main() -> int:
    """Try the trial that the standard input names, and return the exit status."""
    spec = json.load(sys.stdin)
    _die_with_parent(spec["parent"])
    os.set_inheritable(spec["lock"], False)
    folder = Path(spec["folder"])
    study = Study(open_storage(spec["storage"], folder), spec["study"], folder)
    study.optuna.pruner = pruner(spec["pruner"], spec["epochs"])
    trial = study.trial(spec["number"])
    try:
        _try(study, trial, spec)
    except ConfigError as error:
        print(error, file=sys.stderr)
        study.optuna.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        return CONFIG_ERROR
    except Exception as error:
        traceback.print_exc()
        if isinstance(error, NonFiniteError):
            trial.set_user_attr(DIVERGED, True)  # it would again
        study.optuna.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        return FAILED
    return 0


def _try(study: Study, trial: Trial, spec: Mapping[str, Any]) -> None:
    goals = study.goals
    if PRUNED not in trial.user_attrs:
        history = _trained(trial, goals, spec)
    if PRUNED in trial.user_attrs:
        study.optuna.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)
        return
    epoch, values = outcome(history, goals)
    trial.set_user_attr("epoch", epoch)
    study.optuna.tell(trial.number, values, skip_if_finished=True)


def _trained(trial: Trial, goals: Sequence[Objective], spec: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Train what is left of a run, and return its epochs."""
    plan = plan_of(spec["file"], overrides=spec["overrides"], allow=spec["allow"])
    run = Path(spec["runs"]) / plan.trainer.__name__ / spec["run"]
    if run.is_dir() and index.is_finished(run) and index.is_closed(run):
        files = reader.read(run)
        if spec["epochs"] == 0 or files.settings.get("_num_epochs") == str(spec["epochs"]):  # killed after its end
            return files.history
    trainer = built(plan, spec["run"])
    trainer.callbacks = [*components.each(trainer.callbacks, list, tuple), Report(trial, goals)]
    saved = run.is_dir() and bool(index.checkpoints(run))
    return trainer.train(resume=run if saved else False)


def _die_with_parent(parent: int) -> None:
    """Let the system kill this process when its parent dies, where it can: nobody would wait for it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it has died before
            os._exit(FAILED)


if __name__ == "__main__":
    sys.exit(main())
