"""Whether a value of a configuration can be an argument, by the annotation or the default of the parameter.

A number that is written as text becomes one, a list a tuple or a tensor, a name a member of an enumeration, where the
parameter asks for it. What an annotation does not tell is not judged.
"""

from __future__ import annotations

import collections.abc
import inspect
import numbers
import os
import types
import typing
from collections.abc import Callable
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar, Union

import torch

from ..config.yaml_text import scalar
from ..errors import closest

_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection, collections.abc.Sized)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_PLAIN = (str, bool, int, float, list, dict)


class MismatchError(Exception):
    """A value cannot be an argument.

    Parameters
    ----------
    expected : str
    near : str
        A whole sentence with the closest name there is.
    """

    def __init__(self, expected: str, near: str = "") -> None:
        super().__init__(expected)
        self.near = near


def converted(value: Any, hint: Any, default: Any, find: Callable[[str], Any]) -> Any:
    """Return a value as an argument.

    Parameters
    ----------
    value : plain data, or an object that is to be made
    hint : Any
        The annotation, ``inspect.Parameter.empty`` where there is none.
    default : Any
        Of the parameter, ``inspect.Parameter.empty`` where there is none.
    find : callable
        Returns a class or function by its import path, for a parameter that is one.

    Raises
    ------
    MismatchError
    """
    if not isinstance(value, (*_PLAIN, type(None))):
        return value  # to be made: its class has been looked at
    if hint is inspect.Parameter.empty:
        return _by_default(value, default)
    if value is None and default is None:
        return None
    return _as(value, hint, find)


def _by_default(value: Any, default: Any) -> Any:
    """Return a value for a parameter without annotation: of the kind of its default, where that is sure."""
    if value is None or default is None or default is inspect.Parameter.empty:
        return value
    if isinstance(default, bool) and not isinstance(value, bool):
        raise MismatchError("true or false")
    if isinstance(default, (int, float)) and not isinstance(default, bool):
        if isinstance(value, bool) or isinstance(value, dict):
            raise MismatchError("a number")
        return _number(value, (int, float), "a number") if isinstance(value, str) else value
    return value


def _as(value: Any, hint: Any, find: Callable[[str], Any]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (Any, object, inspect.Parameter.empty) or isinstance(hint, (TypeVar, str)):
        return value
    if origin in (Union, types.UnionType):
        return _as_one_of(value, arguments, find)
    if origin is typing.Annotated:
        return _as(value, arguments[0], find)
    if origin is Literal:
        if not any(value == each and type(value) is type(each) for each in arguments):
            near = closest(str(value), map(str, arguments)) if isinstance(value, str) else ""
            raise MismatchError(f"one of {', '.join(map(repr, arguments))}", near)
        return value
    kind = origin or hint
    if kind in (collections.abc.Callable, type):
        return _reference(value, find)
    if kind is tuple or kind in _LISTS or kind in (set, frozenset):
        return _list(value, kind, arguments, find)
    if kind in _DICTS:
        if not isinstance(value, dict):
            raise MismatchError("a dict")
        return {key: _as(part, arguments[1], find) for key, part in value.items()} if len(arguments) == 2 else value
    return _as_class(value, kind) if isinstance(kind, type) else value


def _as_one_of(value: Any, hints: tuple[Any, ...], find: Callable[[str], Any]) -> Any:
    if value is None and type(None) in hints:
        return None
    exact = [hint for hint in hints if isinstance(hint, type) and type(value) is hint]
    said: list[str] = []
    near = ""
    for hint in [*exact, *hints]:
        if hint is type(None):
            continue
        try:
            return _as(value, hint, find)
        except MismatchError as error:
            near = near or error.near
            if str(error) not in said:
                said.append(str(error))
    raise MismatchError(" or ".join(said) + (" or null" if type(None) in hints else ""), near)


def _as_class(value: Any, kind: type) -> Any:
    if value is None:
        if kind is type(None):
            return None
        raise MismatchError(_name(kind))
    if kind is bool:
        return _same(value, isinstance(value, bool), kind)
    if kind is int:
        return _number(value, (int,), "a whole number")
    if kind is float or kind in (numbers.Number, numbers.Real):
        return _number(value, (int, float), "a number")
    if kind is str:
        return _same(value, isinstance(value, str), kind)
    if issubclass(kind, (PurePath, os.PathLike)):
        return Path(_same(value, isinstance(value, str), kind))
    if issubclass(kind, Enum):
        return _member(value, kind)
    if issubclass(kind, torch.Tensor) and isinstance(value, list):
        try:
            return torch.tensor(value, dtype=torch.get_default_dtype())
        except (TypeError, ValueError, RuntimeError):
            raise MismatchError("a list of numbers") from None
    if kind is torch.device and isinstance(value, str):
        try:
            return torch.device(value)
        except RuntimeError:
            raise MismatchError("a device, as cpu or cuda:0") from None
    if kind is torch.dtype and isinstance(value, str):
        found = getattr(torch, value.removeprefix("torch."), None)
        return _same(found, isinstance(found, torch.dtype), kind)
    if getattr(kind, "_is_protocol", False) or inspect.isabstract(kind) or isinstance(value, kind):
        return value
    raise MismatchError(f"{_name(kind)}, as in {{class: {kind.__module__}.{kind.__qualname__}}}")


def _list(value: Any, kind: Any, arguments: tuple[Any, ...], find: Callable[[str], Any]) -> Any:
    if not isinstance(value, list):
        raise MismatchError("a list")
    if kind is tuple and arguments and arguments[-1] is not ...:
        if len(value) != len(arguments):
            raise MismatchError(f"a list of {len(arguments)}")
        return tuple(_as(part, hint, find) for part, hint in zip(value, arguments, strict=True))
    parts = [_as(part, arguments[0], find) if _is_plain(part) else part for part in value] if arguments else value
    return parts if kind in _LISTS else kind(parts)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (*_PLAIN, type(None)))


def _reference(value: Any, find: Callable[[str], Any]) -> Any:
    if not isinstance(value, str):
        raise MismatchError("the import path of a class or function, as torch.nn.ReLU")
    return find(value)


def _number(value: Any, kinds: tuple[type, ...], expected: str) -> Any:
    if isinstance(value, str):
        try:
            value = scalar(value.strip())
        except ValueError:
            value = None
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise MismatchError(expected)
    return value


def _member(value: Any, kind: type[Enum]) -> Enum:
    name = value.rpartition(".")[2] if isinstance(value, str) else value
    if isinstance(name, str) and name in kind.__members__:
        return kind[name]
    try:
        return kind(value)
    except ValueError:
        names = list(kind.__members__)
        near = closest(name, names) if isinstance(name, str) else ""
        raise MismatchError(f"one of {', '.join(names[:20])}", near) from None


def _same(value: Any, fits: bool, kind: type) -> Any:
    if not fits:
        raise MismatchError(_name(kind))
    return value


def _name(kind: type) -> str:
    names = {bool: "true or false", str: "text", int: "a whole number", float: "a number"}
    return names.get(kind, "text, a path" if issubclass(kind, os.PathLike) else f"a {kind.__name__}")
