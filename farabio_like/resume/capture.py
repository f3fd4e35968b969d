"""What a checkpoint of a run holds: everything that the next step depends on.

Of an evaluation it is what there was when that began: a run that goes on begins it anew.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import checkpoint, components, distributed, rng
from ..callbacks import dispatch
from ..checkpoint import objects as user_objects
from ..checkpoint import plain
from ..checkpoint.plain import plain_data, storable
from ..checks import hooks
from ..components import inventory
from ..components.inventory import Inventory
from ..config.config import to_dict
from ..config.secrets import Secrets, masked_state
from ..data import length_of
from ..distributed import fsdp
from ..duck_typing import attribute, has_state, is_a, method
from ..metrics.values import plain_metrics
from ..optim import state as step_state
from ..version import __version__
from . import data as samples
from . import inside, optimizers
from .attributes import (
    averages_weights,
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
    records = (state.progress.evaluation_records if state.progress.phase == "evaluate" else None) or {}
    secrets = _secrets(trainer)
    found = {
        **({} if "model" in records else _of_now(trainer, held, secrets)),
        **({} if "attributes" in records else _of_hooks(trainer)),
        **({} if "inside" in records else _of_objects(trainer, held)),
        **records,
    }
    done = state.progress.last_epoch_done
    # Between two epochs the last one counts: a loop of the subclass's own may have counted on already.
    epoch = trainer._epoch if state.progress.phase is not None or done is None else done
    entry = state.history[-1] if state.history and state.history[-1]["epoch"] == epoch else {}
    return {
        "format": checkpoint.FORMAT,
        "class": type(trainer).__qualname__,
        "epoch": epoch,
        "step": state.progress.complete_step,
        "metrics": {part: plain_metrics(entry.get(part, {})) for part in ("train", "valid")},
        "model": found["model"],
        "averages": found["averages"],
        "run": {
            "num_epochs": trainer._num_epochs,
            "finished": state.progress.phase is None and (epoch >= trainer._num_epochs or state.requests.ends_run),
            "done": state.progress.last_epoch_done,
            "stage": state.stage.name if state.stage is not None else None,
            "best": list(state.best) if state.best is not None else None,
            "history": masked_state(plain_data(state.history, "history"), secrets),  # hooks may add to any entry
            "components": found["components"],
            "built": optimizers.built(trainer) if state.watched[3] else [],
            "unchanged": found["unchanged"],
            "callbacks": masked_state(found["callbacks"], secrets),
            "stepping": plain_data(step_state.state_dict(trainer), "stepping"),
            "attributes": masked_state(found["attributes"], secrets),
            "objects": user_objects.without_secrets(found["objects"], secrets),
            "inside": _inside(found["inside"], secrets),
            "rng": _rng(trainer, held),
            "epoch": _epoch_under_way(trainer, secrets),
            "made_with": made_with(trainer),
            "data": samples.capture(trainer),
            "config": secrets.values(storable(to_dict(trainer.config))),
        },
    }


def _secrets(trainer: ConvnetTrainer) -> Secrets:
    return Secrets(to_dict(trainer.config), arguments=sys.argv)


def _of_now(trainer: ConvnetTrainer, held: Inventory, secrets: Secrets) -> dict[str, Any]:
    """Return the weights, and what has a state beside them; the weights of training, where others are in the model."""
    lent: dict[int, Tensor] = {}
    for callback in components.each(trainer.callbacks, list, tuple):
        own_weights = method(dispatch.innermost(callback), "own_weights")
        lent |= own_weights() if own_weights is not None else {}
    parts = components_of(trainer, held)
    averages = {name: callback.model_state(trainer) for name, callback in averaging(trainer).items()}
    layouts = optimizers.layouts(trainer, held) if trainer._run_state.watched[3] else {}
    return {
        "model": components.model_state(components.model_of(trainer, held), lent),
        "averages": {name: average for name, average in averages.items() if average},
        "components": {name: _component(part, name, secrets, layouts.get(name)) for name, part in parts.items()},
        "unchanged": unchanged_networks(trainer, held, parts),
    }


def _of_hooks(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return what hooks and callbacks keep of their own: states of the callbacks, plain attributes."""
    return {"callbacks": callback_states(trainer), "attributes": changed_attributes(trainer)}


def _of_objects(trainer: ConvnetTrainer, held: Inventory) -> dict[str, Any]:
    """Return what hooks change in other objects: in those of the trainer, and inside of them."""
    return {
        "objects": own_objects(trainer, held, components_of(trainer, held)),
        "inside": inside.changed(trainer, held) if trainer._run_state.watched[3] else {},
    }


def _inside(found: dict[str, Any], secrets: Secrets) -> dict[str, Any]:
    """Return what `inside.changed` found without the texts that are secrets; going on takes those of its process."""

    def pairs(states: list[Any]) -> list[Any]:
        return [list(pair) for pair in user_objects.without_secrets(dict(states), secrets).items()]

    if not found:
        return found
    masked = dict(found)
    for group in ("model", "data"):
        masked[group] = {where: pairs(states) for where, states in found.get(group, {}).items()}
    masked["layers"] = {
        where: {**entry, "fields": pairs(entry["fields"])} if "fields" in entry else entry
        for where, entry in found.get("layers", {}).items()
    }
    return masked


