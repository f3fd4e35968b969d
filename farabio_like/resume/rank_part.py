"""A checkpoint as one of several ranks needs it, where there may have been another number of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import components, distributed
from ..callbacks import dispatch
from ..callbacks.metric import MetricCallback
from ..distributed import fsdp
from ..metrics.running import merged_means
from ..optim import state as step_state

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def own_part(trainer: ConvnetTrainer, saved: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint as this rank needs it: with its own random numbers, gradients and measurements.

    Where there were fewer ranks, the further ones begin with nothing measured in the epoch. Where there were more,
    their means are added to those of the others, and what their metric objects and metric callbacks had measured of
    the epoch under way is left out, which is said. What other callbacks know is the same on all ranks.
    """
    run = saved["run"]
    parts = run.get("ranks") or [{**(run["epoch"] or {}), "rng": run["rng"]}]
    parts = [{"stepping": run["stepping"], **part} for part in parts]  # older files have it once
    ranks, rank = distributed.world_size(), distributed.rank()
    if rank < len(parts):
        own, *others = parts[rank::ranks]
        if others:
            own = {**own, "means": merged_means([part.get("means", {}) for part in (own, *others)])}
    else:
        there = parts[0].get("callbacks", run["callbacks"])
        callbacks = [entry for entry in there if entry[0] not in _measuring(trainer)]
        own = {"rng": None, "means": {}, "objects": {}, "callbacks": callbacks}
    if len(parts) != ranks or "shards" in saved or fsdp.are_in(trainer):
        # Gradients in shards are those of all ranks already; modules in shards need them on every rank.
        states = [run["stepping"]] if "shards" in saved else [part["stepping"] for part in parts]
        own = {**own, "stepping": step_state.merged(states, empty=rank > 0 and not fsdp.are_in(trainer))}
    epoch = run["epoch"]
    if epoch is not None:
        epoch = {**epoch, "means": own.get("means", {}), "objects": own.get("objects", {})}
        if rank:
            epoch["rng"] = own["rng"]  # the order of the samples is drawn by the first rank alone
    callbacks = _whole(own.get("callbacks", run["callbacks"]), run["callbacks"])
    taken = {"rng": own["rng"], "epoch": epoch, "callbacks": callbacks, "stepping": own["stepping"]}
    return {**saved, "run": {**run, **taken}}


def _whole(own: list[list[Any]], of_the_run: list[list[Any]]) -> list[list[Any]]:
    """Return the states of a rank's callbacks, with those of the run where they are the same on all ranks."""
    common = [entry for entry in of_the_run if [entry[0], None] in own]
    return [common.pop(0) if state is None and common else [name, state] for name, state in own]


def _measuring(trainer: ConvnetTrainer) -> set[str]:
    """Return the names of the callbacks that measure batches."""
    return {
        type(callback).__name__
        for callback in components.each(trainer.callbacks, list, tuple)
        if isinstance(dispatch.innermost(callback), MetricCallback)
    }


def unmeasured(trainer: ConvnetTrainer, run: dict[str, Any]) -> list[str]:
    """Return the names of what leaves out of an epoch what further processes had trained of it."""
    further = run.get("ranks", [])[distributed.world_size() :]
    if not further or run["epoch"] is None or run["epoch"]["phase"] != "train" or not run["epoch"]["batches"]:
        return []
    objects = {name for part in further for kind in ("metrics", "records") for name in part["objects"].get(kind, {})}
    return sorted(objects | _measuring(trainer))
