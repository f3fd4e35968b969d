"""The plain state of modules and how it is loaded.

A file always has plain keys: the wrappers ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile``
prefix keys with ``module.`` or ``_orig_mod.``; these parts go at saving and come back at loading.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import CheckpointError
from . import dtensor
from .one_or_dict import is_lazy

WRAPPER_PARTS = ("module", "_orig_mod")


def _wrapped_part(module: nn.Module) -> str | None:
    """Return the name under which a wrapper holds its module, None for any other module."""
    if isinstance(module, (nn.DataParallel, DistributedDataParallel)):
        return "module"
    # torch.compile's wrapper is recognised by its one attribute, to not import the compiler for it.
    return "_orig_mod" if type(module).__name__ == "OptimizedModule" else None


def plain_key(module: nn.Module, key: str) -> str:
    """Return a ``state_dict`` key of `module` without the parts that wrappers add, nested ones included."""
    kept = []
    current: Any = module
    for part in key.split("."):
        if not (isinstance(current, nn.Module) and part == _wrapped_part(current)):
            kept.append(part)
        current = getattr(current, part, None) if isinstance(current, nn.Module) else None
    return ".".join(kept)


def plain_state(module: nn.Module, instead: Mapping[int, Tensor] | None = None) -> dict[str, Any]:
    """Return the ``state_dict`` of `module` with plain keys, with other tensors for some parameters, by their id."""
    if not instead:
        return {plain_key(module, key): value for key, value in module.state_dict().items()}
    state = {key: instead.get(id(value), value) for key, value in module.state_dict(keep_vars=True).items()}
    return {plain_key(module, k): v.detach() if isinstance(v, Tensor) else v for k, v in state.items()}


def model_state(model: Any, instead: Mapping[int, Tensor] | None = None) -> dict[str, Any]:
    """Return the plain state of one module, or of each module of a dict under its name, see `plain_state`."""
    if isinstance(model, Mapping):
        return {str(name): plain_state(module, instead) for name, module in model.items()}
    return plain_state(model, instead)


def load_model_state(model: Any, state: Mapping[str, Any], where: str) -> None:
    """Load what `model_state` gave into one module or a dict of them, whatever wraps them.

    Nothing is changed unless everything fits.

    Parameters
    ----------
    model : nn.Module or dict of nn.Module
    state : dict
        Keys may have the wrappers' prefixes or not.
    where : str
        What is being loaded, for the error message.

    Raises
    ------
    CheckpointError
        With the first five missing, unexpected and mismatched keys, and how many of each there are.
    """
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"{where} holds no weights by their names: {_kind_of(state)}.")
    nested = bool(state) and all(isinstance(value, Mapping) for value in state.values())
    if isinstance(model, Mapping) != nested:
        have = f"the models {sorted(map(str, model))}" if isinstance(model, Mapping) else f"one {type(model).__name__}"
        got = f"the models {sorted(state)}" if nested else "the weights of one model"
        raise CheckpointError(f"{where} holds {got}, but this trainer has {have}.")
    if not nested:
        model, state = {"": model}, {"": state}
    elif set(map(str, model)) != set(state):
        raise CheckpointError(
            f"{where} holds the models {sorted(state)}, but this trainer has {sorted(map(str, model))}."
        )
    fitted = {name: _fit(module, state[str(name)], where, str(name)) for name, module in model.items()}
    for name, module in model.items():
        try:
            module.load_state_dict(fitted[name])
        except Exception as error:  # of a module with a way of its own, say
            raise CheckpointError(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error


def _fit(module: nn.Module, state: Mapping[str, Any], where: str, name: str) -> dict[str, Any]:
    """Return `state` under the keys of `module`, or say in what the two differ."""
    if not all(isinstance(key, str) for key in state):
        raise CheckpointError(f"{where} holds no weights by their names: {_kind_of(state)}.")
    own = module.state_dict()
    plain = {plain_key(module, key): key for key in own}
    given = dict(state)
    if set(given) != set(plain):
        # A file that another program saved from inside a wrapper: compare without any wrapper's part.
        bare = {_bare(key): key for key in plain}
        renamed = {bare.get(_bare(key), key): value for key, value in given.items()}
        if len(renamed) == len(given):
            given = renamed
    missing = [key for key in plain if key not in given]
    unexpected = [key for key in given if key not in plain]
    mismatched = [
        f"{key}: {_kind_of(given[key])} in the file, {_kind_of(own[plain[key]])} in the model"
        for key in plain
        if key in given and _differ(given[key], own[plain[key]])
    ]
    if missing or unexpected or mismatched:
        lines = [f"{where} does not fit {type(unwrap(module)).__name__}{f' {name!r}' if name else ''}:"]
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("mismatched", mismatched)):
            if keys:
                shown = ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
                lines.append(f"  {len(keys)} {kind}: {shown}")
        raise CheckpointError("\n".join([*lines, "The model in memory is unchanged."]))
    return {plain[key]: dtensor.like(value, own[plain[key]]) for key, value in given.items()}


def _bare(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in WRAPPER_PARTS)


def _differ(new: Any, old: Any) -> bool:
    """Return whether a value of a file has not the shape of one of a module, or is of a kind that it cannot take."""
    if is_lazy(old):
        return isinstance(new, torch.Tensor) and new.is_meta
    if not isinstance(old, torch.Tensor) or not isinstance(new, torch.Tensor):
        return isinstance(old, torch.Tensor) != isinstance(new, torch.Tensor)
    if new.is_meta != old.is_meta or new.layout != old.layout or new.is_nested != old.is_nested:
        return True
    return new.is_nested or old.shape != new.shape or (new.is_complex() and not old.is_complex())


def _kind_of(value: Any) -> str:
    """Return the shape of a tensor, and what else a message has to say of a value."""
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    kinds = [name for name, is_one in (("meta", value.is_meta), ("nested", value.is_nested)) if is_one]
    kinds += [str(value.layout)] if value.layout != torch.strided else ["complex"] if value.is_complex() else []
    return " ".join(["of unequal shapes" if value.is_nested else str(tuple(value.shape)), *kinds])


def unwrap(module: nn.Module) -> nn.Module:
    """Return the module inside any wrappers."""
    while (part := _wrapped_part(module)) is not None:
        module = getattr(module, part)
    return module
