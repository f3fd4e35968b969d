"""The settings of a trainer, each told once: its default, what is allowed, whether a stage may change it, its meaning.

Checks, annotations and the handbook's table come from here. Which settings do not go together is in
`checks.settings`; what they do is where a run reads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import ConfigError
from .allowed import (
    Allowed,
    anything,
    arguments,
    by_loader,
    device,
    device_numbers,
    flag,
    loggers,
    loss_weights,
    name_of,
    one_of,
    path,
    positive,
    seconds,
    stages,
    whole,
    yes_or_no,
)
from .secrets import Secrets

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """What there is to know of a setting.

    Parameters
    ----------
    default : Any
    allowed : Allowed
        Its values.
    help : str
        Its meaning; code in double backquotes.
    of_a_stage : bool
        Whether a `Stage` may change it. The others are read once per run.
    """

    default: Any
    allowed: Allowed
    help: str
    of_a_stage: bool = False


class Default(int):
    """A whole number that nobody has set: some settings are obeyed to the letter only where somebody has."""


def setting(default: T, allowed: Allowed, help: str, of_a_stage: bool = False) -> T:
    """Declare a setting; to a type checker it is its default."""
    return Setting(default, allowed, help, of_a_stage)  # type: ignore[return-value]


class Settings:
    """The settings as attributes of a trainer, which gets the defaults from ``default_attr``.

    A new one is a line here. NOTE: the order is that of the handbook's table and of ``config.yaml``. The class keeps
    the annotations only, so that a value found on a class is one that a subclass has set.
    """

    _num_epochs: int = setting(
        10,
        whole(0, tensors=True, example=10),
        "number of the last epoch; 0 runs the hooks at the start and the end, and no step",
    )
    _start_epoch: int = setting(1, whole(0, tensors=True, example=1), "number of the first epoch")
    _epoch: int = setting(1, anything(), "number of the current epoch; read it as ``self.epoch``")
    _has_eval: bool = setting(
        True, yes_or_no(), "evaluate; without a valid loader that is skipped, and said once", of_a_stage=True
    )
    _eval_interval: int = setting(
        1, whole(1, tensors=True, example=1), "evaluate every so many epochs", of_a_stage=True
    )
    _save_epoch: int = setting(
        Default(1),
        whole(1, tensors=True, example=1),
        "write ``checkpoints/last.ckpt`` every so many epochs; unless it is set, see ``_unsaved_seconds``",
        of_a_stage=True,
    )
    _unsaved_seconds: float = setting(
        2.0,
        seconds(),
        "while saves would take more than 5 % of the run's time, put off those of epochs, by so many seconds of "
        "training at most; 0 puts off none, and so does setting ``_save_epoch``, ``_save_steps`` or ``_save_minutes``",
    )
    _save_steps: int | None = setting(None, whole(1, optional=True), "write it also every so many steps")
    _save_minutes: float | None = setting(None, positive(), "write it also after the first step after so many minutes")
    _async_checkpoint: bool = setting(
        False, yes_or_no(), "write checkpoints in a thread, from copies, while the run goes on"
    )
    _data_parallel: bool | list[int] | None = setting(
        None, device_numbers(), "``True``, or a list of CUDA device numbers: use ``torch.nn.DataParallel``"
    )
    _device: Any = setting("auto", device(), '``"auto"``, ``"cpu"``, ``"cuda:1"``, ``"mps"``, a ``torch.device``')
    _precision: str = setting(
        "fp32",
        one_of("fp32", "bf16", "fp16"),
        '``"fp32"``, ``"bf16"`` or ``"fp16"``: compute losses by ``torch.autocast``',
    )
    _accumulation_steps: int = setting(
        1, whole(1, of="batches", example=4), "step the optimizers once in so many batches", of_a_stage=True
    )
    _clip_norm: float | None = setting(
        None, positive(example=1.0), "the largest norm of the gradients of an optimizer", of_a_stage=True
    )
    _clip_value: float | None = setting(
        None,
        positive(example=1.0),
        "the largest absolute value of an element of a gradient; not together with ``_clip_norm``",
        of_a_stage=True,
    )
    _compile: Any = setting(
        False,
        arguments("torch.compile", example={"mode": "reduce-overhead"}),
        "``True``, or a dict of arguments: ``torch.compile`` for the models",
    )
    _channels_last: bool = setting(False, flag(), "keep models and images in ``torch.channels_last``")
    _prefetch: bool = setting(False, flag(), "on a GPU, copy the next batch while the model works on this one")
    _deterministic: bool = setting(False, flag(), "let ``train`` and ``test`` use deterministic algorithms only")
    _seed: int | None = setting(
        None,
        whole(0, bits=32, optional=True, example=0),
        "seed Python, NumPy and torch before the loaders and the model are made",
    )
    _next_loop: bool = setting(
        False, anything(), "set it in a hook of a batch, of any loop, to skip that batch", of_a_stage=True
    )
    _mode: Any = setting("train", anything(), "not read by the base; for your own use", of_a_stage=True)
    _model_path: Any = setting(None, anything(), "weights that ``test`` loads when this process has trained none")
    _backbone: Any = setting(False, anything(), "not read by the base; for your own use", of_a_stage=True)
    _loggers: Any = setting(
        None,
        loggers(),
        'a name (``"csv"``, ``"tensorboard"``, ``"visdom"``, ...), a ``Logger``, or a list of them',
    )
    _log_interval: int | None = setting(
        None,
        whole(1, of="steps", optional=True, example=50),
        "record the running loss every so many steps; ``None``: at the ends of epochs only",
    )
    _use_tqdm: bool | None = setting(
        None,
        one_of(None, True, False),
        "a progress bar: ``True``, ``False``, or ``None`` for where stderr is a terminal or a notebook",
    )
    _verbose: bool = setting(True, yes_or_no(), "print the lines on the terminal")
    _logdir: Any = setting("runs", path(none="to write nothing"), "where the run folders are; ``None`` writes nothing")
    _monitor: str | None = setting(
        None,
        name_of("a metric"),
        'the metric that decides which epoch is best: ``"accuracy"``, ``"valid/accuracy"``; ``None`` is the loss',
        of_a_stage=True,
    )
    _monitor_mode: str | None = setting(
        None,
        one_of(None, "min", "max"),
        '``"min"``, ``"max"``, or ``None`` to decide by the metric object, else by the name',
        of_a_stage=True,
    )
    _stages: Any = setting(None, stages(), "a list of ``Stage``; ``None`` is a run without stages")
    _scheduler_step: str | None = setting(
        "epoch",
        one_of("epoch", "step", None),
        'when the base steps the schedulers: ``"epoch"`` or ``"step"``, or ``None`` for never',
        of_a_stage=True,
    )
    _loss_weights: Any = setting(
        None,
        loss_weights(),
        'for a dict of criteria: ``None`` (their sum), ``"mean"``, or a dict with a weight for each',
        of_a_stage=True,
    )
    _evaluate_first: bool = setting(False, yes_or_no(), "evaluate once before the first step")
    _load_best: bool = setting(False, yes_or_no(), "end with the best epoch's weights in memory")
    _strategy: str | None = setting(
        None,
        one_of(None, "ddp", "fsdp"),
        'how several processes train: ``"ddp"``, which ``None`` is too, or ``"fsdp"``, the model in shards',
    )
    _dist_timeout: float | None = setting(
        None,
        positive(of="seconds", example=600),
        "seconds after which a process gives up waiting for another one; ``None`` is PyTorch's own limit",
    )
    _shard_loaders: Any = setting(
        True,
        by_loader(),
        "divide the loaders among the processes; ``False`` leaves them as they are, a dict says it by name: "
        '``{"valid": False}``. One that is divided already is left anyway, where that can be seen',
    )
    _sync_batchnorm: bool = setting(False, yes_or_no(), "batch norm over the batches of all processes, on CUDA")
    _on_nonfinite: str = setting(
        "raise",
        one_of("raise", "warn", "skip"),
        'what a NaN or infinite training loss gets. ``"raise"``: an error that names step, loss, rate and the first '
        "bad parameter, within 128 steps on a CPU and at the end of the epoch elsewhere. "
        '``"warn"``: a warning at the end of the epoch. ``"skip"``: steps whose gradients are not finite move no '
        "weights, and are counted, and buffers are as before the batch; looking at them waits for the device twice per "
        "step",
        of_a_stage=True,
    )


#: What there is to know of every setting.
DEFINITIONS: dict[str, Setting] = {name: vars(Settings)[name] for name in Settings.__annotations__}
for _name in DEFINITIONS:
    delattr(Settings, _name)

#: The settings and their defaults. A subclass changes them in a ``define_*_attr`` method (or as class attributes).
SETTINGS: dict[str, Any] = {name: definition.default for name, definition in DEFINITIONS.items()}

#: What a `Stage` may change, as it is written there.
OF_A_STAGE = tuple(name.removeprefix("_") for name, definition in DEFINITIONS.items() if definition.of_a_stage)


def check(holder: object, names: Iterable[str] = DEFINITIONS) -> None:
    """Check the values of settings, each one for itself.

    Parameters
    ----------
    holder : object
        Has the settings as attributes; a message begins with the name of its class.
    names : iterable of str
        Those to check; all by default.

    Raises
    ------
    ConfigError
        For a value that is not allowed.
    """
    where = f"{type(holder).__name__}: "
    for name in names:
        value = getattr(holder, name)
        if value is not SETTINGS[name]:  # most have their default
            check_value(name, value, where)


def check_value(name: str, value: Any, where: str = "") -> None:
    """Raise a ConfigError, which begins with `where`, for a value that the setting `name` may not have."""
    said = DEFINITIONS[name].allowed.problem(name, value)
    if said is not None:
        raise ConfigError(where + Secrets({name: value}).text(said))
