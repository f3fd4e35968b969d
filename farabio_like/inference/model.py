"""A model as inference calls it: where it computes, in eval mode, and its outputs by name.

Neither windows nor flips are known here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, HookError


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Put a module into eval mode without gradients, and give every training flag back; functions are left alone.

    A program of torch.export keeps the mode that it was exported in.
    """
    flags = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    if any(training for _, training in flags):
        try:
            model.eval()
        except NotImplementedError:  # what an exported program says
            flags = []
    try:
        with torch.no_grad():
            yield
    finally:
        if flags and flags[0][1]:
            model.train()  # an override may do more than set flags
        for module, training in flags:
            if module.training != training:
                module.training = training


def device_of(model: Any, image: Any, device: torch.device | str | None) -> torch.device:
    """Return where a model computes: `device`, else where its parameters are, else where the image is.

    Raises
    ------
    ConfigError
        For a device that is not there, and for one on which a module has none of its parameters.
    """
    tensors = itertools.chain(model.parameters(), model.buffers()) if isinstance(model, nn.Module) else ()
    held = list(dict.fromkeys(tensor.device for tensor in tensors))
    if device is None:
        return held[0] if held else image.device if isinstance(image, Tensor) else torch.device("cpu")
    try:
        chosen = torch.empty(0, device=device).device  # with its index: "cuda" is "cuda:0"
    except (AssertionError, RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"device={device!r} is no device of this machine ({reason}); write device='cpu'.") from error
    if held and chosen not in held:
        raise ConfigError(
            f"the model is on {held[0]}, and device is {chosen}. Leave device out, or move the model: "
            f"model.to({str(chosen)!r})."
        )
    return chosen


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Return what lies in a tuple, list or dict, nested or not, by its place: ``['mask']``, ``[0]``.

    What is none of these lies at the place ``""``.
    """
    found: dict[str, Any] = {}
    for place, part in _parts(value, name):
        found |= leaves(part, place)
    return found if _is_container(value) else {name: value}


def like(value: Any, values: Mapping[str, Any], name: str = "") -> Any:
    """Return a structure like `value`, with the leaves in `values`, by their place as `leaves` names it.

    A mapping becomes a dict; tuples, lists and named tuples stay what they are.
    """
    if not _is_container(value):
        return values[name]
    parts = [like(part, values, place) for place, part in _parts(value, name)]
    if isinstance(value, Mapping):
        return dict(zip(value, parts, strict=True))
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


def _is_container(value: Any) -> bool:
    return isinstance(value, (tuple, list, Mapping))


def _parts(value: Any, name: str) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(f"{name}[{key!r}]", part) for key, part in value.items()]
    return [(f"{name}[{place}]", part) for place, part in enumerate(value)] if _is_container(value) else []


def output_tensors(outputs: Any, who: str) -> dict[str, Tensor]:
    """Return the tensors of an output by their place, as `leaves` names it.

    Parameters
    ----------
    outputs : tensor, or tuple, list or dict of them
    who : str
        What gave them, for the message.

    Raises
    ------
    HookError
        For anything else.
    """
    found = leaves(outputs)
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise HookError(
                f"{who} gave a {type(value).__name__}{f' at {name}' if name else ''}; "
                "expected a tensor, or a tuple, list or dict of tensors."
            )
    if not found:
        raise HookError(f"{who} gave an empty {type(outputs).__name__}; expected at least one tensor.")
    return found


def averaged_dtype(tensors: Mapping[str, Tensor], who: str) -> torch.dtype:
    """Return the type in which outputs are averaged: float64 where one of them is float64, else float32.

    Raises
    ------
    HookError
        For tensors that are not of real floating-point numbers: the mean of class numbers is no class.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise HookError(
                f"{who} gave an output{name} of {tensor.dtype}; expected floating-point numbers, which have means. "
                "Return the logits or the probabilities."
            )
    double = any(tensor.dtype == torch.float64 for tensor in tensors.values())
    return torch.float64 if double else torch.float32
