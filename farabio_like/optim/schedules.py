"""Who steps a schedule, the base or the subclass: known by what ``step()`` of this very object leaves behind.

The base's own steps are in `training.schedulers`, per epoch, and in `steps`, per step.
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from .. import components
from ..checkpoint.plain import is_plain
from ..checks import hooks
from ..duck_typing import attribute, has_methods, is_a, own_attributes
from ..errors import ConfigError

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


BASE, HAND = "base", "hand"
DEEPEST = 4  # schedules within schedules
Position = list[Any]  # the schedule's own, and the rates of its optimizers where that alone may not tell


def named(trainer: ConvnetTrainer) -> Iterator[tuple[str, Any]]:
    """Yield place and object of every schedule of a trainer."""
    for where, scheduler in components.named(trainer.scheduler, "self.scheduler"):
        if has_methods(scheduler, "step"):
            yield where, scheduler


def listed(trainer: ConvnetTrainer) -> dict[str, list[Any]]:
    """Return the schedules in lists, by the place of the list; the base does not step them."""
    found = {}
    for where, part in components.named(trainer.scheduler, "self.scheduler"):
        if isinstance(part, (list, tuple)) and any(has_methods(scheduler, "step") for scheduler in part):
            found[where] = [scheduler for scheduler in part if has_methods(scheduler, "step")]
    return found


def position_of(scheduler: Any) -> Position:
    """Return where a schedule stands: two positions differ where it was stepped in between.

    Torch's own step counts itself. Of what has another one the plain data tell, those of schedules within it too,
    and the rates of its optimizer: a class of the user's may keep nothing else.
    """
    if attribute(type(scheduler), "step") is LRScheduler.step:
        # Less the one that the constructor makes: most often this is `last_epoch`, by which older files count.
        return [attribute(scheduler, "_step_count", 1) - 1, None]
    found, rates = _contents(scheduler)
    # Torch's classes change nothing but by a step; another's rates may be set by hand.
    return [_digest(found), None if type(scheduler).__module__ == LRScheduler.__module__ else _digest(rates)]


def _contents(value: Any, depth: int = 0) -> tuple[list[Any], list[Any]]:
    """Return the plain data of a schedule and of those within it, and the rates of the optimizers that they hold."""
    own = own_attributes(value) or {name: attribute(value, name) for name in getattr(type(value), "__slots__", ())}
    found: list[Any] = []
    rates: list[Any] = []
    for name, part in own.items():
        if components.param_groups(part):
            rates.append(components.learning_rates(part))
        elif is_a(part, torch.Tensor):
            found.append((name, part.tolist()))
        elif is_plain(part):
            found.append((name, part))
        elif depth < DEEPEST:
            for inner in part if is_a(part, (list, tuple)) else (part,):
                if has_methods(inner, "step"):
                    inside, further = _contents(inner, depth + 1)
                    found.append((name, inside))
                    rates += further
    return found, rates


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


@dataclass(slots=True)
class Schedule:
    """What is known of one.

    Attributes
    ----------
    scheduler : object
    position : list or None
        Where it stood when the epoch began, or when it was last looked at.
    by : "base", "hand" or None
        Who has stepped it.
    """

    scheduler: Any
    position: Position | None
    by: str | None = None

    def has_moved(self) -> bool:
        """Return whether it was stepped since it stood at `position`."""
        if self.position is None:
            return False
        (own, rates), (then, rates_then) = position_of(self.scheduler), self.position
        if type(own) is not type(then):  # of an older file
            return False
        if isinstance(own, int):
            return own > then  # what was set back was not stepped
        # Of one that the base steps, other rates are most likely set by hand.
        return own != then or (rates != rates_then and self.by != BASE)

    def step(self, *value: float) -> None:
        """Make the base's step of an epoch."""
        self.scheduler.step(*value)
        self.position, self.by = position_of(self.scheduler), BASE


