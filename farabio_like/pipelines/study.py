"""The study of a search in Optuna's storage: what is to be tried, who tries it, and what has come out.

A trial is known by its key, a cell or a number, and by how many times it has been started anew, since one that has
ended stays as it is in Optuna. Of those with the same key the newest counts, of the same age the first. Processes that
try are in `search`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from ..errors import ConfigError, closest
from .space import Range, written

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

SAMPLERS, PRUNERS = ("tpe", "random", "cmaes"), ("median", "hyperband")
RUNS = "runs"  # a folder in that of a search
SEARCH, EPOCHS, SETTINGS = "farabio_search", "farabio_epochs", "farabio_settings"  # of a study
KEY, VALUES, AGAIN, RUN, MACHINE, PRUNED, DIVERGED = "key", "values", "again", "run", "machine", "pruned", "diverged"
PATIENCE = 60  # seconds for a database that another process holds
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
Errors = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)


@dataclass(frozen=True)
class Objective:
    """A metric that is to become more, or less.

    Attributes
    ----------
    name : str
        As ``_monitor`` has it: ``accuracy``, ``train/loss``.
    higher : bool
    """

    name: str
    higher: bool


def open_storage(url: str | None, folder: Path) -> RDBStorage:
    """Open where trials are recorded: by default a file of SQLite in the search's folder."""
    if url is None:
        made = sqlalchemy.URL.create("sqlite", database=str(folder.resolve() / "study.db"))
    else:
        made = checked_url(url)
    # The driver that is installed with the extra; SQLAlchemy's own default is an older one.
    if made.drivername in ("postgres", "postgresql"):
        made = made.set(drivername="postgresql+psycopg")
    arguments = {"connect_args": {"timeout": PATIENCE}} if made.drivername.startswith("sqlite") else {}
    try:
        return RDBStorage(
            made.render_as_string(hide_password=False), engine_kwargs={**arguments, "pool_pre_ping": True}
        )
    except (*Errors, ImportError, RuntimeError) as error:
        said = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise ConfigError(f"the storage {made.render_as_string()} cannot be opened: {said.rstrip('.')}.") from None


def checked_url(url: str) -> sqlalchemy.URL:
    """Return an address of a storage in its parts."""
    try:
        made = sqlalchemy.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        made = None
    if made is None or made.drivername.partition("+")[0] not in ("sqlite", "postgresql", "postgres"):
        said = "" if made is None else f" {made.drivername!r}"
        raise ConfigError(
            f"--storage{said}: expected sqlite:///study.db, or postgresql://user:password@machine/database."
        )
    if made.drivername.startswith("sqlite") and made.database in (None, "", ":memory:"):
        raise ConfigError("--storage: a database in memory is not shared with the trials; write sqlite:///study.db")
    return made


def sampler(name: str, seed: int | None) -> optuna.samplers.BaseSampler:
    """Return a sampler by its name."""
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    return optuna.samplers.TPESampler(seed=seed, constant_liar=True)


def pruner(name: str | None, epochs: int | None) -> optuna.pruners.BasePruner:
    """Return a pruner by its name."""
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs or "auto")
    return optuna.pruners.MedianPruner() if name == "median" else optuna.pruners.NopPruner()


def studies(storage: RDBStorage, name: str) -> dict[int, str]:
    """Return the studies of a search by their number of epochs, 0 where that is the trainer's own."""
    found = (each for each in storage.get_all_studies() if each.user_attrs.get(SEARCH) == name)
    return dict(sorted((int(each.user_attrs.get(EPOCHS, 0)), each.study_name) for each in found))