def note_evaluation(trainer: ConvnetTrainer) -> None:
    """Keep what a checkpoint will hold that is written before the evaluation that begins, and its epoch, have ended.

    NOTE: what hooks change in them must not be changed once more by a run that begins with them anew, and a hook may
    put other weights into the model meanwhile. So of a run with such hooks, or callbacks of the user's, a copy of the
    weights is kept, on the CPU; optimizers, which nobody lends, are not copied.
    """
    state = trainer._run_state
    _, users_code, users_hooks, _ = state.watched
    averages = [averages_weights(callback) for callback in components.each(trainer.callbacks, list, tuple)]
    records = _of_hooks(trainer)
    # Averages of weights, which are large, do not change in an evaluation.
    pairs = zip(records["callbacks"], averages, strict=True)
    records["callbacks"] = [entry if is_average else checkpoint.snapshot(entry) for entry, is_average in pairs]
    if users_code or users_hooks:
        held = inventory.take(trainer)
        records |= checkpoint.snapshot(_of_objects(trainer, held))
    if users_hooks:
        now = _of_now(trainer, held, _secrets(trainer))
        if not fsdp.are_in(trainer):
            networks = {name: part for name, part in now["components"].items() if "shapes" not in part}
            copied = state.evaluation_copies.take({"model": now["model"], "networks": networks})
            now |= {"model": copied["model"], "components": {**now["components"], **copied["networks"]}}
        records |= now
    state.progress.evaluation_records = records


_HOOKS = ("evaluate_epoch", "on_evaluate_epoch_start", "on_evaluate_epoch_end", "on_epoch_end")
_BUILD = ("define_", "default_", "init_", "get_", "build_", "load_")
_IN_A_RUN = tuple(n for n in (*hooks.HOOKS, *hooks.CALLED_BY, *hooks.ARGUMENTS) if not n.startswith(_BUILD))
_BEGINS = ("train_loop", "train_epoch", "on_train_epoch_start")
_EVENTS = (*_HOOKS[1:], "on_evaluate_batch_start", "on_evaluate_batch_end")


_IN_EVALUATIONS = (
    *("on_evaluate_batch_start", "evaluate_batch", "on_evaluate_batch_end", "compute_loss", "forward", "take_batch"),
    *("to_device", "autocast", "batch_size_of"),
)


def note_hooks(trainer: ConvnetTrainer) -> None:
    """Note, once for a run, what has to be kept of the beginnings of its epochs and evaluations.

    That is whether something changes at the beginning of an epoch; whether code of the user's runs in an evaluation;
    whether hooks or callbacks of the user's are called around one, or at the end of an epoch; and whether any code of
    the user's runs at all, which could change what nobody else does.
    """
    state = trainer._run_state
    heard = state.listeners
    around = not hooks.is_default(trainer, *_HOOKS)
    around = around or any(not dispatch.is_ours(listener) for event in _EVENTS for listener in heard.get(event, ()))
    within = state.users_parts or not hooks.is_default(trainer, *_IN_EVALUATIONS)
    begins = state.users_parts or "on_train_epoch_start" in heard or not hooks.is_default(trainer, *_BEGINS)
    ours = all(dispatch.is_ours(listener) for listeners in heard.values() for listener in listeners)
    anything = begins or within or around or not ours or not hooks.is_default(trainer, *_IN_A_RUN)
    state.watched = begins, within, around, anything


def _component(part: Any, name: str, secrets: Secrets, layout: dict[str, Any] | None) -> dict[str, Any]:
    state = plain_data(_state_dict(part), name)
    if not is_a(part, (nn.Module, torch.optim.Optimizer)):
        state = masked_state(state, secrets)
    found = {"class": class_name(part), "state": state}
    if layout is not None:
        found["layout"] = layout
    if is_a(part, torch.optim.Optimizer):
        found["defaults"] = optimizers.defaults_of(part, name)
        parameters = components.parameters_of(part)
        found["shapes"] = [None if components.is_lazy(p) else list(p.shape) for p in parameters]
    return found


def _epoch_under_way(trainer: ConvnetTrainer, secrets: Secrets) -> dict[str, Any] | None:
    """Return the position in the epoch, None at its end."""
    state = trainer._run_state
    if state.progress.phase is None:
        return None
    loader, position = trainer.train_loader, state.progress.position()
    return {
        **position,
        **samples.samples_done(trainer),
        "evaluations": plain_data(position["evaluations"], "evaluations"),
        "schedulers": state.schedules.positions(trainer),
        "asked": state.requests.ends(),
        "metrics": plain_data(trainer.epoch_metrics, "epoch_metrics"),
        "means": state.means.state_dict() if state.means is not None else {},
        "objects": _measured(trainer),
        "loader": masked_state(plain_data(loader.state_dict(), "train_loader"), secrets) if has_state(loader) else None,
    }


def capture_rank(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return what each of several ranks has for itself: random numbers, gradients of an open window, measurements."""
    state, secrets = trainer._run_state, _secrets(trainer)
    records = state.progress.evaluation_records if state.progress.phase == "evaluate" else None
    callbacks = records["callbacks"] if records is not None else callback_states(trainer)
    averages = [averages_weights(callback) for callback in components.each(trainer.callbacks, list, tuple)]
    return {
        "rng": _rng(trainer, inventory.take(trainer)),
        "means": state.means.state_dict() if state.means is not None else {},
        "objects": _measured(trainer),
        # Averages of weights are the same on all ranks: the state of the run has them.
        "callbacks": [
            [e[0], None] if a else masked_state(e, secrets) for e, a in zip(callbacks, averages, strict=True)
        ],
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
    """Return class and state of every callback, in their order."""
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
