"""What a resumed run needs of its steps: open windows with their gradients, and the scales of fp16."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import components
from ..components import dtensor, inventory
from ..distributed import fsdp
from ..errors import CheckpointError
from .steps import Window, bind, optimizers_of

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def state_dict(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return what a resumed run needs of the step, between two batches: plain data and tensors.

    Returns
    -------
    dict
        ``missed`` (batches that moved no weight), ``scalers`` by optimizer, ``windows`` by optimizer (open
        ones) with ``gradients`` by the position of their parameter in the optimizer; ``unit``, ``overflows``;
        ``waiting``, gradients by parameter, where a step of the subclass's own has gathered some; ``schedules``,
        who has stepped which, where somebody has.
    """
    state = trainer._run_state
    stepping = state.stepping
    if stepping is not None:
        stepping.gather_on(trainer)
    found: dict[str, Any] = {"missed": state.batches_without_step, "moved": state.moved}
    if stepped := state.schedules.steppers(trainer):
        found["schedules"] = stepped
    open_window = stepping is not None and any(window.batches for window in stepping.windows.values())
    if state.gathering and not open_window and not fsdp.are_in(trainer):
        waiting = {
            name: p.grad.detach().clone()
            for name, p in inventory.take(trainer).named_parameters().items()
            if p.grad is not None
        }
        found["waiting"] = waiting
    if stepping is None:
        return found
    every = optimizers_of(trainer)
    windows: dict[str, Any] = {}
    for name, window in stepping.windows.items():
        if window.batches and name in every:
            gradients = {
                position: parameter.grad.detach().clone()
                for position, parameter in enumerate(components.parameters_of(every[name]))
                if parameter.grad is not None
            }
            windows[name] = {
                "batches": window.batches,
                "samples": window.samples,
                "scaler": window.scaler,
                "gradients": gradients,
            }
    scalers = {name: scaler.state_dict() for name, scaler in stepping.scalers.items()}
    return {
        **found,
        "scalers": scalers,
        "windows": windows,
        "unit": stepping.unit,
        "overflows": stepping.overflows,
    }


def merged(states: Sequence[Mapping[str, Any]], empty: bool) -> dict[str, Any]:
    """Return one `state_dict` for those of several ranks: with the sums of their gradients, or without any."""
    windows: dict[str, Any] = {}
    for name, window in states[0].get("windows", {}).items():
        sums: dict[int, Tensor] = {}
        for state in () if empty else states:
            for position, gradient in state["windows"][name]["gradients"].items():
                sums[position] = sums[position] + gradient if position in sums else gradient
        windows[name] = {**window, "gradients": sums}
    return {**states[0], "windows": windows}  # what is waiting is the mean over the ranks already


def load_state_dict(trainer: ConvnetTrainer, found: Mapping[str, Any], within_pass: bool = False) -> None:
    """Take back what `state_dict` gave, after the optimizers have theirs.

    A trainer with other settings takes what it has a use for: scales in fp16, open windows where it accumulates.

    Parameters
    ----------
    trainer : ConvnetTrainer
    found : dict
    within_pass : bool
        A pass has begun: a setting that a hook has changed in the middle of it holds from the next one on.

    Raises
    ------
    CheckpointError
        If an open window's gradients do not fit the optimizer; nothing is changed then.
    """
    state = trainer._run_state
    every = optimizers_of(trainer)
    stepping = state.stepping if within_pass else bind(trainer)
    windows = found.get("windows", {}) if stepping is not None and stepping.plan.steps > 1 else {}
    for name, window in windows.items():
        parameters = components.parameters_of(every[name]) if name in every else []
        for position, gradient in window["gradients"].items():
            if position >= len(parameters) or parameters[position].shape != gradient.shape:
                raise CheckpointError(
                    f"the checkpoint was written amid {window['batches']} accumulated batches, and gradient "
                    f"{position} of optimizer {name!r}, of shape {tuple(gradient.shape)}, fits no parameter now."
                )
    state.schedules.load_steppers(trainer, found.get("schedules", {}))
    state.batches_without_step, state.moved = found.get("missed", 0), found.get("moved", True)
    if stepping is None:
        return
    stepping.windows, stepping.tried = {}, set()
    stepping.unit, stepping.overflows = found.get("unit", 1), found.get("overflows", 0)
    if stepping.plan.precision == "fp16":
        for name, scaler in found.get("scalers", {}).items():
            stepping._scaler_called(name, trainer.device).load_state_dict(scaler)
    for name, window in windows.items():
        every[name].zero_grad()
        parameters = components.parameters_of(every[name])
        for position, gradient in window["gradients"].items():
            parameter = parameters[position]
            parameter.grad = dtensor.like(gradient.to(parameter.device, copy=True), parameter)
        stepping.windows[name] = Window(window["batches"], window["samples"], window["scaler"])


