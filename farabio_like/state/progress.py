"""`Progress`: where a run is, in steps, epochs and batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from .. import rng


@dataclass(slots=True)
class Progress:
    """Where a run is.

    NOTE: ``epoch_step + batches`` is the last training step that is complete, with its callbacks and metrics; `step`
    is one more within a batch. A checkpoint counts by the former, or a run that goes on would leave a batch out.

    Attributes
    ----------
    step : int
        Number of the current training batch since the first, from 1.
    trained_step : int
        The last one whose ``training_step`` has returned.
    last_epoch_done : int or None
        The last finished epoch.
    phase : "train", "evaluate" or None
        What the epoch is doing; None between two epochs.
    batches : int
        Trained in this epoch.
    batches_before, samples_before : int
        Of them, those that another process has trained, in batches of another size maybe.
    epoch_step : int
        Steps before this epoch.
    epoch_started : float
        When, by ``time.perf_counter``.
    left_early : bool
        This epoch's evaluation was.
    epoch_rng, evaluation_rng : dict
        Random numbers when the epoch began, and its evaluation.
    evaluations : list of dict
        Those within this epoch, besides its own: ``epoch``, ``step``, ``batch``, ``valid``.
    trained_evaluations : int
        How many of them there were when the epoch's own evaluation began.
    own_metrics : tuple of str
        What the epoch's own evaluation has measured.
    evaluation_records : dict or None
        What a checkpoint holds of the moment when the evaluation began, see `resume.capture`.
    began : dict or None
        What hooks had changed inside modules and data sets when the epoch began, see `resume.inside`; None where that
        is what they have changed now.
    layouts : dict or None
        Which parameters the optimizers had then, see `resume.optimizers`.
    """

    step: int = 0
    trained_step: int = 0
    last_epoch_done: int | None = None
    phase: str | None = None
    batches: int = 0
    batches_before: int = 0
    samples_before: int = 0
    epoch_step: int = 0
    epoch_started: float = 0.0
    left_early: bool = False
    epoch_rng: dict[str, Any] = field(default_factory=dict)
    evaluation_rng: dict[str, Any] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    trained_evaluations: int = 0
    own_metrics: tuple[str, ...] = ()
    evaluation_records: dict[str, Any] | None = None
    began: dict[str, Any] | None = None
    layouts: dict[str, Any] | None = None

    @property
    def complete_step(self) -> int:
        """The last training step that is complete."""
        return self.epoch_step + self.batches if self.phase is not None else self.step

    def begin_epoch(self, numbers: dict[str, Any], batches: int) -> None:
        """Begin to count an epoch.

        Parameters
        ----------
        numbers : dict
            The state of the random numbers.
        batches : int
            Trained in it before, by the run that is resumed.
        """
        self.epoch_started, self.left_early = perf_counter(), False
        self.epoch_rng = numbers
        self.phase, self.batches, self.trained_step = "train", 0, 0
        self.evaluation_records = None
        self.own_metrics = ()
        self.batches_before = self.samples_before = 0
        self.epoch_step = self.step - batches

    # Not "state_dict": a trainer that another one keeps as an attribute is stored field by field.

    def position(self) -> dict[str, Any]:
        """Return the position in the epoch under way."""
        return {
            "phase": self.phase,
            "batches": self.batches,
            "rng": rng.packed(self.epoch_rng),
            "seconds": perf_counter() - self.epoch_started,
            "began": self.began,
            "layouts": self.layouts,
            "evaluations": self.evaluations[: self.trained_evaluations if self.phase == "evaluate" else None],
        }

    def take_evaluations(self, state: dict[str, Any]) -> None:
        """Take back the evaluations within the epoch that `position` has; files of earlier versions have none."""
        self.evaluations = [dict(record) for record in state.get("evaluations", ())]

    def take_position(self, state: dict[str, Any]) -> None:
        """Take back where the epoch began, as `position` gave it; its batches come back when they are passed over."""
        if state["rng"] is not None:  # a rank that was not there has its own
            self.epoch_rng = state["rng"]
        self.epoch_started = perf_counter() - state["seconds"]
