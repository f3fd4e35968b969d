"""The errors of the library: one base class and its five kinds.

Every message says what was got, what was expected, where, and the line to write.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def printable(text: str, also: str = "") -> str:
    r"""Return a text in which characters that a terminal would obey, or that cannot be seen, are ``\U0000001B``.

    Parameters
    ----------
    text : str
    also : str
        Such characters that stay: ``"\n\t"``.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in also else f"\\U{ord(c):08X}" for c in text)


class FarabioError(Exception):
    """Base of every error that this library raises by itself.

    What a file says may be in a message: a terminal is never sent its control characters.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), "\n\t")


class ConfigError(FarabioError, ValueError):
    """A setting or a configuration value is missing, unknown or not allowed."""


class HookError(FarabioError, TypeError):
    """A hook is missing, has a wrong signature, or left something unusable."""


class DataError(FarabioError, ValueError):
    """A loader, a dataset or a batch is not what the run needs."""


class CheckpointError(FarabioError, RuntimeError):
    """A file of weights or state cannot be written, read or used."""


class NonFiniteError(FarabioError, ArithmeticError):
    """A loss or a gradient is NaN or infinite."""


class MissingKeyError(ConfigError, AttributeError, KeyError):
    """A configuration key does not exist.

    It is an ``AttributeError`` and a ``KeyError`` too, so that ``hasattr``, ``getattr`` with a default and
    ``except KeyError`` behave on a configuration as they do elsewhere.
    """

    def __str__(self) -> str:
        return printable(str(self.args[0]), "\n\t")


class MissingPartError(DataError, AttributeError):
    """A batch has no part of the name that is read; an ``AttributeError`` too, so that ``hasattr`` works."""


def closest(name: str, names: Iterable[str], cutoff: float = 0.7) -> str:
    """Return ``" Did you mean 'x'?"`` for the name nearest to `name`, or an empty string."""
    near = difflib.get_close_matches(name, [str(n) for n in names], n=1, cutoff=cutoff)
    return f" Did you mean '{near[0]}'?" if near else ""
