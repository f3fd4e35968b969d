"""A search: everything is checked, what is wanted is written into the study, and processes try it, some at a time.

A trial is a process that trains one run (`trial`). It holds a lock of the system's, so that one that is paused is
never tried a second time beside itself, and one that was killed is gone on with from its checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from ..errors import ConfigError
from .asked import Asked, Checked, check
from .record import write_durably
from .space import differences
from .study import AGAIN, DIVERGED, DONE, EPOCHS, RUN, VALUES, Study, checked_url, held, open_storage, pruner, studies
from .workers import Say, Workers, say_best

RECORD = "search.json"


def run(asked: Asked, say: Say) -> int:
    """Search, and return the exit status: 1 where a trial has failed."""
    checked = check(asked)
    folder = checked.folder
    folder.mkdir(parents=True, exist_ok=True)
    storage = open_storage(asked.storage, folder)
    with held(folder / "lock"):
        study = _prepare(checked, storage, say)
    if study is None:
        return 0
    study.optuna.pruner = pruner(asked.pruner, checked.epochs)
    shown = None if asked.storage is None else checked_url(asked.storage).render_as_string()
    write_durably(folder / RECORD, json.dumps({"file": str(asked.file.absolute()), "storage": shown}))
    return Workers(checked, study, say).run()


def _prepare(checked: Checked, storage: Any, say: Say) -> Study | None:
    """Return the study with all that is wanted in it; None where nothing is to be done."""
    asked, there = checked.asked, studies(storage, checked.asked.search)
    before = Study(storage, list(there.values())[-1], checked.folder) if there else None
    if before is not None and not _can_go_on(checked, before, say):
        before = None
    last = before.optuna.user_attrs[EPOCHS] if before is not None else 0
    if before is not None and checked.epochs < last:
        say(
            f"{asked.search} was trained for {last} epochs: nothing is trained for {checked.epochs or 'fewer'}. To go "
            f"on: --epochs {last}, or more. To search with fewer: {asked.line(f'{asked.search}-2')}"
        )
        say_best(before, say)
        return None
    if before is not None and checked.epochs == last:
        study = before
    else:
        study = Study.make(storage, asked.search, checked.epochs, checked.folder, checked.goals, checked.settings)
    if before is not None and study is not before:
        _carry(checked, before, study, say)
    trials = study.trials()
    for key, values in checked.wanted.items():
        if key not in trials:
            study.want(key, values, checked.space.fixed(values or {}))
    _want_again(checked, study, trials, say)
    return study


def _can_go_on(checked: Checked, before: Study, say: Say) -> bool:
    """Return whether the study there is is this one; a study of other settings without any result gives way.

    Raises
    ------
    ConfigError
        With the differences, where it has results.
    """
    asked = checked.asked
    lines = differences(before.settings, json.loads(json.dumps(checked.settings)))
    if not lines:
        return True
    if not any(_has_results(before, trial) for trial in before.trials().values()):
        before.storage.delete_study(before.optuna._study_id)
        say(f"{asked.search} had no results, and is begun anew with other settings")
        return False
    listed = "\n".join(f"  {line}" for line in lines)
    raise ConfigError(
        f"the search {asked.search} in {checked.folder} was begun with other settings:\n{listed}\n"
        f"To search with these: {asked.line(f'{asked.search}-2')}"
    )


def _has_results(study: Study, trial: FrozenTrial) -> bool:
    """Return whether something would be lost with a trial: an epoch, or a process that is at it."""
    if trial.state in DONE or trial.intermediate_values:
        return True
    return trial.state == TrialState.RUNNING and (not study.is_ours(trial) or study.is_held(trial.user_attrs.get(RUN)))


def _carry(checked: Checked, before: Study, study: Study, say: Say) -> None:
    """Ask for the trials of a study with fewer epochs, in the one with more: their runs go on from where they are."""
    count = 0
    for key, trial in before.trials().items():
        values = trial.user_attrs[VALUES]
        if trial.params and (values is None or key in checked.wanted):
            study.want(key, values, trial.params)
            count += trial.state in DONE
    say(f"{count} trials go on from where they are, to {checked.epochs} epochs")


def _want_again(checked: Checked, study: Study, trials: Mapping[str, FrozenTrial], say: Say) -> None:
    """Ask again for the trials whose run folder is gone, and for those that have failed."""
    wanted = checked.wanted
    for key, trial in trials.items():
        run = trial.user_attrs.get(RUN)
        if key not in wanted or not trial.state.is_finished() or run is None or not study.is_ours(trial):
            continue
        gone = not study.run_folder(trial).is_dir()
        failed = trial.state == TrialState.FAIL and DIVERGED not in trial.user_attrs
        if gone or failed:
            why = "has failed" if failed else f"has lost its run folder {run}"
            say(f"trial {trial.number} {why}: it is tried again")
            study.want(key, trial.user_attrs[VALUES], trial.params, trial.user_attrs[AGAIN] + 1)
