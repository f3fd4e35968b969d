"""What one rank asks for, all ranks do, and after the same step."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from .. import distributed
from . import signals

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


def after_step(trainer: ConvnetTrainer) -> None:
    """After a training step: leave in force only what all ranks do now. A rank without a wish passes by."""
    state = trainer._run_state
    ranks, requests = state.ranks, state.requests
    assert ranks is not None
    agreement = ranks.agreement
    agreement.passed += 1
    agreement.training = False
    if perf_counter() >= state.next_save_time and distributed.is_main():
        state.next_save_time = float("inf")
        requests.asked.append("SIGUSR1")  # one clock counts
    signals.collect(requests)
    wants = requests.any()
    if agreement.due == agreement.passed or (wants and agreement.ask()):
        agreement.due = -1
        agree(trainer)
    elif wants:
        ranks.postponed.append(requests.take())


def resume_postponed(trainer: ConvnetTrainer) -> None:
    """Take requests up again that were put aside: when the ranks agree, or at the end of the pass."""
    state = trainer._run_state
    assert state.ranks is not None
    state.requests.merge(state.ranks.postponed)
    state.ranks.postponed = []


def agree(trainer: ConvnetTrainer) -> None:
    """Ask on every rank for what any of them asks for, signals that have come too; all ranks have to call it."""
    state = trainer._run_state
    signals.collect(state.requests)
    if state.ranks is None:
        return
    resume_postponed(trainer)
    state.requests.merge(distributed.gather_objects(state.requests.take()))
