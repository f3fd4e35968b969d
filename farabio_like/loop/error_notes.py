"""Where in a run an exception was raised: a note on it, which Python prints below the traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from types import CodeType, TracebackType
from typing import TYPE_CHECKING

from ..callbacks import dispatch
from ..checks import hooks
from . import loader_pass

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


_OF_A_BATCH = {
    *("train_batch", "on_start_training_batch", "training_step", "on_end_training_batch"),
    *("on_evaluate_batch_start", "evaluate_batch", "on_evaluate_batch_end"),
    *("on_start_test_batch", "test_step", "on_end_test_batch"),
}
_METHODS = (*hooks.HOOKS, *hooks.CALLED_BY, *hooks.ARGUMENTS, *hooks.NATIVE)
_PASSES = {loader_pass._training.__code__, loader_pass._evaluation.__code__}


def add_note(trainer: ConvnetTrainer, error: BaseException) -> None:
    """Add to an exception in which epoch, batch and hook it was raised; its type, text and traceback stay.

    Python 3.10 has no notes; there, nothing is added.
    """
    if isinstance(error, Exception) and hasattr(error, "add_note"):
        # Whatever is wrong with a batch or an exception of the user's: the exception itself is the one to show.
        with contextlib.suppress(Exception):
            _note(trainer, error)


def _note(trainer: ConvnetTrainer, error: Exception) -> None:
    state, methods = trainer._run_state, _code_of(trainer, _METHODS)
    runs, own_runs = _code_of(trainer, ("train", "test")), 1 if state.running else 0
    hook = name = place = ""
    of_a_batch = False
    for code in _codes(error.__traceback__):
        if code in runs:
            own_runs -= 1
            if own_runs < 0:
                break  # a run within a hook, which has made a note of its own
        elif code is dispatch.fire.__code__:
            name = state.failed_event
            hook = f"{name} of a callback"
        elif code in _PASSES:
            place = state.failed_pass
        elif code in methods:
            hook = name = methods[code]
        of_a_batch = of_a_batch or name in _OF_A_BATCH
    parts = [f"epoch {trainer._epoch}"] if state.progress.phase is not None else []
    parts += [f"step {state.progress.step}"] if state.progress.phase == "train" and not place else []
    parts += [place or f"in {hook}"] if place or hook else []
    parts += [f"with the batch {state.broken_batch}"] if of_a_batch and state.broken_batch and not place else []
    text = f"{type(trainer).__name__}: {', '.join(parts)}"
    if parts and text not in getattr(error, "__notes__", ()):
        error.add_note(text)  # type: ignore[attr-defined]


def _code_of(trainer: ConvnetTrainer, names: Iterable[str]) -> dict[CodeType, str]:
    """Return the name of each code that a trainer has for these methods, of its bases too, inside any decorators."""
    found: dict[CodeType, str] = {}
    for owner in (vars(trainer), *map(vars, type(trainer).__mro__)):
        for name in names:
            method = owner.get(name)
            while method is not None:
                method = getattr(method, "__func__", method)
                code = getattr(method, "__code__", None)
                if isinstance(code, CodeType):
                    found.setdefault(code, name)
                method = getattr(method, "__wrapped__", None)
    return found


def _codes(traceback: TracebackType | None) -> Iterator[CodeType]:
    while traceback is not None:
        yield traceback.tb_frame.f_code
        traceback = traceback.tb_next
