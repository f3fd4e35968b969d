"""Going on in a loader after so many batches. What a `DataLoader` needs for that is in `order`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..duck_typing import has_state
from ..errors import CheckpointError


@dataclass
class ResumePoint:
    """Where a resumed pass over a loader goes on.

    Parameters
    ----------
    batches : int
        So many were trained before.
    ready : callable
        Called once between the choice of the first batch that is left and its loading: it gives the random
        numbers the state that they had then.
    loader : dict or None
        The state of a loader that can go on by itself.
    say : callable
        Gets a line for the terminal where batches are read again.
    samples : int, optional
        So many samples were trained before, in batches of another size than now: these are passed over. Of a batch of
        which some were trained, the rest is.

    Attributes
    ----------
    passed : int
        So many of the loader's batches of now come before the first one that is left.
    """

    batches: int
    ready: Callable[[], None]
    loader: dict[str, Any] | None
    say: Callable[[str], None]
    samples: int | None = None
    taken: bool = False  # the reader of the loader saw to it
    passed: int = -1

    def __post_init__(self) -> None:
        self.passed = self.batches


def after(start: ResumePoint | None, chosen: Iterable[Any]) -> Iterator[Any]:
    """Yield the items of `chosen` after the start; the generators are made ready before the first of them."""
    iterator = iter(chosen)
    if start is not None and start.samples is not None:
        yield from _after_samples(start, iterator)
        return
    if start is not None:
        for _ in islice(iterator, start.batches):
            pass
        start.ready()
    yield from iterator


def _after_samples(start: ResumePoint, iterator: Iterator[Any]) -> Iterator[Any]:
    """Yield batches of indices from a sample on."""
    left = start.samples or 0
    for batch in iterator:
        size = batch.stop - batch.start if hasattr(batch, "rest") else len(batch)
        if left < size:
            start.ready()
            yield batch if not left else batch.rest(left) if hasattr(batch, "rest") else batch[left:]
            break
        left -= size
    yield from iterator


def rest(loader: Any, start: ResumePoint) -> Iterator[Any]:
    """Return an iterator over the batches of a loader after the start; a `DataLoader` is left to `order`.

    Nothing that is passed over is loaded where that is exact: for lists and loaders with a ``state_dict``. Other
    loaders are read from their beginning, and what was trained before is dropped.
    """
    if type(loader) in (list, tuple):
        return after(start, loader)
    if start.loader is not None and has_state(loader):
        try:
            loader.load_state_dict(start.loader)
        except Exception as error:
            raise CheckpointError(
                f"the checkpoint has a state for the train loader that it cannot take: {type(error).__name__}: {error}"
            ) from error
        return _from_here(iter(loader), start)
    return read_again(iter(loader), start)


def read_again(iterator: Iterator[Any], start: ResumePoint) -> Iterator[Any]:
    """Return what an iterator gives after the start, and say that all before is read once more."""
    start.say(f"{start.batches} batches are read again and dropped, to go on where the run stopped")
    return after(start, iterator)


def _from_here(iterator: Iterator[Any], start: ResumePoint) -> Iterator[Any]:
    start.ready()  # making the iterator drew a number
    yield from iterator
