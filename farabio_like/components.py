"""One-or-dict components: modules, criteria, optimizers; their plain state and how it is loaded.

A file always has plain keys: the wrappers ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile``
prefix keys with ``module.`` or ``_orig_mod.``, here these parts go at saving and come back at loading.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from . import shards
from .errors import CheckpointError, ConfigError

WRAPPER_PARTS = ("module", "_orig_mod")


def each(component: Any, *sequences: type[Any]) -> tuple[Any, ...]:
    """Return the objects of a component: none, one, or the values of a dict (or the items of `sequences`)."""
    if component is None:
        return ()
    if isinstance(component, Mapping):
        return tuple(component[key] for key in component)  # a key may be named "values"
    return tuple(component) if isinstance(component, sequences) else (component,)


def named(component: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield ``(name, object)`` for a single component, ``(name[key], object)`` for a dict of them."""
    if isinstance(component, Mapping):
        for key in component:
            yield f"{name}[{key!r}]", component[key]
    elif component is not None:
        yield name, component


def attribute_modules(owner: Any) -> dict[str, nn.Module]:
    """Return every module that is an attribute of `owner`, or stands in a dict, list or tuple that is one."""
    found: dict[str, nn.Module] = {}
    for name, value in vars(owner).items():
        if isinstance(value, nn.Module):
            found[name] = value
        elif isinstance(value, (Mapping, list, tuple)):
            parts = value.items() if isinstance(value, Mapping) else enumerate(value)
            found.update({f"{name}.{key}": part for key, part in parts if isinstance(part, nn.Module)})
    return found


def attribute_parameters(owner: Any) -> dict[str, nn.Parameter]:
    """Return all parameters of `owner` by name: those of its modules, and those that are attributes themselves."""
    found = {name: value for name, value in vars(owner).items() if isinstance(value, nn.Parameter)}
    for where, module in attribute_modules(owner).items():
        found |= {f"{where}.{name}": p for name, p in module.named_parameters() if not is_lazy(p)}
    return found


def model_of(trainer: Any) -> Any:
    """Return ``trainer.model``, or the networks that a trainer without one keeps under names of its own.

    Those are the modules among its attributes that had trainable parameters when they were first seen. A
    network that was frozen from the start (a feature extractor, say) is not trained, and not saved.
    """
    if trainer.model is not None:
        return trainer.model
    there = attribute_modules(trainer)
    known = trainer._run_state.networks
    known |= {name for name, module in there.items() if any(p.requires_grad for p in module.parameters())}
    return {name: module for name, module in there.items() if name in known}


def modules_of(trainer: Any) -> tuple[nn.Module, ...]:
    """Return the modules that a trainer trains."""
    return each(model_of(trainer))


def modules_to_evaluate(trainer: Any) -> list[nn.Module]:
    """Return the modules that an evaluation puts into eval mode: without a model, frozen networks too."""
    if trainer.model is not None:
        return list(modules_of(trainer))
    return list(attribute_modules(trainer).values())


def named_parameters(trainer: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the name and value of every parameter that a trainer trains, except those without a shape yet."""
    model = model_of(trainer)
    for key, module in model.items() if isinstance(model, Mapping) else [("", model)]:
        for name, parameter in module.named_parameters():
            if not is_lazy(parameter):
                yield f"{key}.{name}" if key else name, parameter


def is_lazy(tensor: Any) -> bool:
    """Return whether a parameter of a lazy module has no shape yet."""
    return isinstance(tensor, (UninitializedBuffer, UninitializedParameter))


def learning_rates(optimizer: Any) -> Any:
    """Return the learning rate: a float, a list for several parameter groups, a dict for several optimizers."""
    if isinstance(optimizer, Mapping):
        return {str(key): _learning_rate(optimizer[key]) for key in optimizer}
    return _learning_rate(optimizer)


def _learning_rate(optimizer: Any) -> float | list[float] | None:
    groups = [float(group["lr"]) for group in getattr(optimizer, "param_groups", ()) if "lr" in group]
    return groups[0] if len(set(groups)) == 1 else groups or None


def parameters_of(optimizer: Any) -> list[nn.Parameter]:
    """Return the parameters of an optimizer, group by group; none of anything else."""
    return [p for group in getattr(optimizer, "param_groups", ()) for p in group["params"]]


def combine(losses: dict[str, Any], weights: Any) -> Any:
    """Return one loss of several: their sum, with weights by name, or their mean (``"mean"``)."""
    if isinstance(weights, Mapping):
        if set(weights) != set(losses):
            raise ConfigError(f"_loss_weights has the keys {list(weights)}, self.criterion has {list(losses)}.")
        return sum(weights[name] * loss for name, loss in losses.items())
    total = sum(losses.values())
    return total / len(losses) if weights == "mean" else total


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


def plain_state(module: nn.Module) -> dict[str, Any]:
    """Return the ``state_dict`` of `module` with plain keys."""
    return {plain_key(module, key): value for key, value in module.state_dict().items()}


def model_state(model: Any) -> dict[str, Any]:
    """Return the plain state of one module, or of each module of a dict under its name."""
    if isinstance(model, Mapping):
        return {str(name): plain_state(module) for name, module in model.items()}
    return plain_state(model)


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
        module.load_state_dict(fitted[name])


def _fit(module: nn.Module, state: Mapping[str, Any], where: str, name: str) -> dict[str, Any]:
    """Return `state` under the keys of `module`, or say in what the two differ."""
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
        f"{key}: {tuple(given[key].shape)} in the file, {tuple(own[plain[key]].shape)} in the model"
        for key in plain
        if key in given and _shapes_differ(given[key], own[plain[key]])
    ]
    if missing or unexpected or mismatched:
        lines = [f"{where} does not fit {type(unwrap(module)).__name__}{f' {name!r}' if name else ''}:"]
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("mismatched", mismatched)):
            if keys:
                shown = ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
                lines.append(f"  {len(keys)} {kind}: {shown}")
        raise CheckpointError("\n".join([*lines, "The model in memory is unchanged."]))
    return {plain[key]: shards.like(value, own[plain[key]]) for key, value in given.items()}


def _bare(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in WRAPPER_PARTS)


def _shapes_differ(new: Any, old: Any) -> bool:
    if is_lazy(old):
        return False
    if isinstance(old, torch.Tensor) != isinstance(new, torch.Tensor):
        return True
    return isinstance(old, torch.Tensor) and old.shape != new.shape


def unwrap(module: nn.Module) -> nn.Module:
    """Return the module inside any wrappers."""
    while (part := _wrapped_part(module)) is not None:
        module = getattr(module, part)
    return module