class Schedules:
    """Which schedules of a trainer the base steps after an epoch.

    NOTE: one that the subclass has stepped in any epoch of the run is its own from then on, and one that is made
    after the first batch of an epoch begins with the next. In an epoch in which nothing has stepped it, it is the
    base's, unless a method of the class has the very call in it: then it is waited for, and that is said.
    """

    def __init__(self) -> None:
        self.counts = False  # the epoch under way was begun by the base
        self._between = False  # two epochs, of which the base has looked at the first
        self._known: dict[int, Schedule] = {}  # by id; each holds its schedule, so that no other one gets the id
        self._awaited: set[str] = set()  # places that a method of the class steps, and has not yet
        self._told: set[str] = set()  # places of those that nothing steps

    def begin_epoch(self, trainer: ConvnetTrainer) -> None:
        """Note where the schedules stand when an epoch begins; between two epochs they may have been stepped by hand.

        Raises
        ------
        ConfigError
            For one that the base has stepped before.
        """
        there = dict(named(trainer))
        for where, scheduler in there.items():
            known = self._known.get(id(scheduler))
            if known is not None and self._between and known.has_moved():
                self._by_hand(trainer, where, known)
            elif where in self._awaited:
                trainer._run_state.console.once(
                    f"{where} was not stepped in an epoch: a method of {hooks.owner(trainer)} has the call, so nothing "
                    "else steps it"
                )
        every = [*there.values(), *(scheduler for parts in listed(trainer).values() for scheduler in parts)]
        self._known = {id(s): self._known.get(id(s)) or Schedule(s, None) for s in every}
        for known in self._known.values():
            known.position = position_of(known.scheduler)
        self.counts, self._between = True, False

    def add_new(self, trainer: ConvnetTrainer) -> None:
        """Note the schedules that were made since the epoch began: they are stepped at its end."""
        for _, scheduler in named(trainer):
            if id(scheduler) not in self._known:
                self._known[id(scheduler)] = Schedule(scheduler, position_of(scheduler))

    def rest(self) -> None:
        """Between two runs or stages: what moves a schedule here is no step of an epoch."""
        self._awaited, self._between = set(), False

    def due(self, trainer: ConvnetTrainer) -> list[Schedule]:
        """Return those that the base is to step now, at the end of an epoch; warn of what nothing steps.

        Raises
        ------
        ConfigError
            For one that the subclass has stepped in this epoch, and the base in an earlier one.
        """
        found: list[Schedule] = []
        self.counts, self._between = False, True
        for where, scheduler in named(trainer):
            known = self._known.get(id(scheduler))
            if known is None:
                continue
            if known.has_moved():
                self._by_hand(trainer, where, known)
            if known.by == HAND:
                continue
            if not (isinstance(scheduler, ReduceLROnPlateau) or _takes_nothing(scheduler)):
                trainer._run_state.console.once(
                    f"{where} is left to your code: step() of {type(scheduler).__name__} takes arguments"
                )
            elif known.by is None and where in hooks.stepped_schedulers(trainer):
                self._awaited.add(where)
            else:
                found.append(known)
        for where, schedulers in listed(trainer).items():
            entries = [known for s in schedulers if (known := self._known.get(id(s))) is not None]
            for known in entries:
                known.by = HAND if known.has_moved() else known.by
            if entries and not any(known.by for known in entries) and where not in self._told:
                self._told.add(where)
                warnings.warn(
                    f"{hooks.owner(trainer)}: {where} is a {type(trainer.scheduler).__name__}, which nothing steps; "
                    "expected something with step(), or a dict of such.",
                    stacklevel=6,
                )
        for known in self._known.values():
            known.position = position_of(known.scheduler)
        return found

    def standing(self, trainer: ConvnetTrainer) -> list[str]:
        """Return the places of schedules that nothing has stepped in this epoch; of each once."""
        found = []
        for where, scheduler in named(trainer):
            known = self._known.get(id(scheduler))
            if known is not None and where not in self._told and not known.has_moved():
                self._told.add(where)
                found.append(where)
        return found

    def _by_hand(self, trainer: ConvnetTrainer, where: str, known: Schedule) -> None:
        if known.by == BASE:
            raise ConfigError(
                f"{hooks.owner(trainer)}: your code steps {where}, seen in epoch {trainer._epoch} for the first time; "
                "before, it was not stepped by the end of an epoch, and so the base has stepped it. Write "
                "self._scheduler_step = None to step it by your code alone."
            )
        known.by = HAND
        self._awaited.discard(where)

    # Not "state_dict": a trainer that another one keeps as an attribute is stored field by field.

    def steppers(self, trainer: ConvnetTrainer) -> dict[str, str]:
        """Return who has stepped which schedule."""
        found = ((where, self._known.get(id(scheduler))) for where, scheduler in named(trainer))
        return {where: known.by for where, known in found if known is not None and known.by is not None}

    def load_steppers(self, trainer: ConvnetTrainer, state: Mapping[str, str]) -> None:
        """Take back what `steppers` gave."""
        self._known = {id(s): Schedule(s, None, state.get(where)) for where, s in named(trainer)}

    def positions(self, trainer: ConvnetTrainer) -> list[Position | None]:
        """Return where the schedules stood when the epoch began."""
        found = (self._known.get(id(scheduler)) for _, scheduler in named(trainer))
        return [None if known is None else known.position for known in found]

    def load_positions(self, trainer: ConvnetTrainer, positions: list[Any]) -> None:
        """Take back what `positions` gave; an older file has numbers."""
        for (_, scheduler), position in zip(named(trainer), positions, strict=False):
            known = self._known.setdefault(id(scheduler), Schedule(scheduler, None))
            known.position = [position, None] if isinstance(position, int) else position


def _takes_nothing(scheduler: Any) -> bool:
    """Return whether a schedule can be stepped without an argument."""
    try:
        inspect.signature(scheduler.step).bind()
    except ValueError:  # a builtin without a signature
        return True
    except TypeError:
        return False
    return True
