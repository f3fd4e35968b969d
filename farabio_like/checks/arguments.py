"""Checks of what the constructors of callbacks are given."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError


def whole_number(argument: str, value: Any, least: int = 1) -> int:
    """Return `value` if it is a whole number of at least `least`.

    Parameters
    ----------
    argument : str
        As the message shows it: ``"LimitBatches(train)"``.
    value : int
    least : int

    Raises
    ------
    ConfigError
        For anything else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{argument} is {value!r}; expected a whole number, {least} or more.")
    return value


def positive(argument: str, value: Any) -> float:
    """Return `value` if it is a number greater than 0 and not infinite.

    Raises
    ------
    ConfigError
        For anything else.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise ConfigError(f"{argument} is {value!r}; expected a number greater than 0.")
    return value
