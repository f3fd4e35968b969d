"""`Requests`: what was asked of a run, by hooks, callbacks and signals, and not yet done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Requests:
    """What was asked of a run and not yet done.

    NOTE: a signal may come between any two lines. Its handler only appends to `signals`, and only
    `farabio_like.state.signals.collect` takes from it; the other fields are changed between two steps alone. A handler
    that wrote to `asked` would lose what came while a save takes it.

    Attributes
    ----------
    stop : bool
        End after the hooks of the current batch; the epoch is still evaluated.
    exit_asked : bool
        End like `stop`, and skip what is left of the evaluation.
    stop_loader : bool
        Read no further batch of the current loader.
    asked : list of str
        Signals, and ``"save"``, to be seen to after the step.
    saves : list of Path
        Files asked for within a batch.
    signals : list of str
        Names of those that have come at any moment.
    notes_signals : int or None
        The id of the object whose signals are noted; those of a copy are not.
    """

    stop: bool = False
    exit_asked: bool = False
    stop_loader: bool = False
    asked: list[str] = field(default_factory=list)
    saves: list[Path] = field(default_factory=list)
    signals: list[str] = field(default_factory=list)
    notes_signals: int | None = None

    @property
    def ends_run(self) -> bool:
        """Whether no further batch is to be trained."""
        return self.stop or self.exit_asked

    def any(self) -> bool:
        """Return whether anything is to be done after the step."""
        return self.stop or self.exit_asked or self.stop_loader or bool(self.asked)

    def take(self) -> Requests:
        """Return what is to be done after the step, and ask for it no longer."""
        taken = Requests(self.stop, self.exit_asked, self.stop_loader, self.asked, self.saves)
        self.stop = self.exit_asked = self.stop_loader = False
        self.asked, self.saves = [], []
        return taken

    def merge(self, others: Iterable[Requests]) -> None:
        """Ask for what any of the others asks for, too; theirs comes first, each thing once."""
        others = [*others, self]
        self.stop = any(other.stop for other in others)
        self.exit_asked = any(other.exit_asked for other in others)
        self.stop_loader = any(other.stop_loader for other in others)
        self.asked = list(dict.fromkeys(name for other in others for name in other.asked))
        self.saves = list(dict.fromkeys(path for other in others for path in other.saves))

    # Not "state_dict": a trainer that another one keeps as an attribute is stored field by field.

    def ends(self) -> dict[str, Any]:
        """Return what a resumed epoch needs: what ends it was asked before the file was written."""
        return {"stop": self.stop, "leave": self.exit_asked, "stop_loader": self.stop_loader}

    def take_ends(self, state: dict[str, Any]) -> None:
        """Take back what `ends` gave; `stop_loader` has ended its pass."""
        self.stop, self.exit_asked = state["stop"], state["leave"]
