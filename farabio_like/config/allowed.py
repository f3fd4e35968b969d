"""What the value of a setting may be: kinds of values, each with what a message says it expected.

Which setting is of which kind is in `config.settings`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..callbacks.base import Logger
from ..errors import closest
from ..loggers.names import LOGGERS, asked_for
from ..packages import missing
from .stages import Stage


@dataclass(frozen=True)
class Allowed:
    """The values that a setting may have.

    Parameters
    ----------
    expected : str
        What they are, as a message says it after "expected".
    holds : callable
        Takes any value, and returns whether it is one of them.
    example : Any
        One of them, for the line to write in a message; None for a message without one.
    tells_type : bool
        Whether a message names the type of a value that is none of them.
    """

    expected: str
    holds: Callable[[Any], bool]
    example: Any = None
    tells_type: bool = False

    def problem(self, name: str, value: Any) -> str | None:
        """Return what is wrong with the value of the setting `name`, in whole sentences, or None."""
        if self.holds(value):
            return None
        kind = f"{type(value).__name__} " if self.tells_type and type(value) is not int else ""
        line = "" if self.example is None else f" Write self.{name} = {self.example!r}."
        return f"{name} is {kind}{value!r}; expected {self.expected}.{line}"


class _Loggers(Allowed):
    """Loggers that ship by their names, others as objects: one, or a list of which each is what is expected."""

    def problem(self, name: str, value: Any) -> str | None:
        asked = asked_for(value)
        for index, logger in enumerate(asked):
            where = f"{name}[{index}]" if isinstance(value, (list, tuple)) else name
            said = self._of_one(where, logger)
            if said is None and any(logger is each or (_is_text(logger) and logger == each) for each in asked[:index]):
                said = f"{where} is {logger!r}, which is there already."
            if said is not None:
                return said
        return None

    def _of_one(self, where: str, logger: Any) -> str | None:
        if not _is_text(logger):
            said = super().problem(where, logger)
            return f"{said} Write {logger.__name__}()." if said and isinstance(logger, type) else said
        if logger not in LOGGERS:
            there = f"{closest(logger, LOGGERS)} There are: {', '.join(LOGGERS)}."
            return f"{where} is {logger!r}, which is no logger.{there}"
        package = LOGGERS[logger].package
        return None if package is None else missing(package, f"{where} is {logger!r}, which")


class _Stages(Allowed):
    """A list of stages, each with a name of its own."""

    def problem(self, name: str, value: Any) -> str | None:
        said = super().problem(name, value)
        if said is None and value is not None:
            names = [stage.name for stage in value]
            said = f"{name} has a name twice: {names}." if len(set(names)) < len(names) else None
        return said


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def anything() -> Allowed:
    """Return what allows every value."""
    return Allowed("anything", lambda value: True)


def whole(
    least: int,
    *,
    of: str | None = None,
    bits: int | None = None,
    optional: bool = False,
    tensors: bool = False,
    example: int | None = None,
) -> Allowed:
    """Return what allows whole numbers: Python's, NumPy's, and others that can be an index; no booleans.

    Parameters
    ----------
    least : int
    of : str, optional
        What is counted: ``"steps"``.
    bits : int, optional
        Numbers below two to the power of it.
    optional : bool
        Whether None is allowed too.
    tensors : bool
        Whether tensors and arrays of one whole number are allowed too.
    example : int, optional
    """
    end = math.inf if bits is None else 2**bits
    excluded = (bool,) if tensors else (bool, torch.Tensor, np.ndarray)
    span = f", {least} or more" if bits is None else f" from {least} to below 2**{bits}"
    expected = f"{'None or ' if optional else ''}a whole number{f' of {of}' if of else ''}{span}"

    def holds(value: Any) -> bool:
        if value is None or isinstance(value, excluded):
            return value is None and optional
        try:
            return least <= operator.index(value) < end
        except TypeError:
            return False

    return Allowed(expected, holds, example, tells_type=tensors)


def positive(*, of: str | None = None, example: float | None = None) -> Allowed:
    """Return what allows None and finite numbers above 0, counted in `of`; no tensors."""

    def holds(value: Any) -> bool:
        if value is None:
            return True
        return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < math.inf

    return Allowed(f"None or a number{f' of {of}' if of else ''} above 0", holds, example)


def seconds() -> Allowed:
    """Return what allows finite numbers of seconds from 0 on."""

    def holds(value: Any) -> bool:
        return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < math.inf

    return Allowed("a number of seconds, 0 or more", holds, 2.0)


def one_of(*choices: Any) -> Allowed:
    """Return what allows these values."""
    there = frozenset(choices)

    def holds(value: Any) -> bool:
        try:
            return value in there
        except TypeError:  # not hashable
            return False

    return Allowed(f"one of {choices}", holds)


def flag() -> Allowed:
    """Return what allows True and False."""
    return Allowed("True or False", lambda value: isinstance(value, bool))


def yes_or_no() -> Allowed:
    """Return what allows True, False, and the numbers and None that mean one of them in many a script."""
    kinds = (bool, int, type(None), np.bool_)
    return Allowed("True or False", lambda value: isinstance(value, kinds))  # a string is always true, "False" too


def by_loader() -> Allowed:
    """Return what allows True and False, or a dict of them by the names of the loaders."""
    names = {"train", "valid", "test"}

    def holds(value: Any) -> bool:
        if isinstance(value, Mapping):
            return names.issuperset(value) and all(isinstance(one, bool) for one in value.values())
        return isinstance(value, bool)

    return Allowed("True, False, or a dict of them for 'train', 'valid', 'test'", holds, {"train": False})


def path(none: str) -> Allowed:
    """Return what allows a path, and None for what `none` says."""
    kinds = (str, Path, type(None))
    return Allowed(f"a path, or None {none}", lambda value: isinstance(value, kinds))


def name_of(of: str) -> Allowed:
    """Return what allows the name of something, and None."""
    return Allowed(f"the name of {of}", lambda value: value is None or (isinstance(value, str) and value != ""))


def device() -> Allowed:
    """Return what allows a device of PyTorch, whether it is there or not, and ``"auto"``."""

    def holds(value: Any) -> bool:
        try:
            return (_is_text(value) and value == "auto") or torch.device(value) is not None
        except (RuntimeError, TypeError):
            return False

    return Allowed("'auto', 'cpu', 'cuda', 'cuda:1', 'mps' or a torch.device", holds)


def device_numbers() -> Allowed:
    """Return what allows True, False, None, and a list of numbers of devices."""

    def holds(value: Any) -> bool:
        if value is None or isinstance(value, bool):
            return True
        return isinstance(value, (list, tuple)) and len(value) > 0 and all(type(index) is int for index in value)

    return Allowed("None, True, False or a list of device numbers, [0, 1] say", holds)


def arguments(of: str, example: dict[str, Any]) -> Allowed:
    """Return what allows True, False, and a dict of the arguments of something."""
    return Allowed(
        f"True, False, or a dict of arguments of {of}", lambda value: isinstance(value, (bool, Mapping)), example
    )


def loss_weights() -> Allowed:
    """Return what allows the ways in which several losses become one."""
    return Allowed(
        "None (the sum), 'mean', or a dict with a weight for each criterion",
        lambda value: value is None or isinstance(value, Mapping) or (_is_text(value) and value == "mean"),
    )


def loggers() -> Allowed:
    """Return what allows the name of a logger that ships, a `Logger`, a list of them, and None."""
    one = f"a name ({', '.join(LOGGERS)}) or a farabio_like.Logger"
    return _Loggers(one, lambda value: isinstance(value, Logger))


def stages() -> Allowed:
    """Return what allows a list of `Stage`, and None."""

    def holds(value: Any) -> bool:
        several = isinstance(value, (list, tuple)) and len(value) > 0
        return value is None or (several and all(isinstance(stage, Stage) for stage in value))

    return _Stages("a list of Stage, [Stage('pretrain', num_epochs=5)] say", holds)
