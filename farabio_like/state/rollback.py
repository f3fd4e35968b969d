"""Steps that leave no trace: everything that they change in a trainer is given back, bit for bit."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .. import components
from ..components import inventory
from ..duck_typing import has_methods, has_state, is_a
from ..metrics.objects import contents_kept, metrics_in
from ..optim import steps as optim_steps
from ..rng import preserved_rng

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


@contextlib.contextmanager
def without_trace(trainer: ConvnetTrainer) -> Iterator[None]:
    """Do steps without callbacks, and afterwards give the trainer back everything that they changed.

    Weights and other parameters, gradients, optimizers, schedulers, flags, random numbers, counters, and the
    trainer's attributes with the lists and dicts among them; only what is changed elsewhere stays changed.

    Parameters
    ----------
    trainer : ConvnetTrainer
    """
    held = inventory.take(trainer)
    restore = [_module_back(layer) for part in inventory.once(held.modules) for layer in part.value.modules()]
    restore += [_content_back(part.value) for part in inventory.once(held.parameters)]
    for part in inventory.once([*held.optimizers, *held.schedulers]):
        if is_a(part.value, torch.optim.Optimizer):
            restore.append(_optimizer_back(part.value))
        elif has_state(part.value):
            restore.append(_state_back(part.value))
    averages = [
        callback
        for callback in components.each(trainer.callbacks, list, tuple)
        if has_methods(callback, "sign", "belongs") and callback.belongs(trainer)
    ]
    loader = trainer.train_loader
    try:
        with attributes_kept(trainer):
            trainer.callbacks = []
            if isinstance(loader, DataLoader) and loader.persistent_workers:
                # Workers that stay belong to the loader, and those of a pass under way would start it anew.
                trainer.train_loader = copy.copy(loader)
                trainer.train_loader._iterator = None
            # A per-step scheduler may end before the sweep does; every rate here is set anyway.
            trainer._scheduler_step = "epoch"
            try:
                with preserved_rng(loader):
                    yield
            finally:
                for back in restore:
                    back()
    finally:
        for average in averages:
            average.sign(trainer)  # the weights are again those that it belongs to


@contextlib.contextmanager
def attributes_kept(trainer: ConvnetTrainer) -> Iterator[None]:
    """Call no callbacks, and afterwards give a trainer its attributes and its state of the run back.

    The lists and dicts among the attributes get their contents back, too.

    Parameters
    ----------
    trainer : ConvnetTrainer
    """
    state, attributes = trainer._run_state, vars(trainer)
    kept = dict(attributes)
    contents = [(value, copy.copy(value)) for value in kept.values() if type(value) in (list, dict)]
    groups: list[Any] = [state, state.requests, state.progress, state.resumption]
    fields = [{field.name: getattr(group, field.name) for field in dataclasses.fields(group)} for group in groups]
    state.listeners = {}
    state.running = state.running and "search"  # what hooks evaluate meanwhile is no evaluation of the run
    if state.stepping is not None:  # whose windows may be open
        state.stepping = optim_steps.fresh(state.stepping, trainer.device)
    try:
        with contents_kept(metrics_in(kept.get("metrics"))):
            yield
    finally:
        for group, before in zip(groups, fields, strict=True):
            for name, value in before.items():
                setattr(group, name, value)
        attributes.clear()
        attributes.update(kept)
        for value, content in contents:
            value.clear()
            value.extend(content) if isinstance(value, list) else value.update(content)


def _state_back(part: Any) -> Callable[[], None]:
    state = copy.deepcopy(part.state_dict())
    return lambda: part.load_state_dict(state)


def _module_back(module: nn.Module) -> Callable[[], None]:
    attributes = dict(vars(module))
    tables: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (table, dict(table)) for table in (module._parameters, module._buffers)
    ]
    contents = [_content_back(tensor) for _, table in tables for tensor in table.values() if tensor is not None]

    def back() -> None:
        vars(module).clear()
        vars(module).update(attributes)
        for table, entries in tables:
            table.clear()
            table.update(entries)
        for content in contents:
            content()

    return back


def _content_back(tensor: Tensor) -> Callable[[], None]:
    """Return what gives a tensor its values and its gradient back, in place: others may hold it too."""
    content, gradient = tensor.detach().clone(), tensor.grad if tensor.is_leaf else None
    slope = None if gradient is None else gradient.detach().clone()
    needs_gradient = tensor.requires_grad

    def back() -> None:
        with torch.no_grad():
            tensor.copy_(content)
            if gradient is not None and slope is not None:
                gradient.copy_(slope)
        if tensor.is_leaf:
            tensor.grad = gradient
            tensor.requires_grad_(needs_gradient)

    return back


def _optimizer_back(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    # Not by its state_dict: loading one casts the state to the type of the parameters.
    attributes = dict(vars(optimizer))
    groups = [(group, dict(group), _contents_back(group)) for group in optimizer.param_groups]
    states = [(entry, dict(entry), _contents_back(entry)) for entry in optimizer.state.values()]
    entries = dict(optimizer.state)

    def back() -> None:
        vars(optimizer).clear()
        vars(optimizer).update(attributes)
        optimizer.state.clear()
        optimizer.state.update(entries)
        for table, content, backs in (*groups, *states):
            table.clear()
            table.update(content)
            for part in backs:
                part()

    return back


def _contents_back(table: dict[str, Any]) -> list[Callable[[], None]]:
    """Return what gives the tensors and lists of a table back what they held; its parameters are the model's."""
    backs: list[Callable[[], None]] = []
    for name, value in table.items():
        if name == "params":
            continue
        if isinstance(value, Tensor):
            backs.append(_content_back(value))
        elif isinstance(value, list):
            backs.append(_list_back(value))
    return backs


def _list_back(values: list[Any]) -> Callable[[], None]:
    content = copy.deepcopy(values)

    def back() -> None:
        values[:] = content

    return back
