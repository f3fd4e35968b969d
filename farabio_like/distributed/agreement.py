"""After which step all ranks act, when one of them asks for it: to stop, to leave, to save, to obey a signal.

Nothing is sent while nobody asks. A rank that asks after a step writes so into the store, and waits until each other
rank has answered: "here", for it asks too after the same step, or "ahead", for it is in the next one already. If all
are here they act at once, as one process would. Else the answer has told everybody that all act after the next step.
A rank that is ahead waits for the gradients of the one that asks; so it is a thread of its own that answers.
"""

from __future__ import annotations

import threading
import time
import weakref
from itertools import count
from typing import Any

from ..errors import HookError
from . import process_group

_passes = count(1)  # of all trainers of this process; the same on all ranks
LOOK_EVERY = 0.2  # seconds: a step that lasts longer may be waiting for a rank that asks
ASK_EVERY = 0.005


class StepAgreement:
    """Where the ranks are in a training pass, and after which step they meet.

    Attributes
    ----------
    passed : int
        The last step that this rank has completed; -1 outside of a training pass.
    due : int
        After this step all ranks meet; -1 for none.
    training : bool
        This rank is in a training step, and does not skip it.
    """

    def __init__(self) -> None:
        self.store = process_group.store()
        self.number = 0
        self.passed = self.due = -1
        self.open = self.training = False
        watch = threading.Thread(target=_watch, args=(weakref.ref(self),), name="farabio_like ranks", daemon=True)
        watch.start()

    def begin(self) -> None:
        """Start a training pass."""
        self.number = next(_passes)
        self.passed, self.due, self.open = 0, -1, True

    def end(self) -> None:
        """End it."""
        self.open = False

    def key(self, *parts: Any) -> str:
        """Return a name in the store that no other pass has."""
        return "/".join(map(str, ("meeting", self.number, *parts)))

    def ask(self) -> bool:
        """Tell the other ranks that this one wants something after this step; return whether all are here."""
        here = self._answer("here")
        self.store.set(self.key("asked"), str(self.passed))
        everywhere = here == "here"
        for rank in range(process_group.world_size()):
            everywhere &= self._answer_of(rank) == "here"
        if not everywhere:
            self.due = self.passed + 1
        return everywhere

    def skip(self) -> None:
        """Skip the step under way, as all ranks do.

        Raises
        ------
        HookError
            If another rank trains the step: it would wait for the gradients of this one.
        """
        step = self.passed + 1
        self.training = False
        self.store.set(self.key("skip", step), "asked")
        self.store.set(self.key("skip", step, process_group.rank()), "skips")
        for rank in range(process_group.world_size()):
            key = self.key("skip", step, rank)
            while not self.store.check([key]):
                process_group.raise_failure()
                time.sleep(ASK_EVERY)
            if self.store.get(key).decode() != "skips":
                raise HookError(
                    f"_next_loop is set on rank {process_group.rank()} for a batch that rank {rank} trains. Every "
                    "process has a part of the batch: set it on all of them, by what farabio_like.distributed."
                    "gather_objects(...) returns, say."
                )

    def answer_if_training(self) -> None:
        """Tell a rank that skips the step under way that this one trains it. Called by the thread."""
        step = self.passed + 1
        if self.training and self.store.check([self.key("skip", step)]) and step == self.passed + 1:
            self.store.compare_set(self.key("skip", step, process_group.rank()), "", "trains")

    def answer_if_ahead(self) -> None:
        """Tell a rank that asks after the last step that this one is in the next. Called by the thread."""
        step = self.passed
        asked = self.key("asked")
        if self.open and self.store.check([asked]) and int(self.store.get(asked)) == step == self.passed:
            if self._answer("ahead", step) == "ahead":
                self.due = step + 1

    def _answer(self, answer: str, step: int | None = None) -> str:
        # Once: the main thread and the one that watches may come to it together.
        key = self.key(self.passed if step is None else step, process_group.rank())
        return self.store.compare_set(key, "", answer).decode()

    def _answer_of(self, rank: int) -> str:
        key = self.key(self.passed, rank)
        while not self.store.check([key]):
            process_group.raise_failure()
            time.sleep(ASK_EVERY)
        return self.store.get(key).decode()


def _watch(meetings: weakref.ref[StepAgreement]) -> None:
    """Look now and then whether this rank is asked while it waits within a step."""
    last = -1
    while True:
        time.sleep(LOOK_EVERY)
        known = meetings()
        if known is None or not process_group.several():
            return
        if known.open and known.passed == last:
            try:
                known.answer_if_ahead()
                known.answer_if_training()
            except Exception:  # the store has gone with the rank that kept it
                return
        last = known.passed
        del known
