"""Optimizers and schedules as hooks have left them: with further groups, or others, of another class too.

What `build_model` makes is made anew in every process; what hooks have made of it is rebuilt here, by the names of the
the parameters. Their states are loaded in `restore`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from ..checkpoint.plain import plain_data
from ..components import inventory
from ..components.inventory import Inventory
from ..duck_typing import attribute, is_a
from ..errors import CheckpointError
from .attributes import put
from .inside import named_parameters, note_settings

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer

Layout = dict[str, Any]
_KEYS = (str, int, float, bool, type(None))


# ---------------------------------------------------------------- what there is


def layouts(trainer: ConvnetTrainer, held: Inventory) -> dict[str, Layout]:
    """Return of every optimizer and schedule, by its place, what is needed to build it again.

    Returns
    -------
    dict
        ``path``, ``module`` and ``class``; of an optimizer ``groups``, the names of the parameters of each, and
        ``defaults``; of a schedule ``of``, the place of its optimizer, and ``inner``, the same of schedules within it.
    """
    names = {id(parameter): name for name, parameter in named_parameters(held).items()}
    places = {id(part.value): part.where for part in held.optimizers}
    found = {}
    for part in inventory.once([*held.optimizers, *held.schedulers]):
        if not all(type(key) in _KEYS for key in part.keys):
            continue
        if is_a(part.value, Optimizer):
            found[part.where] = {**_optimizer(part.value, names), "path": [part.attribute, *part.keys]}
        elif is_a(part.value, LRScheduler):
            found[part.where] = {**_schedule(part.value, places), "path": [part.attribute, *part.keys]}
    return found


def _optimizer(optimizer: Optimizer, names: Mapping[int, str]) -> Layout:
    groups = [[names.get(id(parameter)) for parameter in group["params"]] for group in optimizer.param_groups]
    return {**_class(optimizer), "groups": groups}


def _schedule(schedule: Any, places: Mapping[int, str]) -> Layout:
    inner = attribute(schedule, "_schedulers")
    within = [_schedule(part, places) for part in inner] if is_a(inner, (list, tuple)) else []
    return {**_class(schedule), "of": places.get(id(attribute(schedule, "optimizer"))), "inner": within}


def _class(part: Any) -> Layout:
    return {"module": type(part).__module__, "class": type(part).__qualname__}


def note_built(trainer: ConvnetTrainer) -> None:
    """Note what the hooks that build a run, or a stage, have made and set; others change it later."""
    state = trainer._run_state
    state.built.setdefault(_stage(trainer), layouts(trainer, inventory.take(trainer)))
    note_settings(trainer)


def built(trainer: ConvnetTrainer) -> list[dict[str, Layout]]:
    """Return what `note_built` has noted: for the run, and for the stage under way."""
    noted = trainer._run_state.built
    return [noted[stage] for stage in dict.fromkeys(("", _stage(trainer))) if stage in noted]


def _stage(trainer: ConvnetTrainer) -> str:
    stage = trainer._run_state.stage
    return "" if stage is None else stage.name


def defaults_of(optimizer: Optimizer, name: str) -> Any:
    """Return the settings that a new group of an optimizer gets, as plain data."""
    return plain_data(dict(optimizer.defaults), f"{name}.defaults")


# ---------------------------------------------------------------- as it was


class Rebuilding:
    """Gives a trainer the optimizers and schedules of a checkpoint; their states come after.

    Parameters
    ----------
    trainer : ConvnetTrainer
    run : dict
        What the checkpoint says of the run.
    file : str
        Where it was read, for messages.
    began : dict, optional
        The layouts when the epoch began, before the hook that starts it. That hook is called again, and makes of them
        what it made: what it has added must not be there yet.
    """

    def __init__(
        self, trainer: ConvnetTrainer, run: dict[str, Any], file: str, began: dict[str, Layout] | None = None
    ) -> None:
        self.trainer, self.file, self.saved = trainer, file, run["components"]
        self.then = {name: entry["layout"] for name, entry in self.saved.items() if "layout" in entry}
        self.built, self.began = run.get("built", []), began
        self.held = inventory.take(trainer)
        self.now = layouts(trainer, self.held)
        self.skipped: set[str] = set()  # whose states are not to be loaded: the hook makes them
        self.cut: dict[str, int] = {}  # how many groups there are to be, where the hook adds others

    def rebuild(self) -> None:
        """Make what is missing, give groups, take out what the hooks had taken out.

        Raises
        ------
        CheckpointError
            For what no file can tell how to build, with the line to write.
        """
        for name, then in self._in_order(self.then):
            if self.began is not None and not self._prepare(name, then):
                self.skipped.add(name)
                continue
            now = self.now.get(name)
            if "groups" in then:
                self._optimizer(name, then, now)
            else:
                self._schedule(name, then, now)
        for name in {name for noted in self.built for name in noted} & self.now.keys() - self.then.keys():
            if self.began is None or name not in self.began:
                put(self.trainer, self.now[name]["path"], None)

    @staticmethod
    def _in_order(found: Mapping[str, Layout]) -> Iterator[tuple[str, Layout]]:
        yield from ((name, one) for name, one in found.items() if "groups" in one)
        yield from ((name, one) for name, one in found.items() if "groups" not in one)

    def _prepare(self, name: str, then: Layout) -> bool:
        """Return whether something is to be as it was, or nearly, before the hook; note how many groups it had."""
        began = (self.began or {}).get(name)
        if began is None or _name(began) != _name(then):
            return False
        if "groups" in then and began["groups"] != then["groups"]:
            if then["groups"][: len(began["groups"])] != began["groups"]:
                return False
            self.cut[name] = len(began["groups"])
        return True

    # ---------------------------------------------------------------- optimizers

    def _optimizer(self, name: str, then: Layout, now: Layout | None) -> None:
        groups = then["groups"][: self.cut.get(name)]
        if now is not None and _name(now) == _name(then) and now.get("groups") == groups:
            return
        if not self._was_changed(name, now) or any(key is None for group in groups for key in group):
            return  # the trainer is built otherwise than it was: loading says in what
        parameters = named_parameters(self.held)
        missing = [key for group in groups for key in group if key not in parameters]
        if missing:
            raise CheckpointError(
                f"{self.file}: self.{name} had {', '.join(missing[:5])} among its parameters, which this trainer does "
                f"not have. {self._advice('make it')}"
            )
        entry = self.saved[name]
        made = [
            {
                **{key: value for key, value in group.items() if key != "params"},
                "params": [parameters[k] for k in names],
            }
            for group, names in zip(entry["state"]["param_groups"], groups, strict=False)
        ]
        if now is not None and _name(now) == _name(then):
            optimizer = self._part(name)
            optimizer.state.clear()
            optimizer.param_groups[:] = made
        else:
            put(self.trainer, then["path"], self._new_optimizer(name, then, entry.get("defaults", {}), made))
            self.held = inventory.take(self.trainer)

    def _new_optimizer(self, name: str, then: Layout, defaults: dict[str, Any], groups: list[dict[str, Any]]) -> Any:
        cls = _find(then, Optimizer, torch.optim)
        try:
            if cls is None:
                raise TypeError("there is no such class now")
            known = inspect.signature(cls).parameters
            optimizer = cls(groups, **{key: value for key, value in defaults.items() if key in known})
        except (TypeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{self.file}: self.{name} was replaced by a {then['class']}, which cannot be made again ({error}). "
                f"{self._advice('make it')}"
            ) from error
        if any(one.get("of") == name for one in self.then.values()):
            _let_it_count(optimizer)
        return optimizer

    # ---------------------------------------------------------------- schedules

    def _schedule(self, name: str, then: Layout, now: Layout | None) -> None:
        alike = now is not None and _classes(now) == _classes(then)
        if not alike:
            if not self._was_changed(name, now):
                return
            put(self.trainer, then["path"], self._new_schedule(name, then, self.saved[name]["state"]))
            self.held = inventory.take(self.trainer)
        else:
            self._point(self._part(name), then)

    def _new_schedule(self, name: str, then: Layout, state: Mapping[str, Any]) -> Any:
        cls = _find(then, LRScheduler, lr_scheduler)
        optimizer = self._part(then["of"]) if then["of"] is not None else _stand_in(state)
        functions = "lr_lambdas" in state or state.get("_scale_fn_custom") is not None
        if cls is None or optimizer is None or functions:
            why = "holds functions, which no file does" if functions else "is not there now"
            raise CheckpointError(
                f"{self.file}: self.{name} was replaced by a {then['class']}, which cannot be made again: it {why}. "
                f"{self._advice('make it')}"
            )
        schedule = cls.__new__(cls)  # all that it has is in its state
        schedule.optimizer = optimizer
        if then["inner"]:
            pairs = zip(then["inner"], state["_schedulers"], strict=True)
            schedule._schedulers = [self._new_schedule(name, inner, part) for inner, part in pairs]
        return schedule

    def _point(self, schedule: Any, then: Layout) -> None:
        """Let a schedule, and those within it, move the optimizer that it moved, which may be another object."""
        optimizer = self._part(then["of"])
        if then["of"] is None and any(schedule.optimizer is part.value for part in self.held.optimizers):
            optimizer = _stand_in(schedule.state_dict())  # it moved one that a hook had replaced since
        if optimizer is not None and schedule.optimizer is not optimizer:
            schedule.optimizer = optimizer
        for part, inner in zip(attribute(schedule, "_schedulers") or (), then["inner"], strict=False):
            self._point(part, inner)

    # ---------------------------------------------------------------- both

    def _was_changed(self, name: str, now: Layout | None) -> bool:
        """Return whether hooks have made something of what was built; else the trainer is built otherwise now."""
        if self.began is None and self.trainer._run_state.progress.phase is not None:
            return True  # after the hook that starts the epoch: it was looked at before
        then = [noted[name] for noted in self.built if name in noted]
        if now is None:
            return not then and bool(self.built)
        return any(_classes(now) == _classes(one) and now.get("groups") == one.get("groups") for one in then)

    def _part(self, where: str | None) -> Any:
        return next((part.value for part in self.held.parts if part.where == where), None)

    def _advice(self, what: str) -> str:
        kind = type(self.trainer).__name__
        return (
            f"Where a hook {what.split()[0]}s it in the course of a run, {what} in on_train_start of {kind} too, where "
            "self.epoch says how far the run has come: if self.epoch > 3: self.unfreeze(). Or load the weights alone: "
            "load_model(path)."
        )


def _name(layout: Layout) -> tuple[str, str]:
    return layout["module"], layout["class"]


def _classes(layout: Layout) -> Any:
    return _name(layout), [_classes(inner) for inner in layout.get("inner", ())]


def _find(layout: Layout, base: type, module: Any) -> Any:
    """Return a class of torch, or of what has been imported, by its name; nothing is imported for it."""
    found = vars(module).get(layout["class"])
    if layout["module"].startswith("torch.optim") and is_a(found, type) and issubclass(found, base):
        return found
    waiting = [base]
    while waiting:
        cls = waiting.pop()
        if (cls.__module__, cls.__qualname__) == _name(layout):
            return cls
        waiting += type.__subclasses__(cls)
    return None


def _stand_in(state: Mapping[str, Any]) -> Optimizer:
    """Return an optimizer for a schedule whose own belongs to nobody any more."""
    rates = state.get("_last_lr") or [0.0]
    begins = state.get("base_lrs") or rates
    pairs = zip(rates, begins, strict=False)
    groups = [{"params": [torch.zeros(1)], "lr": rate, "initial_lr": begin} for rate, begin in pairs]
    return _let_it_count(torch.optim.SGD(groups, lr=0.0))


def _let_it_count(optimizer: Any) -> Any:
    """Let an optimizer tell schedules that it moves, as they have it from their constructor, or they warn."""
    lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
    optimizer._opt_called = True
    return optimizer


def of_the_first_groups(values: dict[str, Any], count: int) -> dict[str, Any]:
    """Return an optimizer's state without that of the groups after the first ones."""
    groups = values["param_groups"][:count]
    kept = {position for group in groups for position in group["params"]}
    return {**values, "param_groups": groups, "state": {p: entry for p, entry in values["state"].items() if p in kept}}
