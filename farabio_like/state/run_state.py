"""`RunState`: what the base remembers of a run, in one attribute of the trainer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ..checkpoint.writer import Copies, Writer
from ..data.counting import SampleCounter
from ..data.loaders import NOTHING
from ..loggers.console import Console
from ..metrics.direction import Best
from ..metrics.objects import MetricObjects
from ..metrics.running import RunningMeans
from ..optim.schedules import Schedules
from ..plots.painter import Painter
from ..resume.restore import Resumption
from .launched import Launched
from .progress import Progress
from .put_off import PutOff
from .requests import Requests

if TYPE_CHECKING:
    from ..config.stages import Stage
    from ..distributed.ranks import Ranks
    from ..loggers.run import Recording
    from ..optim.steps import Stepping
    from ..rundir.folder import RunDir
    from ..trainer import ConvnetTrainer


NO_VALID_LOADER = "no evaluation: there is no valid loader (set self.valid_loader)"


@dataclass(slots=True)
class RunState:
    """What the base remembers of a run, in one attribute of the trainer.

    Attributes
    ----------
    IN_CHECKPOINTS : tuple of str
        What a checkpoint has of a trainer that another one keeps as an attribute: all else is made anew by its next
        run.
    """

    IN_CHECKPOINTS: ClassVar[tuple[str, ...]] = ("history", "progress", "best", "trained", "loaded", "weights")

    launched: Launched = field(default_factory=Launched)
    console: Console = field(default_factory=Console)
    pictures: Painter = field(default_factory=Painter)
    folder: RunDir | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    running: str | None = None  # "train" or "test" while that method runs, "search" for steps without trace
    exception: BaseException | None = None
    listeners: dict[str, list[Any]] = field(default_factory=dict)  # event: methods of callbacks
    recording: Recording | None = None  # the loggers
    rewind_to: tuple[int, int] | None = None  # epoch and step that they go back to, in a run that goes on in its folder
    given: dict[str, Any] = field(default_factory=dict)  # BATCH_PARTS that the constructor's hooks set: a size, say
    networks: set[str] = field(default_factory=set)  # attributes that hold the networks of a trainer without a model

    requests: Requests = field(default_factory=Requests)
    progress: Progress = field(default_factory=Progress)

    # The pass over a loader.
    loader: str | None = None
    item: Any = NOTHING
    counter: SampleCounter | None = None  # of the samples of its batches
    size_guessed: bool = False  # said once that they are not sure
    lent: tuple[str, ...] = ()  # which of BATCH_PARTS the base set for this item
    skip: bool = False  # the item under way does not count
    initial_loss: Any = None  # self.loss before the hook that starts a pass
    broken_batch: str = ""  # shapes of the one whose hook has raised, for the note on the error
    failed_pass: str = ""  # where a loader has raised
    failed_event: str = ""  # in which a callback has raised
    evaluating: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # under way: kind, where means go
    own_evaluation: bool = False  # the run evaluates, no hook of a subclass or a callback
    to_read: Any = None  # the loader of the pass that begins
    readers: list[Any] = field(default_factory=list)  # the loaders that are being read, the outermost first
    unsettled: list[tuple[dict[str, Any], int]] = field(default_factory=list)  # evaluations, and weights' versions
    settle: Callable[[], bool] | None = None  # writes them after the batch; returns whether one of them is the best
    of_other_loader: bool = False  # evaluate_loader() reads one that is not the run's own
    means: RunningMeans | None = None  # of the training pass
    metric_objects: MetricObjects | None = None

    criterion: Any = None  # that `compute_loss` has met last
    compares_elements: bool = False  # it does, so that outputs and targets need one shape

    # Stages and epochs.
    stage: Stage | None = None
    stage_end: int | None = None
    before_stage: dict[str, Any] = field(default_factory=dict)  # settings that the stage changed
    weights_before: tuple[int, tuple[float, ...]] | None = None  # when the first epoch began
    untrained: set[tuple[str, int]] | None = None  # names and ids of parameters in no optimizer; None before a batch
    checked: Any = None  # the parameters and optimizers of the last check, and the objects that it depends on
    determinism: tuple[Any, ...] | None = None  # what the run has set aside for `_deterministic`
    best: Best | None = None

    schedules: Schedules = field(default_factory=Schedules)

    # The steps of the optimizers.
    stepping: Stepping | None = None  # None where every batch is one plain step
    moved: bool = True  # the batch under way has moved the weights
    gathering: bool = False  # a step of the subclass's own has not moved them: its gradients may wait for a later one
    batches_without_step: int = 0  # before it that have not
    finite_buffers: dict[str, bool] = field(default_factory=dict)  # when each was met first, see `nonfinite`
    skipped: int = 0  # steps of this epoch left out because something was not finite
    moved_after_pass: bool = False  # the weights were moved once more after the pass's last batch
    undivided: dict[int, Any] = field(default_factory=dict)  # by their ids, loaders that their owner has divided
    ranks: Ranks | None = None  # where there are several: how much this one's gradients weigh

    # What a subclass's objects were before the first step: what differs later has a state.
    attributes_before: dict[str, Any] = field(default_factory=dict)  # plain data
    modules_before: dict[str, Any] = field(default_factory=dict)  # contents of its modules
    objects_before: dict[str, Any] = field(default_factory=dict)  # digests of its records and containers
    marks_before: dict[str, Any] = field(default_factory=dict)  # of all of its objects
    long_before: dict[str, Any] = field(default_factory=dict)  # of its containers with too many entries
    users_parts: bool = True  # whether some of what is inside of them is of a class of the user's
    watched: tuple[bool, ...] = (True, True, True, True)  # see `resume.capture.note_hooks`
    noted: int | None = None  # the id of the trainer whose objects were noted; those of a copy are others
    flags_before: dict[str, bool] = field(default_factory=dict)  # requires_grad of its parameters
    inside_before: dict[tuple[str, str], Any] = field(default_factory=dict)  # attributes inside of them
    last_look: Any = None  # at them
    structures_before: dict[str, Any] = field(default_factory=dict)  # classes of what is inside of them
    layers_before: dict[str, Any] = field(default_factory=dict)  # those without weights
    settings_before: dict[str, dict[str, Any]] = field(default_factory=dict)  # those that it may change, by stage
    built: dict[str, dict[str, Any]] = field(default_factory=dict)  # layouts of its optimizers, by stage
    left_out: set[str] = field(default_factory=set)  # said to be in no checkpoint

    # Saving and going on.
    next_save: float = math.inf  # the step after which a save is due
    next_save_time: float = math.inf
    saved_step: int = 0  # what the newest checkpoint holds
    put_off: PutOff = field(default_factory=PutOff)
    evaluation_copies: Copies = field(default_factory=Copies)  # memory of the weights that are kept in an evaluation
    writer: Writer = field(default_factory=Writer)
    built_loaders: dict[str, int] = field(default_factory=dict)  # ids of those that the constructor has made
    fingerprints: dict[str, Any] = field(default_factory=dict)  # which samples they have
    resumption: Resumption = field(default_factory=Resumption)

    # Weights.
    saved: bool = False  # save_model() wrote model.pth in this run
    trained: bool = False  # this process changed the weights
    loaded: str | None = None  # weights that the user loaded on purpose, after the last training
    weights: str = ""  # what load_model() did, for the line that test() prints

    def note_lost_output(self) -> None:
        """Say in the run folder, once, why something could not be shown on the terminal."""
        if self.console.problem is not None and self.folder is not None:
            self.folder.note(self.console.problem)


def first_epoch(trainer: ConvnetTrainer) -> int:
    """Return the number of the epoch that comes next."""
    done = trainer._run_state.progress.last_epoch_done
    return trainer._start_epoch if done is None else max(done + 1, trainer._start_epoch)


def last_epoch(trainer: ConvnetTrainer) -> int:
    """Return the number of the last epoch, of the stage where there are stages."""
    end = trainer._run_state.stage_end
    return trainer._num_epochs if end is None else end


def is_last_epoch(trainer: ConvnetTrainer) -> bool:
    """Return whether no epoch of the run comes after this one, of any stage: by number, or since it was stopped."""
    return trainer._epoch >= trainer._num_epochs or trainer._run_state.requests.ends_run
