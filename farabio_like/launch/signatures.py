"""The parameters of classes and functions, and whether the arguments of a configuration fit them. Nothing is called."""

from __future__ import annotations

import ast
import builtins
import inspect
import textwrap
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from ..errors import closest
from .types import MismatchError, converted

_EMPTY = inspect.Parameter.empty
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
DEEPEST = 4  # calls through which **kwargs are followed


def name_of(factory: Any) -> str:
    """Return the import path of a class or function, for messages."""
    module = getattr(factory, "__module__", None)
    name = getattr(factory, "__qualname__", repr(factory))
    return name if module in (None, "builtins", "__main__") else f"{module}.{name}"


def parameters(factory: Any) -> Mapping[str, inspect.Parameter] | None:
    """Return the parameters of a class or function by name, None where Python cannot tell them."""
    try:
        return inspect.signature(factory).parameters
    except (ValueError, TypeError):
        return None


def checked(
    factory: Any, given: int, arguments: Mapping[str, Any], place: Callable[..., str], find: Callable[[str, str], Any]
) -> tuple[list[Any], dict[str, Any], list[str]]:
    """Return arguments as a class or function takes them, and what is wrong with them.

    Parameters
    ----------
    factory : class or function
    given : int
        Number of leading arguments that are not of the configuration: the parameters of an optimizer.
    arguments : mapping
    place : callable
        Returns file and line of an argument by its name.
    find : callable
        Returns a class or function by its import path and the place that names it.

    Returns
    -------
    positional : list
        Those of ``*args``.
    named : dict
    problems : list of str
        Unknown, missing and mistyped ones, each with file and line.
    """
    there, who = parameters(factory), name_of(factory)
    if there is None:
        return [], dict(arguments), []
    own = list(there.values())[given:]
    named = {each.name: each for each in own if each.kind in _NAMED}
    several = next((each for each in own if each.kind is inspect.Parameter.VAR_POSITIONAL), None)
    passed_on = _passed_on(factory, 0) if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in own) else {}
    hints, problems = _hints(factory), []
    positional: list[Any] = []
    taken: dict[str, Any] = {}
    for name, value in arguments.items():
        parameter = named.get(name) or (passed_on or {}).get(name)
        if several is not None and name == several.name:
            if isinstance(value, list):
                positional = value
            else:
                problems.append(f"{place(name)}: {who}: {name} is {value!r:.60}; expected a list.")
        elif parameter is None and passed_on is not None:
            known = list(dict.fromkeys([*named, *passed_on, *([several.name] if several else [])]))
            problems.append(
                f"{place(name)}: {who} has no argument {name!r}.{closest(str(name), known)} "
                f"It has: {', '.join(known) or 'none'}."
            )
        else:
            hint = hints.get(name, _EMPTY) if name in named or parameter is None else parameter.annotation
            default = _EMPTY if parameter is None else parameter.default
            try:
                taken[name] = converted(value, hint, default, partial(_found, find, place(name)))
            except MismatchError as error:
                problems.append(
                    f"{place(name)}: {who}: {name} is {value!r:.60}, {_kind(value)}; expected {error}.{error.near}"
                )
    missing = [n for n, each in named.items() if each.default is _EMPTY and n not in arguments]
    if missing and positional and several is not None:
        missing = [name for name in missing if named[name].kind is inspect.Parameter.KEYWORD_ONLY]
    problems += [f"{place()}: {who} needs the argument {name!r}. Write {name}: ..." for name in missing]
    return positional, taken, problems


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return {str: "text", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "a dict"}.get(
        type(value), f"a {type(value).__name__}"
    )


def _found(find: Callable[[str, str], Any], where: str, path: str) -> Any:
    return find(path, where)


def _function(factory: Any) -> Any:
    """Return the function that has the parameters: of a class its ``__init__``."""
    return getattr(factory, "__init__") if isinstance(factory, type) else inspect.unwrap(factory)  # noqa: B009


def _hints(factory: Any) -> dict[str, Any]:
    """Return the annotations of the parameters, none where one of them cannot be read."""
    function = _function(factory)
    try:
        return typing.get_type_hints(function)
    except Exception:  # an annotation is any expression, of names that may be there for a type checker only
        return {}


def _passed_on(factory: Any, depth: int) -> dict[str, inspect.Parameter] | None:
    """Return the parameters of what a function passes its ``**kwargs`` on to, None where that cannot be told."""
    function = _function(factory)
    there = parameters(function)
    if there is None or depth > DEEPEST:
        return None
    name = next((each.name for each in there.values() if each.kind is inspect.Parameter.VAR_KEYWORD), None)
    if name is None:
        return {}
    owner = _owner(factory, function) if isinstance(factory, type) else None
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    found: dict[str, inspect.Parameter] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if any(isinstance(part, ast.Name) and part.id == name for part in node.args):  # a helper that reads or sets one
            found.update({text: _unknown(text) for text in _texts(node)})
        if not any(k.arg is None and isinstance(k.value, ast.Name) and k.value.id == name for k in node.keywords):
            if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                if node.func.value.id == name:  # kwargs.pop("width", 3)
                    found.update({text: _unknown(text) for text in _texts(node)})
            continue
        target = _target(node.func, function, owner)
        into = None if target is None else _takes(target, depth + 1)
        if into is None:
            return None
        found.update(into)
    return found


def _takes(target: Any, depth: int) -> dict[str, inspect.Parameter] | None:
    there = parameters(target)
    if there is None:
        return None
    found = {name: each for name, each in there.items() if each.kind in _NAMED and name != "self"}
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in there.values()):
        more = _passed_on(target, depth)
        return None if more is None else {**found, **more}
    return found


def _target(call: ast.expr, function: Any, owner: tuple[type, type] | None) -> Any:
    """Return what a call calls: a global function or class, one of a module, or ``super().__init__``."""
    if isinstance(call, ast.Name):
        return function.__globals__.get(call.id, getattr(builtins, call.id, None))
    if not isinstance(call, ast.Attribute):
        return None
    if isinstance(call.value, ast.Name):
        return getattr(function.__globals__.get(call.value.id), call.attr, None)
    is_super = isinstance(call.value, ast.Call) and getattr(call.value.func, "id", None) == "super"
    if is_super and owner is not None and call.attr == "__init__":
        cls, holder = owner
        after = cls.__mro__[cls.__mro__.index(holder) + 1 :]
        return next((each for each in after if "__init__" in vars(each)), None)
    return None


def _owner(cls: type, function: Any) -> tuple[type, type]:
    return cls, next((each for each in cls.__mro__ if vars(each).get("__init__") is function), cls)


def _texts(node: ast.Call) -> Iterator[str]:
    return (part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str))


def _unknown(name: str) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