def load_waiting(trainer: ConvnetTrainer, found: Mapping[str, Any]) -> None:
    """Give the parameters the gradients that a step of the subclass's own had gathered, see `state_dict`."""
    waiting = found.get("waiting", {})
    for name, parameter in inventory.take(trainer).named_parameters().items() if waiting else ():
        gradient = waiting.get(name)
        if gradient is not None and gradient.shape == parameter.shape:
            parameter.grad = gradient.to(parameter.device, copy=True)


def check_optimizer(optimizer: torch.optim.Optimizer, groups: Sequence[Mapping[str, Any]]) -> None:
    """Check what an optimizer has taken from a file: it looks at nothing before its next step.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    groups : sequence of dict
        Its parameter groups before it took the state.

    Raises
    ------
    ValueError
        With the group or the parameter, and what is missing or of another kind.
    """
    for index, (now, before) in enumerate(zip(optimizer.param_groups, groups, strict=False)):
        for name, value in before.items():
            if name not in now:
                raise ValueError(f"param_groups/{index} has no {name!r}")
            if name != "params" and not _is_alike(now[name], value):
                raise ValueError(f"param_groups/{index}/{name} is {str(now[name])[:60]}, was {str(value)[:60]}")
    if not type(optimizer).__module__.startswith("torch.optim"):
        return
    expected: dict[tuple[int, int], dict[str, Any]] = {}
    for index, (group, before) in enumerate(zip(optimizer.param_groups, groups, strict=False)):
        for position, parameter in enumerate(group["params"]):
            key = index, parameter.dim()
            if key not in expected:
                expected[key] = _state_of_one(optimizer, group, before, parameter.dim())
            entry = optimizer.state.get(parameter)
            if not entry or dtensor.is_sharded(parameter):
                continue
            for name, value in expected[key].items():
                if name not in entry or not _fits(entry[name], value, parameter):
                    raise ValueError(
                        f"of parameter {position} of group {index}, {name!r} is missing or of another kind"
                    )


def _is_alike(value: Any, before: Any) -> bool:
    if before is None:
        return True
    if isinstance(before, bool):
        return value is None or isinstance(value, bool)
    if isinstance(before, (list, tuple)):
        fits = isinstance(value, (list, tuple)) and len(value) == len(before)
        return fits and all(_is_alike(part, own) for part, own in zip(value, before, strict=True))
    if isinstance(before, (int, float, Tensor)):
        one = isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta and not value.is_complex()
        return (one or isinstance(value, (int, float))) and bool(0 <= value < math.inf or value == before)
    return not isinstance(before, str) or isinstance(value, str)


def _state_of_one(
    optimizer: torch.optim.Optimizer, group: Mapping[str, Any], before: Mapping[str, Any], dims: int
) -> dict[str, Any]:
    """Return what an optimizer of PyTorch keeps of a parameter after a step, found with one of its own.

    Whoever makes an optimizer has its settings checked, who loads them has not: those of the file are tried here.
    """

    def tried(options: Mapping[str, Any]) -> dict[str, Any]:
        parameter = torch.zeros([2] * dims, requires_grad=True)
        parameter.grad = torch.zeros_like(parameter)
        own = {name: value for name, value in options.items() if name in optimizer.defaults}
        probe = type(optimizer)([parameter], **own)  # type: ignore[arg-type]
        probe.step()
        return dict(probe.state[parameter])

    try:
        tried(before)
    except Exception:  # it needs more than this, as L-BFGS does
        return {}
    return tried(group)


def _fits(value: Any, expected: Any, parameter: Tensor) -> bool:
    if not isinstance(expected, Tensor):
        return not isinstance(expected, (int, float)) or isinstance(value, (int, float))
    if value is None:  # a momentum that has not begun
        return True
    if expected.dim() == 0:
        number = isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta and not value.is_complex()
        # Of a parameter of one number, what is kept of it may be below 0; a number of steps may not.
        counts = parameter.dim() == 0 or bool(0 <= value < math.inf)
        return (number or isinstance(value, (int, float))) and counts
    if not isinstance(value, Tensor) or value.is_complex() != parameter.is_complex():
        return False
    return value.shape == parameter.shape if expected.shape == (2,) * parameter.dim() else True
