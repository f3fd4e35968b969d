"""Parts of a configuration that are objects: ``{class: torch.nn.Linear, in_features: 3, out_features: 1}``.

They are checked first, all of them, and made later, when the trainer asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..config.places import Places
from ..errors import ConfigError
from . import signatures
from .imports import TRUSTED, Sources

CLASS = "class"


@dataclass
class Component:
    """An object that is to be made.

    Parameters
    ----------
    factory : class or function
    where : str
        File and line, for messages.
    given : int
        Number of leading arguments that it gets when it is made: the parameters of an optimizer, the optimizer of a
        schedule.
    positional : list
    named : dict
        Components among them are made before it.
    as_function : bool
        Whether the function itself is meant, not what it returns: a criterion.
    """

    factory: Callable[..., Any]
    where: str
    given: int = 0
    positional: list[Any] = field(default_factory=list)
    named: dict[str, Any] = field(default_factory=dict)
    as_function: bool = False

    def make(self, *given: Any) -> Any:
        """Make the object, with all that is in it."""
        positional = [*given[: self.given], *make(self.positional, *given)]
        named = make(self.named, *given)
        if self.as_function:
            return partial(self.factory, *positional, **named) if positional or named else self.factory
        if str(getattr(self.factory, "__module__", "")).partition(".")[0] not in TRUSTED:
            return self.factory(*positional, **named)  # an error of the user's code comes out as it is
        try:
            return self.factory(*positional, **named)
        except (TypeError, ValueError, RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
            name = signatures.name_of(self.factory)
            raise ConfigError(f"{self.where}: {name} cannot be made: {type(error).__name__}: {error}") from error


def make(value: Any, *given: Any) -> Any:
    """Return a value with all components in it made."""
    if isinstance(value, Component):
        return value.make(*given)
    if type(value) is dict:
        return {name: make(part, *given) for name, part in value.items()}
    return [make(part, *given) for part in value] if type(value) is list else value


class Checker:
    """Turns plain data into components, and collects what is wrong with them.

    Parameters
    ----------
    sources : Sources
    places : Places

    Attributes
    ----------
    problems : list of str
        Each with file and line.
    """

    def __init__(self, sources: Sources, places: Places) -> None:
        self.sources = sources
        self.places = places
        self.problems: list[str] = []

    def part(self, value: Any, *path: Any) -> Any:
        """Return a part of a trainer: a component, or a dict of them by name; None for none."""
        if value is None or isinstance(value, Component):
            return value
        if isinstance(value, dict) and CLASS not in value and value:
            return {name: self.part(each, *path, name) for name, each in value.items()}
        if not isinstance(value, dict) or not isinstance(value.get(CLASS), str):
            name = ".".join(map(str, path))
            self.problems.append(
                f"{self.places.of(*path)}: {name} is {value!r:.60}; expected an object. Write {path[0]}: "
                "{class: torch.nn.Linear, in_features: 3}, with a class of its kind."
            )
            return None
        return self.argument(value, *path)

    def argument(self, value: Any, *path: Any) -> Any:
        """Return a value with the components in it."""
        if isinstance(value, list):
            return [self.argument(part, *path, index) for index, part in enumerate(value)]
        if not isinstance(value, dict):
            return value
        if not isinstance(value.get(CLASS), str):
            return {name: self.argument(part, *path, name) for name, part in value.items()}
        try:
            return self._component(value, path)
        except ConfigError as error:
            self.problems.append(str(error))
            return None

    def _component(self, value: Mapping[str, Any], path: tuple[Any, ...]) -> Component:
        where = self.places.of(*path, CLASS)
        factory = self.sources.find(value[CLASS], where)
        is_class = isinstance(factory, type)
        as_function = path[0] == "criterion" and len(path) <= 2 and not is_class
        given = int(is_class and issubclass(factory, (Optimizer, LRScheduler)))
        named = {name: self.argument(part, *path, name) for name, part in value.items() if name != CLASS}
        if not all(isinstance(name, str) for name in named):
            raise ConfigError(f"{where}: {value[CLASS]} has arguments whose names are no text: {list(named)}.")

        def place(name: str | None = None) -> str:
            return where if name is None else self.places.of(*path, name)

        positional, named, problems = signatures.checked(factory, given, named, place, self.sources.find)
        if as_function:  # it gets outputs and targets when it is called
            problems = [said for said in problems if " needs the argument " not in said]
        self.problems += problems
        return Component(factory, where, given, positional, named, as_function)
