"""`PutOff`: epochs whose save is put off, while saves would take too much of a run's time."""

from __future__ import annotations

from time import perf_counter
from typing import Any

SHARE = 0.05  # of the run's time so far that its saves may take
FIRST_GUESS = 0.005  # seconds of a save, before one was made


class PutOff:
    """How much the saves of a run have cost, and what waits for the next one.

    NOTE: whatever writes a file of the run writes `waiting` before. A checkpoint says which epoch is the best, and a
    run that goes on from it looks for that epoch's file.

    Attributes
    ----------
    behind : int or None
        The last epoch, if it was left out since the last save.
    waiting : dict or None
        The whole state of the best epoch, copied, which is not written yet.
    """

    def __init__(self) -> None:
        self.behind: int | None = None
        self.waiting: dict[str, Any] | None = None
        self._spent, self._cost = 0.0, FIRST_GUESS
        self._started = self._saved = perf_counter()

    def __reduce__(self) -> tuple[Any, ...]:
        """Begin anew in a copy, and in a loader's worker."""
        return PutOff, ()

    def is_due(self, longest: float) -> bool:
        """Return whether an epoch is to be saved now.

        Parameters
        ----------
        longest : float
            Seconds for which it may be put off.
        """
        now = perf_counter()
        return now - self._saved >= longest or self._spent + self._cost <= SHARE * (now - self._started)

    def saved(self, started: float) -> None:
        """Note that a save, which began at this time, has been made."""
        self._saved = perf_counter()
        self._cost = self._saved - started
        self._spent += self._cost
        self.behind = None