def study_name(name: str, epochs: int) -> str:
    """Return what a search with a number of epochs is called in the storage."""
    return f"{name}, {epochs} epochs" if epochs else name


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Be the only one on this machine, for as long as it lasts; the system ends it with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def try_lock(path: Path) -> int | None:
    """Return an open file that holds a lock, None where another process does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def newest(trials: Sequence[FrozenTrial]) -> dict[str, FrozenTrial]:
    """Return by key the trial that counts, in the order in which the keys were wanted first."""
    found: dict[str, FrozenTrial] = {}
    for trial in sorted(trials, key=lambda each: each.number):
        key = trial.user_attrs.get(KEY)
        if key is not None and (key not in found or trial.user_attrs[AGAIN] > found[key].user_attrs[AGAIN]):
            found[key] = trial
    return found


def cell_key(cell: Mapping[str, Any]) -> str:
    """Return what a cell is known by."""
    return json.dumps(cell, sort_keys=True)


class Space:
    """How values are stored, and drawn where they are not fixed.

    Parameters
    ----------
    ranges : list of Range
    cells : list of dict
        Of a grid; empty where values are drawn from the ranges.
    """

    def __init__(self, ranges: Sequence[Range], cells: Sequence[Mapping[str, Any]]) -> None:
        self.ranges = ranges
        self.cells = cells
        self.distributions = {each.key: _of_range(each) for each in ranges} if not cells else _of_cells(cells)

    @property
    def kinds(self) -> dict[str, Any]:
        """What cannot change of a grid while its study goes on: which keys hold numbers, and what others may be."""
        kinds = self.distributions.items()
        return {
            key: list(each.choices) if isinstance(each, CategoricalDistribution) else type(each).__name__[:-12].lower()
            for key, each in kinds
        }

    def fixed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values as they are stored."""
        return {key: _stored(value) for key, value in values.items()}

    def suggest(self, trial: Trial, values: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the values of a trial by dotted key; what it has not yet is drawn, and stored."""
        keys = self.distributions if values is None else values
        # `_suggest` is what the public methods, one for each kind, call with a distribution that they make.
        drawn = {key: trial._suggest(key, self.distributions[key]) for key in keys}
        if values is not None:
            return dict(values)
        choices = {each.key: each.choices for each in self.ranges}
        return {
            key: next((choice for choice in choices[key] if _stored(choice) == value), value)
            for key, value in drawn.items()
        }


def _of_range(each: Range) -> BaseDistribution:
    if each.choices:
        return CategoricalDistribution([_stored(choice) for choice in each.choices])
    if each.is_whole:
        return IntDistribution(each.low, each.high, log=each.log, step=each.step or 1)
    return FloatDistribution(float(each.low), float(each.high), log=each.log, step=each.step)


def _of_cells(cells: Sequence[Mapping[str, Any]]) -> dict[str, BaseDistribution]:
    """Return a distribution for each key of a grid: from its least to its greatest number, else its values."""
    found: dict[str, BaseDistribution] = {}
    for key in dict.fromkeys(key for cell in cells for key in cell):
        values = list({written(cell[key], key): cell[key] for cell in cells if key in cell}.values())
        if all(type(value) is int for value in values):
            found[key] = IntDistribution(min(values), max(values))
        elif all(type(value) in (int, float) for value in values):
            found[key] = FloatDistribution(float(min(values)), float(max(values)))
        else:
            found[key] = CategoricalDistribution([_stored(value) for value in values])
    return found


def _stored(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else written(value, "a value")


@dataclass
class Claim:
    """A trial that this process tries, and nobody else while `lock` is open.

    Attributes
    ----------
    number : int
    values : dict
    run : str
        Name of the run folder.
    lock : int
    """

    number: int
    values: dict[str, Any]
    run: str
    lock: int


class Study:
    """The trials of a search with one number of epochs.

    Parameters
    ----------
    storage : RDBStorage
    name : str
        In the storage.
    folder : pathlib.Path
        Of the search; the locks are there.
    """

    def __init__(self, storage: RDBStorage, name: str, folder: Path) -> None:
        self.storage = storage
        self.folder = folder
        self.optuna = optuna.load_study(study_name=name, storage=storage)

    @classmethod
    def make(
        cls, storage: RDBStorage, search: str, epochs: int, folder: Path, goals: Sequence[Objective], settings: Any
    ) -> Study:
        """Make the study of a search with a number of epochs."""
        made = optuna.create_study(
            storage=storage,
            study_name=study_name(search, epochs),
            directions=["maximize" if goal.higher else "minimize" for goal in goals],
            load_if_exists=True,
        )
        made.set_user_attr(SETTINGS, settings)
        made.set_user_attr(EPOCHS, epochs)
        made.set_user_attr(SEARCH, search)
        return cls(storage, made.study_name, folder)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What must not change."""
        return dict(self.optuna.user_attrs[SETTINGS])

    @property
    def goals(self) -> list[Objective]:
        """The objectives."""
        names, directions = self.settings["metrics"], self.optuna.directions
        return [Objective(n, d.name == "MAXIMIZE") for n, d in zip(names, directions, strict=True)]

    def trials(self) -> dict[str, FrozenTrial]:
        """Return the trials that count, by key."""
        return newest(self.optuna.get_trials(deepcopy=False))

    def want(self, key: str, values: Mapping[str, Any] | None, fixed: Mapping[str, Any], again: int = 0) -> None:
        """Ask for a trial; one with the same values is not asked for twice, unless it is to be tried again."""
        marks = {KEY: key, VALUES: values, AGAIN: again}
        self.optuna.enqueue_trial(dict(fixed), user_attrs=marks, skip_if_exists=bool(fixed) and not again)

    def lock_path(self, run: str) -> Path:
        """Return the file whose lock says that a run is being trained."""
        return self.folder / "trials" / run / "lock"

    def is_held(self, run: str | None) -> bool:
        """Return whether a process trains a run."""
        if run is None:
            return False
        lock = try_lock(self.lock_path(run))
        if lock is not None:
            os.close(lock)
        return lock is None

    def run_folder(self, trial: FrozenTrial) -> Path:
        """Return the folder of a trial's run."""
        return self.folder / RUNS / str(self.settings["trainer"]) / str(trial.user_attrs[RUN])

    def is_ours(self, trial: FrozenTrial) -> bool:
        """Return whether a trial's files are on this machine: another machine may have its own."""
        if self.storage.url.startswith("sqlite"):
            return True
        run, machine = trial.user_attrs.get(RUN), trial.user_attrs.get(MACHINE)
        return machine == platform.node() if run is None else self.lock_path(run).exists()

    def claim(
        self,
        wanted: set[str],
        mine: set[int],
        space: Space,
        draw: Callable[[int], optuna.samplers.BaseSampler],
        name: Callable[[Mapping[str, Any]], str],
    ) -> Claim | None:
        """Return the next trial to try: one that was left by a process that is dead, or one that waits.

        Parameters
        ----------
        wanted : set of str
            Keys.
        mine : set of int
            Numbers of the trials that this process tries already.
        space : Space
        draw : callable
            Returns the sampler for the number of a trial.
        name : callable
            Returns the name of the run folder for values.
        """
        with held(self.folder / "lock"):
            for key, trial in self.trials().items():
                if key not in wanted or trial.number in mine or trial.state.is_finished():
                    continue
                if trial.state == TrialState.RUNNING and not self.is_ours(trial):
                    continue
                run = trial.user_attrs.get(RUN)
                lock = None if run is None else try_lock(self.lock_path(run))
                if run is not None and lock is None:
                    continue
                if trial.state == TrialState.WAITING and not self._take(trial._trial_id):
                    continue
                if run is None:
                    self.storage.set_trial_user_attr(trial._trial_id, MACHINE, platform.node())
                self.optuna.sampler = draw(trial.number)
                values = space.suggest(Trial(self.optuna, trial._trial_id), trial.user_attrs[VALUES])
                if run is None:
                    run = name(values)
                    self.storage.set_trial_user_attr(trial._trial_id, RUN, run)
                    lock = try_lock(self.lock_path(run))
                    if lock is None:  # the same values as those of another trial under way
                        continue
                assert lock is not None
                return Claim(trial.number, values, run, lock)
        return None

    def _take(self, trial_id: int) -> bool:
        try:
            return self.storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False

    def trial(self, number: int) -> Trial:
        """Return a trial by its number."""
        return Trial(self.optuna, self.storage.get_trial_id_from_study_id_trial_number(self.optuna._study_id, number))

    def frozen(self, number: int) -> FrozenTrial:
        """Return a trial as it is now."""
        return self.optuna.get_trials(deepcopy=False)[number]

    def best(self) -> list[FrozenTrial]:
        """Return the best trial; of several objectives those that no other one beats in all."""
        done = [each for each in self.trials().values() if each.state == TrialState.COMPLETE]
        signs = [-1 if goal.higher else 1 for goal in self.goals]

        def losses(trial: FrozenTrial) -> list[float]:
            return [sign * value for sign, value in zip(signs, trial.values, strict=True)]

        if len(signs) == 1:
            return sorted(done, key=losses)[:1]
        return [a for a in done if not any(_beats(losses(b), losses(a)) for b in done)]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def study_of(storage: RDBStorage, name: str, folder: Path) -> Study:
    """Return the study of a search with the most epochs.

    Raises
    ------
    ConfigError
        If there is none, with the closest name there is.
    """
    found = studies(storage, name)
    if not found:
        there = {str(each.user_attrs[SEARCH]) for each in storage.get_all_studies() if SEARCH in each.user_attrs}
        said = f" There are: {', '.join(sorted(there))}." if there else ""
        raise ConfigError(f"there is no search {name!r} in this storage.{closest(name, there)}{said}")
    return Study(storage, list(found.values())[-1], folder)
