"""One view on the configuration a user brings: dict, Namespace, dataclass or any object with attributes."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping
from datetime import date, time, timedelta
from enum import Enum
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from ..callbacks.base import Callback
from ..duck_typing import attribute, has_methods
from ..errors import ConfigError, MissingKeyError, closest
from .secrets import Secrets
from .stages import Stage


class Config:
    """Configuration whose values are read as ``config.lr`` and as ``config["lr"]``.

    Parameters
    ----------
    source : None, Mapping, argparse.Namespace, dataclass instance or any object with attributes
        Its values are taken over; mappings inside it become `Config` too. Methods and properties of an
        object stay reachable.

    Raises
    ------
    ConfigError
        For a source that holds no named values (a string, a number, a list), and for a value that cannot be
        written down with the run: a module, an open file, a lambda. Classes and functions of a module are written
        down by their names.

    Notes
    -----
    The values live in the instance's ``__dict__``, so ``vars(config)`` and ``**config`` work.
    """

    __slots__ = ("__dict__", "_source")

    def __init__(self, source: Any = None) -> None:
        object.__setattr__(self, "_source", source)
        for key, value in _named_values(source).items():
            _check(value, str(key))
            self.__dict__[str(key)] = Config(value) if _is_config(value) else value

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__") and not isinstance(self._source, Mapping):
            try:
                return getattr(self._source, name)
            except (AttributeError, KeyError):  # an object that keeps its values in a dict may raise either
                pass
        known = ", ".join(self.__dict__) or "none"
        raise MissingKeyError(f"config has no key '{name}'.{closest(name, self.__dict__)} Its keys: {known}.")

    def __getitem__(self, name: str) -> Any:
        return self.__dict__[name] if name in self.__dict__ else self.__getattr__(str(name))

    def __setattr__(self, name: str, value: Any) -> None:
        _check(value, name)
        self.__dict__[name] = value

    __setitem__ = __setattr__

    def __contains__(self, name: object) -> bool:
        return name in self.__dict__

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __len__(self) -> int:
        return len(self.__dict__)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Config):
            return self.to_dict() == other.to_dict()
        return self.to_dict() == other if isinstance(other, Mapping) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        values = self.to_dict()
        return f"Config({Secrets(values).values(values)})"  # it may be printed

    def __reduce__(self) -> tuple[Any, ...]:
        return Config, (self.to_dict(),)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of `name`, or `default` where there is none."""
        return self.__dict__.get(name, default)

    def keys(self) -> Any:
        """Return the names of the values."""
        return self.__dict__.keys()

    def values(self) -> Any:
        """Return the values."""
        return self.__dict__.values()

    def items(self) -> Any:
        """Return pairs of name and value."""
        return self.__dict__.items()

    def to_dict(self) -> dict[str, Any]:
        """Return the values as a plain dict, nested ones too."""
        return {k: v.to_dict() if isinstance(v, Config) else v for k, v in self.__dict__.items()}


Mapping.register(Config)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a trainer's configuration as a plain dict, also where a subclass has put another object in its place."""
    try:
        return (config if isinstance(config, Config) else Config(config)).to_dict()
    except ConfigError:  # a path, say
        return {"config": repr(config)}


_STORABLE = (
    *(
        type(None),
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        Enum,
        PurePath,
        date,
        time,
        timedelta,
        range,
        Config,
        Stage,
        Callback,
    ),
    *(np.generic, np.ndarray, np.dtype, torch.Tensor, torch.dtype, torch.device, torch.Size),
)


def _check(value: Any, key: str) -> None:
    """Raise a ConfigError for a value that is no plain data, and has no name by which it can be written down."""
    if isinstance(value, Mapping) or _is_config(value):
        for name, part in _named_values(value).items():
            _check(part, f"{key}.{name}")
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, part in enumerate(value):
            _check(part, f"{key}[{index}]")
    elif not isinstance(value, _STORABLE) and not _has_a_name(value):
        raise ConfigError(
            f"config has under '{key}' a {type(value).__name__}, which cannot be written down with the run; expected "
            "numbers, strings, paths, lists or dicts of them. Make such objects in build_model or get_trainloader, "
            "or set them as attributes."
        )


def _has_a_name(value: Any) -> bool:
    """Return whether a class or function can be found again by its module and name."""
    name = attribute(value, "__qualname__")
    return isinstance(name, str) and "<lambda>" not in name and isinstance(attribute(value, "__module__"), str)


def _is_config(value: Any) -> bool:
    """Return whether a value is read by name itself: a mapping of names, a Namespace or a dataclass."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) for key in value)
    return isinstance(value, (argparse.Namespace, SimpleNamespace)) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    )


def _named_values(source: Any) -> dict[Any, Any]:
    if source is None:
        return {}
    if isinstance(source, Config):
        return dict(source.__dict__)
    if isinstance(source, Mapping):
        return dict(source)
    if dataclasses.is_dataclass(source) and not isinstance(source, type):
        return {field.name: getattr(source, field.name) for field in dataclasses.fields(source)}
    if isinstance(source, (str, bytes, int, float, list, tuple, set)):
        raise ConfigError(
            f"config is a {type(source).__name__}; give None, a dict, a Namespace, a dataclass or an object "
            "with attributes, for example MyTrainer({'lr': 1e-3})."
        )
    if has_methods(source, "keys") and hasattr(type(source), "__getitem__"):
        return {key: source[key] for key in source.keys()}
    values = {}
    for name in dir(source):
        if not name.startswith("_"):
            try:
                value = getattr(source, name)
            except Exception:  # a property that cannot be computed (yet) stays one, to be asked for by its name
                continue
            if not callable(value):
                values[name] = value
    return values
