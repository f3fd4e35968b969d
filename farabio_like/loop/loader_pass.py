"""One pass over a loader: its items between two of which the metrics are folded.

These are functions of a trainer, not methods, so that no name of a subclass can meet theirs.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from .. import components, data
from ..callbacks import dispatch
from ..checks import hooks
from ..data import prefetch
from ..data.loaders import NOTHING
from ..distributed import ddp
from ..distributed import loaders as rank_loaders
from ..errors import HookError
from ..loggers.console import Bar, Heartbeat
from ..metrics import across_ranks
from ..metrics.loss import LossTracker
from ..metrics.objects import MetricObjects
from ..metrics.running import RunningMeans
from ..metrics.values import plain_metrics
from ..optim import nonfinite
from ..optim import steps as optim_steps
from ..resume import saving
from ..state import rank_requests, signals
from ..state.run_state import NO_VALID_LOADER
from .batch import forget_parts, return_batch

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


_BATCH_ENDS = {"train": "on_end_training_batch", "valid": "on_evaluate_batch_end", "test": "on_end_test_batch"}
_STEPS = {
    "train": ("train_batch", "training_step"),
    "valid": ("evaluate_epoch", "evaluate_batch"),
    "test": ("test_loop", "test_step"),
}


def prepare_items(trainer: ConvnetTrainer, name: str, loader: Any, items: Any) -> Any:
    """Return the items of a loader for the hook that starts a pass, which may replace or wrap them."""
    state = trainer._run_state
    if state.running is None:  # evaluate_epoch() called by itself
        state.requests.stop = state.requests.exit_asked = False
        state.listeners = dispatch.listeners(trainer.callbacks)
        state.console.verbose, state.console.use_tqdm = trainer._verbose, trainer._use_tqdm
    state.initial_loss = vars(trainer).get("loss")
    if name != "train":
        # What a subclass's own hook took from the last training batch must not be read for this one.
        forget_parts(trainer)
    if state.ranks is not None:
        loader = rank_loaders.loader_of_pass(trainer, name, loader)
    seed = None if trainer._seed is None else (trainer._seed, name, trainer._epoch)
    items = items if loader is None else data.Items(loader, name, seed)
    if name == "train":
        state.resumption.enter_epoch(trainer, items)
    return items


def follow(trainer: ConvnetTrainer, name: str, items: Iterable[Any] | None) -> Iterator[Any]:
    """Yield the items of one pass over a loader; between two of them, fold the metrics of the first."""
    state, own = trainer._run_state, vars(trainer)
    if items is None:
        if name == "valid" and state.running is not None:
            state.console.once(NO_VALID_LOADER)
            return
        where = "get_testloader" if name == "test" else "get_trainloader"
        raise HookError(f"{type(trainer).__name__} has no {name} loader. Set self.{name}_loader in {where}(self).")
    training = name == "train"
    if training:
        if state.resumption.trained_already(trainer):
            return
        ddp.replicate(trainer)
    means = RunningMeans()
    size_of = data.batch_size if hooks.is_default(trainer, "batch_size_of") else trainer.batch_size_of
    losses = LossTracker(means["loss"], size_of, own.get("loss"), running=own.get("loss") is not state.initial_loss)
    # The default steps set a new loss for every batch; of another one, each batch has to be looked at.
    take_loss = losses.count if hooks.is_default(trainer, *_STEPS[name]) else losses.take
    if training and trainer._on_nonfinite == "raise":
        means["loss"].watch = partial(nonfinite.check_losses, trainer)
    # A pass inside another one's batch must not reset the metric objects that the outer one fills.
    nested = state.item is not NOTHING
    objects = MetricObjects(copy.deepcopy(trainer.metrics) if nested else trainer.metrics, trainer.device)
    # Where something measures outputs, a step that sets none must not be measured by those of the last one.
    has_objects = bool(objects.metrics)
    measured = has_objects or _BATCH_ENDS.get(name) in state.listeners
    # Where the default hook takes every batch, nothing of the last one can be left over.
    takes = training and hooks.is_default(trainer, "train_batch", "on_start_training_batch", "take_batch")
    bar, heartbeat = _progress(trainer, name, items)
    done, look = 0, 1
    broken = False  # a batch was, before it counted
    # Whose version tells, after an error, whether a step of the subclass's own has moved the weights.
    probe, version = None, 0
    schedules = trainer.scheduler is not None and trainer._scheduler_step == "step"  # after the optimizer has moved
    if training and (schedules or not hooks.is_default(trainer, "training_step", "optimizer_step")):
        parameters = (p for module in components.modules_of(trainer) for p in module.parameters())
        probe = next((p for p in parameters if p.requires_grad), None)
    stepping = optim_steps.bind(trainer)
    if not training:
        stepping = None
    elif stepping is not None:
        left = data.length_of(items)
        start = state.resumption.start
        stepping.begin_pass(trainer, left if left is None or start is None else left - start.batches)
    saves_within = trainer._save_steps is not None or trainer._save_minutes is not None
    outer, state.loader, state.initial_loss = state.loader, name, None
    asked, state.requests.stop_loader = state.requests.stop_loader, False  # of the pass around this one
    if training:
        state.means, state.metric_objects = means, objects
        if not state.resumption.ended:
            items = state.resumption.remaining(trainer, items)
            losses.pass_over(own.get("loss"))
    if trainer._prefetch:
        items = prefetch.prefetched(items, trainer.device, torch.channels_last if trainer._channels_last else None)
    try:
        # stop_train() in on_train_epoch_start asks for no batch at all.
        ranks = state.ranks
        if ranks is not None:
            items = rank_loaders.items_of_rank(trainer, name, items)
            if training:
                ranks.agreement.begin()
        for item in () if state.requests.exit_asked or (training and state.requests.stop) else items:
            state.item = item
            if not takes and state.lent:
                return_batch(trainer)
            if trainer.batch_metrics:
                trainer.batch_metrics = {}
            if measured:
                trainer.outputs = None
            if training:
                state.progress.step += 1
                if probe is not None:
                    version = probe._version
                if stepping is not None:
                    stepping.next_batch(trainer)
            yield item
            batch = own["batch"] if takes or "batch" in state.lent else data.batch_of(item)
            values = trainer.batch_metrics
            if state.skip:
                state.skip = False
                losses.pass_over(own.get("loss"))
            else:
                if values and "loss" in values:
                    losses.pass_over(own.get("loss"))
                else:
                    take_loss(own.get("loss"), batch)
                if values:
                    means.update(values, size_of(batch))
                if has_objects and trainer.outputs is not None:
                    objects.update(trainer.outputs, trainer.targets)
            if bar is not None:
                bar.tick()
            if training:
                state.progress.batches += 1
                if ranks is not None:
                    rank_requests.after_step(trainer)
                elif state.requests.signals:
                    signals.collect(state.requests)
                if state.requests.asked or (saves_within and state.progress.step >= state.next_save):
                    state.gathering = probe is not None and probe._version == version
                    saving.after_step(trainer)
            elif (
                ranks is None and not nested and (state.requests.signals or state.requests.asked)
            ):  # ranks obey at the epoch's end
                signals.collect(state.requests)
                signals.obey(state.requests)
            if heartbeat is not None:
                done += 1
                if done == look:
                    look = heartbeat.look(done)
            elif not training:
                done += 1
            if state.requests.stop_loader or state.requests.exit_asked or (training and state.requests.stop):
                state.progress.left_early = state.requests.exit_asked and not training
                break
    except GeneratorExit:  # a hook of the batch raised
        if training and (
            state.progress.trained_step == state.progress.step or (probe is not None and probe._version != version)
        ):
            # The weights have moved: a run that goes on from here must not train this batch again.
            with contextlib.suppress(Exception):  # the hook's own error is the one to show
                values, batch = trainer.batch_metrics, own["batch"] if "batch" in state.lent else data.batch_of(item)
                if not (values and "loss" in values):
                    take_loss(own.get("loss"), batch)
                if values:
                    means.update(values, size_of(batch))
                if has_objects and trainer.outputs is not None:
                    objects.update(trainer.outputs, trainer.targets)
            state.progress.batches += 1
        else:
            broken = True
        raise
    finally:
        if training:
            # A batch that was broken off may have added to the gradients, and is trained again.
            state.gathering = not broken and probe is not None and probe._version == version
        if ranks is not None and training:
            ranks.agreement.end()
            rank_requests.resume_postponed(trainer)
        state.item = NOTHING
        state.loader, state.requests.stop_loader = outer, asked
        if bar is not None:
            bar.close()
    if stepping is not None:
        stepping.end_pass(trainer)
    if training and ranks is not None:
        ddp.check_weights(trainer)
    computed = means.compute()
    means["loss"].watch = None  # it holds the trainer
    for metric in objects.metrics.keys() & computed.keys() - {"loss"}:
        state.console.once(f"{metric} is what self.metrics[{metric!r}] computes, not the mean of batch_metrics")
    if ranks is None:
        trainer.loader_metrics = plain_metrics({**computed, **objects.compute()})
    else:
        trainer.loader_metrics = across_ranks.of_all_ranks(means, objects)
    trainer.epoch_metrics[name] = trainer.loader_metrics


def _progress(trainer: ConvnetTrainer, name: str, items: Iterable[Any]) -> tuple[Bar | None, Heartbeat | None]:
    state, total = trainer._run_state, data.length_of(items)
    if type(items).__name__.startswith("tqdm"):  # a subclass shows a bar of its own
        return None, None
    epoch = f"epoch {trainer._epoch}/{trainer._num_epochs}" if name != "test" else ""
    timed = state.running == "train"
    return state.console.bar(name, total, epoch, timed=timed), state.console.heartbeat(name, total, epoch, timed)
