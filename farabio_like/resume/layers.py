"""Layers and criteria without weights that hooks have put in place of others: made again by class and attributes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..duck_typing import is_a

_TABLES = frozenset(vars(nn.Module()))
_EMPTY = ("_parameters", "_buffers", "_modules")


def is_bare(holder: Any) -> bool:
    """Return whether a module has neither weights nor parts: a dropout, an activation, most criteria."""
    if not is_a(holder, nn.Module):
        return False
    tables = (vars(holder)[table] for table in _EMPTY)
    return all(part is None for table in tables for part in table.values()) and not hooks_of(holder)


def hooks_of(module: nn.Module) -> int:
    """Return how many functions are hooked into a module: no file can hold them."""
    return len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)


def described(layer: nn.Module, path: list[Any] | None) -> dict[str, Any]:
    """Return what `make` needs besides the attributes of a layer, and the place of one that is no part of a module."""
    empty = {table: list(vars(layer)[table]) for table in _EMPTY}
    return {"class": [type(layer).__module__, type(layer).__qualname__], "empty": empty, "path": path}


def make(found: dict[str, Any], fields: dict[str, Any]) -> nn.Module | None:
    """Return a layer as `described`, with these attributes; None where there is no such class. Nothing is imported.

    Its constructor is not called: what that makes of its arguments are its attributes.
    """
    cls = _find(found["class"])
    if cls is None:
        return None
    layer = cls.__new__(cls)
    nn.Module.__init__(layer)
    for table in _EMPTY:
        vars(layer)[table].update(dict.fromkeys(found["empty"][table]))
    vars(layer).update({name: value for name, value in fields.items() if name not in _TABLES})
    return layer


def _find(kind: list[str]) -> Any:
    waiting: list[type] = [nn.Module]
    seen: set[type] = set()
    while waiting:
        cls = waiting.pop()
        if cls not in seen:
            seen.add(cls)
            if [cls.__module__, cls.__qualname__] == kind:
                return cls
            waiting += type.__subclasses__(cls)
    return None


def fit_buffers(module: nn.Module, state: dict[str, Any]) -> None:
    """Give the buffers of a module the shapes that they have in its state: hooks may set one, or let one grow.

    Nothing is done where parameters do not fit: that is another architecture.
    """
    own = module.state_dict(keep_vars=True)
    pairs = [(own[key], value) for key, value in state.items() if is_a(own.get(key), nn.Parameter)]
    fits = all(is_a(value, Tensor) and parameter.shape == value.shape for parameter, value in pairs)
    for key, value in state.items() if fits else ():
        path, _, name = key.rpartition(".")
        try:
            owner = module.get_submodule(path)
        except AttributeError:
            continue
        there = owner._buffers.get(name)
        if name in owner._buffers and is_a(value, Tensor) and (there is None or there.shape != value.shape):
            device = next((t.device for t in (*module.parameters(), *module.buffers())), value.device)
            owner._buffers[name] = value.detach().to(device if there is None else there.device, copy=True)
