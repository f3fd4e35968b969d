"""What a checkpoint of a run holds: everything that the next step depends on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .. import checkpoint, components, distributed, rng
from ..checkpoint import objects as user_objects
from ..checkpoint import plain
from ..checkpoint.plain import plain_data, storable
from ..components import inventory
from ..components.inventory import Inventory
from ..config.config import to_dict
from ..config.secrets import Secrets, masked_state
from ..data import length_of
from ..duck_typing import attribute, has_state, is_a
from ..metrics.values import plain_metrics
from ..optim import state as step_state
from ..version import __version__
from .attributes import (
    averaging,
    changed_attributes,
    class_name,
    components_of,
    loaders,
    own_objects,
    unchanged_networks,
)

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


# ---------------------------------------------------------------- what a checkpoint holds


def capture_run(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return everything that the next step depends on, as tensors and plain data.

    The tensors are those that the run goes on changing: write them, or copy them, before the next step.

    Raises
    ------
    ConfigError
        For a part whose state holds something else, with its name.
    """
    state, held = trainer._run_state, inventory.take(trainer)
    parts = components_of(trainer, held)
    done = state.progress.last_epoch_done
    # Between two epochs the last one counts: a loop of the subclass's own may have counted on already.
    epoch = trainer._epoch if state.progress.phase is not None or done is None else done
    entry = state.history[-1] if state.history and state.history[-1]["epoch"] == epoch else {}
    averages = {name: callback.model_state(trainer) for name, callback in averaging(trainer).items()}
    secrets = _secrets(trainer)
    return {
        "format": checkpoint.FORMAT,
        "class": type(trainer).__qualname__,
        "epoch": epoch,
        "step": state.progress.complete_step,
        "metrics": {part: plain_metrics(entry.get(part, {})) for part in ("train", "valid")},
        "model": components.model_state(components.model_of(trainer, held)),
        "averages": {name: average for name, average in averages.items() if average},
        "run": {
            "num_epochs": trainer._num_epochs,
            "finished": state.progress.phase is None and (epoch >= trainer._num_epochs or state.requests.ends_run),
            "done": state.progress.last_epoch_done,
            "stage": state.stage.name if state.stage is not None else None,
            "best": list(state.best) if state.best is not None else None,
            "history": masked_state(
                plain_data(state.history, "history"), secrets
            ),  # all of it: hooks may add to any entry
            "components": {name: _component(part, name, secrets) for name, part in parts.items()},
            "unchanged": unchanged_networks(trainer, held, parts),
            "callbacks": masked_state(callback_states(trainer), secrets),
            "stepping": plain_data(step_state.state_dict(trainer), "stepping"),
            "attributes": masked_state(changed_attributes(trainer), secrets),
            "objects": user_objects.without_secrets(own_objects(trainer, held, parts), secrets),
            "rng": _rng(trainer, held),
            "epoch": _epoch_under_way(trainer, secrets),
            "made_with": made_with(trainer),
            "config": secrets.values(storable(to_dict(trainer.config))),
        },
    }


def _secrets(trainer: ConvnetTrainer) -> Secrets:
    return Secrets(to_dict(trainer.config), arguments=sys.argv)


def _component(part: Any, name: str, secrets: Secrets) -> dict[str, Any]:
    state = plain_data(_state_dict(part), name)
    if not is_a(part, (nn.Module, torch.optim.Optimizer)):
        state = masked_state(state, secrets)
    found = {"class": class_name(part), "state": state}
    if is_a(part, torch.optim.Optimizer):
        parameters = components.parameters_of(part)
        found["shapes"] = [None if components.is_lazy(p) else list(p.shape) for p in parameters]
    return found


def _epoch_under_way(trainer: ConvnetTrainer, secrets: Secrets) -> dict[str, Any] | None:
    """Return the position in the epoch, None at its end."""
    state = trainer._run_state
    if state.progress.phase is None:
        return None
    loader = trainer.train_loader
    return {
        **state.progress.position(),
        "asked": state.requests.ends(),
        "metrics": plain_data(trainer.epoch_metrics, "epoch_metrics"),
        "means": state.means.state_dict() if state.means is not None else {},
        "objects": _measured(trainer),
        "loader": masked_state(plain_data(loader.state_dict(), "train_loader"), secrets) if has_state(loader) else None,
    }


def capture_rank(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return what each of several ranks has for itself: random numbers, gradients of an open window, measurements."""
    state, secrets = trainer._run_state, _secrets(trainer)
    return {
        "rng": _rng(trainer, inventory.take(trainer)),
        "means": state.means.state_dict() if state.means is not None else {},
        "objects": _measured(trainer),
        "callbacks": masked_state(callback_states(trainer), secrets),
        "stepping": plain_data(step_state.state_dict(trainer), "stepping"),
    }


def _measured(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return what the metric objects have measured; of those without a ``state_dict`` the fields, as of a record."""
    objects = trainer._run_state.metric_objects
    if objects is None:
        return {}
    found = objects.state_dict()
    others = {name: metric for name, metric in objects.metrics.items() if name not in found["metrics"]}
    records = {name: user_objects.capture(metric) for name, metric in others.items()}
    return {**found, "records": {name: record for name, record in records.items() if record is not None}}


def callback_states(trainer: ConvnetTrainer) -> list[list[Any]]:
    """Return class and state of every callback, in their order: of the beginning of an evaluation, see `_rng`."""
    state = trainer._run_state
    if state.progress.phase == "evaluate" and state.progress.evaluation_records is not None:
        return state.progress.evaluation_records[0]
    return [
        [type(callback).__name__, plain_data(callback.state_dict(), type(callback).__name__)]
        for callback in components.each(trainer.callbacks, list, tuple)
    ]


def _rng(trainer: ConvnetTrainer, held: Inventory) -> dict[str, Any]:
    """Return the random numbers of now, or of the beginning of an evaluation under way, which begins anew."""
    state = trainer._run_state
    evaluates = state.progress.phase == "evaluate"
    return rng.packed(state.progress.evaluation_rng if evaluates else rng.get_state(*loaders(trainer, held)))


def _state_dict(part: Any) -> Any:
    return components.plain_state(part) if is_a(part, nn.Module) else part.state_dict()


def made_with(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return what a resumed run should have in common with this one."""
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "farabio_like": __version__,
        "number of processes": distributed.world_size(),
        "batch size": attribute(trainer.train_loader, "batch_size"),
        "training samples": length_of(attribute(trainer.train_loader, "dataset")),
    }
    for where, optimizer in components.named(trainer.optimizer, "optimizer"):
        defaults = attribute(optimizer, "defaults")
        if is_a(defaults, dict):
            found |= {f"{where} {name}": storable(value) for name, value in defaults.items() if plain.is_plain(value)}
    return storable(found)
