"""One object or a dict of them: model, criterion, optimizer, scheduler, walked alike; their learning rates.

Their weights are stored and loaded in `weights`; what else a trainer holds is found in `inventory`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from ..duck_typing import attribute, is_a
from ..errors import ConfigError


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


def is_lazy(tensor: Any) -> bool:
    """Return whether a parameter of a lazy module has no shape yet."""
    return isinstance(tensor, (UninitializedBuffer, UninitializedParameter))


def learning_rates(optimizer: Any) -> Any:
    """Return the learning rate: a float, a list for several parameter groups, a dict for several optimizers."""
    if isinstance(optimizer, Mapping):
        return {str(key): _learning_rate(optimizer[key]) for key in optimizer}
    return _learning_rate(optimizer)


def _learning_rate(optimizer: Any) -> float | list[float] | None:
    groups = [float(group["lr"]) for group in param_groups(optimizer) if "lr" in group]
    return groups[0] if len(set(groups)) == 1 else groups or None


def set_learning_rates(optimizer: Any, lr: Any) -> None:
    """Set the learning rate, in the form that `learning_rates` returns; one number sets every group.

    Raises
    ------
    ConfigError
        If there is another number of groups, or no such optimizer, or for what is no number from 0 on.
    """
    if isinstance(lr, Mapping):
        if not isinstance(optimizer, dict) or not set(lr) <= set(optimizer):
            raise ConfigError(
                f"set_lr({dict(lr)}): self.optimizer has no such keys; get_lr() is {learning_rates(optimizer)}."
            )
        pairs = [(optimizer[name], value) for name, value in lr.items()]
    else:
        pairs = [(part, lr) for part in each(optimizer)]
    for part, value in pairs:
        groups = part.param_groups
        values = list(value) if isinstance(value, (list, tuple)) else [value] * len(groups)
        if len(values) != len(groups):
            raise ConfigError(f"set_lr got {len(values)} learning rates for {len(groups)} parameter groups.")
        for group, new in zip(groups, values, strict=True):
            is_rate = isinstance(new, Tensor) or (isinstance(new, Real) and float(new) >= 0)
            if not is_rate:
                raise ConfigError(f"set_lr got {new!r}; expected a number, 0 or more.")
            if isinstance(group["lr"], Tensor):  # as a compiled or capturable optimizer keeps it
                group["lr"].fill_(new)
            else:
                group["lr"] = new


def param_groups(optimizer: Any) -> Sequence[dict[str, Any]]:
    """Return the parameter groups of an optimizer, of torch's or of another kind; none of anything else."""
    groups = attribute(optimizer, "param_groups")
    if is_a(groups, (list, tuple)) and all(is_a(group, dict) and "params" in group for group in groups):
        return groups
    return ()


def parameters_of(optimizer: Any) -> list[nn.Parameter]:
    """Return the parameters of an optimizer, group by group; none of anything else."""
    return [p for group in param_groups(optimizer) for p in group["params"]]


def combine(losses: dict[str, Any], weights: Any) -> Any:
    """Return one loss of several: their sum, with weights by name, or their mean (``"mean"``)."""
    if isinstance(weights, Mapping):
        if set(weights) != set(losses):
            raise ConfigError(f"_loss_weights has the keys {list(weights)}, self.criterion has {list(losses)}.")
        return sum(weights[name] * loss for name, loss in losses.items())
    total = sum(losses.values())
    return total / len(losses) if weights == "mean" else total
