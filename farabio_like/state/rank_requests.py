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
    assert state.ranks is not None
    meetings = state.ranks.meetings
    meetings.passed += 1
    if perf_counter() >= state.next_save_time and distributed.is_main():
        state.next_save_time = float("inf")
        state.asked.append("SIGUSR1")  # one clock counts
    signals.collect(state)
    wants = state.stop or state.leave or state.stop_loader or state.asked
    if meetings.due == meetings.passed or (wants and meetings.ask()):
        meetings.due = -1
        agree(trainer)
    elif wants:
        _postpone(trainer)


def _postpone(trainer: ConvnetTrainer) -> None:
    """Put wishes aside until the meeting."""
    state = trainer._run_state
    assert state.ranks is not None
    state.ranks.held.append((state.stop, state.leave, state.stop_loader, state.asked, state.saves))
    state.stop = state.leave = state.stop_loader = False
    state.asked, state.saves = [], []


def resume_postponed(trainer: ConvnetTrainer) -> None:
    """Take wishes up again: at the meeting, or at the end of the pass."""
    state = trainer._run_state
    assert state.ranks is not None
    for stop, leave, stop_loader, asked, saves in state.ranks.held:
        state.stop, state.leave = state.stop or stop, state.leave or leave
        state.stop_loader = state.stop_loader or stop_loader
        state.asked = [*asked, *state.asked]
        state.saves = [*saves, *state.saves]
    state.ranks.held = []


def agree(trainer: ConvnetTrainer) -> None:
    """Want on every rank what any of them wants, signals that have come too; all ranks have to call it."""
    state = trainer._run_state
    signals.collect(state)
    if state.ranks is None:
        return
    resume_postponed(trainer)
    wishes = distributed.gather_objects(((state.stop, state.leave, state.stop_loader), (state.asked, state.saves)))
    flags, lists = [flags for flags, _ in wishes], [lists for _, lists in wishes]
    state.stop, state.leave, state.stop_loader = (any(of_ranks) for of_ranks in zip(*flags, strict=True))
    state.asked = list(dict.fromkeys(name for asked, _ in lists for name in asked))
    state.saves = list(dict.fromkeys(path for _, saves in lists for path in saves))
