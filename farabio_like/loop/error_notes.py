"""Where in a run an exception was raised: a note on it, which Python prints below the traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .. import data
from ..checks import hooks

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


MOST_PARTS = 5  # of a batch that are described
_OF_A_BATCH = {
    *("train_batch", "on_start_training_batch", "training_step", "on_end_training_batch"),
    *("on_evaluate_batch_start", "evaluate_batch", "on_evaluate_batch_end"),
    *("on_start_test_batch", "test_step", "on_end_test_batch"),
}
_LOOP = f"{__package__}.loop"
_METHODS = {*hooks.HOOKS, *hooks.CALLED_BY, *hooks.ARGUMENTS, *hooks.NATIVE}


def add_note(trainer: ConvnetTrainer, error: BaseException) -> None:
    """Add to an exception in which epoch, batch and hook it was raised; its type, text and traceback stay.

    Python 3.10 has no notes; there, nothing is added.
    """
    if isinstance(error, Exception) and hasattr(error, "add_note"):
        # Whatever is wrong with a batch or an exception of the user's: the exception itself is the one to show.
        with contextlib.suppress(Exception):
            _note(trainer, error)


def _note(trainer: ConvnetTrainer, error: Exception) -> None:
    state = trainer._run_state
    hook = place = ""
    items: list[Any] = []  # those under way, the innermost last
    before: FrameType | None = None
    for frame in _frames(error.__traceback__):
        own, name = frame.f_locals, frame.f_code.co_name
        of_the_loop = frame.f_globals.get("__name__") == _LOOP
        if of_the_loop and own.get("trainer") is not trainer:
            continue
        if of_the_loop and name == "fire":
            name = own["event"]
            hook = f"{name} of a callback"
        elif of_the_loop and name == "follow":
            number = state.progress.batches if own["name"] == "train" else own.get("done", 0)
            place = f"at batch {number} of the {own['name']} loader"
        elif own.get("self") is trainer and name in _METHODS:
            hook = name
        else:
            continue
        if name in _OF_A_BATCH and before is not None and "item" in before.f_locals:
            items.append(before.f_locals["item"])
        before = frame
    parts = [f"epoch {trainer._epoch}"] if state.progress.phase is not None else []
    parts += [f"step {state.progress.step}"] if state.progress.phase == "train" and not place else []
    parts += [place or f"in {hook}"] if place or hook else []
    parts += [f"with the batch {_shapes(data.batch_of(items[-1]))}"] if items and not place else []
    text = f"{type(trainer).__name__}: {', '.join(parts)}"
    if parts and text not in getattr(error, "__notes__", ()):
        error.add_note(text)  # type: ignore[attr-defined]


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _shapes(batch: Any) -> str:
    """Return type and shape of the tensors of a batch, in its containers."""
    if isinstance(batch, Tensor):
        device = "" if batch.device.type == "cpu" else f" on {batch.device}"
        return f"{str(batch.dtype).removeprefix('torch.')} {tuple(batch.shape)}{device}"
    if isinstance(batch, Mapping):
        parts = [f"{key!r}: {_shapes(part)}" for key, part in list(batch.items())[:MOST_PARTS]]
    elif isinstance(batch, (list, tuple)):
        parts = [_shapes(part) for part in batch[:MOST_PARTS]]
    else:
        return type(batch).__name__
    more = ", ..." if len(batch) > MOST_PARTS else ""
    return f"{{{', '.join(parts)}{more}}}" if isinstance(batch, Mapping) else f"({', '.join(parts)}{more})"
