"""What is checked before the first step: names, signatures, settings, loaders, optimizers."""

from __future__ import annotations

import dis
import inspect
import math
import operator
import warnings
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from pathlib import Path
from types import CodeType, FunctionType, GeneratorType, MethodType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.data.dataloader import _BaseDataLoaderIter

from . import components, compute, data, distributed, shards, stages
from .errors import ConfigError, DataError, HookError, closest
from .loggers import run as loggers

if TYPE_CHECKING:
    from .trainer import ConvnetTrainer

# The hooks that the base calls, with the arguments it passes.
HOOKS: dict[str, tuple[str, ...]] = {
    "default_attr": (),
    "init_attr": (),
    "define_data_attr": (),
    "define_model_attr": (),
    "define_train_attr": (),
    "define_test_attr": (),
    "define_log_attr": (),
    "define_compute_attr": (),
    "define_misc_attr": (),
    "get_trainloader": (),
    "get_testloader": (),
    "build_model": (),
    "build_parallel_model": (),
    "on_train_start": (),
    "start_logger": (),
    "on_stage_start": (),
    "train_loop": (),
    "train_epoch": (),
    "on_train_epoch_start": (),
    "train_batch": ("item",),
    "on_start_training_batch": ("item",),
    "training_step": (),
    "on_end_training_batch": (),
    "on_train_epoch_end": (),
    "evaluate_epoch": (),
    "on_evaluate_epoch_start": (),
    "on_evaluate_batch_start": ("item",),
    "evaluate_batch": ("item",),
    "on_evaluate_batch_end": (),
    "on_evaluate_epoch_end": (),
    "on_epoch_end": (),
    "on_stage_end": (),
    "on_train_end": (),
    "load_model": (),
    "load_parallel_model": (),
    "on_test_start": (),
    "test_loop": (),
    "on_start_test_batch": (),
    "test_step": ("item",),
    "on_end_test_batch": (),
    "on_test_end": (),
}

# Methods that only the default bodies of the hooks behind them call: a subclass that replaces all of those
# may give the method a signature of its own.
CALLED_BY: dict[str, tuple[str, ...]] = {
    "optimizer_zero_grad": ("training_step",),
    "loss_backward": ("training_step",),
    "optimizer_step": ("training_step",),
    "autocast": ("training_step", "evaluate_batch", "test_step"),
    "compute_loss": ("training_step", "evaluate_batch", "test_step"),
    "forward": ("compute_loss",),
    "load_model": ("test",),
    "load_parallel_model": ("test",),
    "build_parallel_model": ("__init__",),
}

# Methods that the base calls and that are no hooks.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "batch_size_of": ("batch",),
    "to_device": ("batch",),
    "take_batch": ("item",),
    "prediction_transform": ("outputs",),
}

NATIVE = (
    *("save_model", "save_parallel_model", "save_checkpoint", "stop_train", "exit_trainer", "stop_loader"),
    *("batch_size_of", "to_device", "get_lr", "set_lr", "only"),
)


_base: type = object  # `ConvnetTrainer`, which stands above this file and says so when it is made


def note_base(base: type) -> None:
    """Note the class whose methods are the defaults."""
    global _base
    _base = base


def is_default(trainer: ConvnetTrainer, *names: str) -> bool:
    """Return whether the trainer uses the base's own body of every one of these methods."""
    return all(
        getattr(type(trainer), name, None) is getattr(_base, name) and name not in vars(trainer) for name in names
    )


# Hooks of other libraries, and ours for the same.
_ELSEWHERE = {
    "configure_optimizers": "build_model",
    "train_dataloader": "get_trainloader",
    "val_dataloader": "get_trainloader",
    "test_dataloader": "get_testloader",
    "validation_step": "evaluate_batch",
    "on_validation_epoch_start": "on_evaluate_epoch_start",
    "on_validation_epoch_end": "on_evaluate_epoch_end",
    "validation_epoch_end": "on_evaluate_epoch_end",
    "training_epoch_end": "on_train_epoch_end",
    "handle_batch": "compute_loss",
}


def warn_misspelt_hooks(cls: type) -> None:
    """Warn of a method that is nearly named like a hook and that nothing in the class calls."""
    # A helper of the subclass may well be called load_models.
    known = [name for name in (*HOOKS, *CALLED_BY, *ARGUMENTS, *NATIVE) if not name.startswith(("load_", "save_"))]
    for name, value in vars(cls).items():
        if not isinstance(value, FunctionType) or name.startswith("_") or hasattr(_base, name):
            continue
        usual = name.replace("begin", "start")  # as other libraries say it
        hint = closest(_ELSEWHERE.get(name, usual), known, cutoff=0.72 if name.startswith("on_") else 0.82)
        if hint and not any(name in code.co_names for code in _code_of(cls)):
            warnings.warn(f"{cls.__name__}.{name} is no hook, nothing calls it.{hint}", stacklevel=3)


# What is set without an underscore, unlike the settings.
_WITHOUT_UNDERSCORE = ("_callbacks", "_metrics")
# What other libraries set without one, and what nothing else is likely to mean.
_WITH_UNDERSCORE = {
    **dict.fromkeys(("num_epochs", "n_epochs", "max_epochs"), "_num_epochs"),
    **{name: f"_{name}" for name in ("eval_interval", "save_epoch", "accumulation_steps", "clip_norm")},
}


def warn_misspelt_settings(trainer: ConvnetTrainer, settings: Mapping[str, Any]) -> None:
    """Warn of an underscore attribute that is nearly named like a setting and that no method reads."""
    cls = type(trainer)
    for name, setting in _WITH_UNDERSCORE.items():
        value = vars(trainer).get(name, settings[setting])
        ignored = isinstance(value, (int, float, str)) and value != settings[setting] == getattr(trainer, setting)
        if ignored and not any(_reads(code, name) for code in _code_of(cls)):
            warnings.warn(f"{cls.__name__} sets {name}, which no method reads. Did you mean '{setting}'?", stacklevel=3)
    for name in {**vars(cls), **vars(trainer)}:
        if not name.startswith("_") or name.startswith("__") or name in settings or hasattr(_base, name):
            continue
        hint = closest(name, [s for s in settings if s.startswith("_")], cutoff=0.82)
        if name in _WITHOUT_UNDERSCORE:
            hint = f" Did you mean '{name[1:]}'?"
        if hint and name != "_run_state" and not any(_reads(code, name) for code in _code_of(cls)):
            warnings.warn(f"{cls.__name__} sets {name}, which is no setting.{hint}", stacklevel=3)


def _code_of(cls: type) -> Iterator[CodeType]:
    """Yield the code of every method that `cls` has below the base, nested functions included."""
    replaced: set[str] = set()  # by a method that does not call super()
    for owner in cls.__mro__[: cls.__mro__.index(_base)]:
        for name, value in vars(owner).items():
            function = getattr(value, "fget", None) or getattr(value, "__func__", value)
            if isinstance(function, FunctionType) and name not in replaced:
                if "super" not in function.__code__.co_names:
                    replaced.add(name)
                waiting = [function.__code__]
                while waiting:
                    code = waiting.pop()
                    yield code
                    waiting += [const for const in code.co_consts if isinstance(const, CodeType)]


def _reads(code: CodeType, name: str) -> bool:
    return name in code.co_names and any(
        step.argval == name and step.opname in ("LOAD_ATTR", "LOAD_METHOD") for step in dis.get_instructions(code)
    )


_NEVER_RUN = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)


def check_signatures(trainer: ConvnetTrainer) -> None:
    """Raise a HookError for a hook that cannot be called with the arguments that the base passes."""
    for name, arguments in {**dict.fromkeys(CALLED_BY, ()), **ARGUMENTS, **HOOKS}.items():
        if name in CALLED_BY and not any(is_default(trainer, caller) for caller in CALLED_BY[name]):
            continue
        if is_default(trainer, name):
            continue
        hook = getattr(trainer, name)
        own = ", ".join(("self", *arguments))
        if not callable(hook):
            raise HookError(f"{_class(trainer)}.{name} is {hook!r}; expected a method: def {name}({own}).")
        if any(kind(hook) for kind in _NEVER_RUN) and name != "autocast":
            raise HookError(f"{_class(trainer)}.{name} is a coroutine or a generator, which a call does not run.")
        try:
            signature = inspect.signature(hook)
        except (TypeError, ValueError):
            if not isinstance(hook, MethodType):  # a builtin without one
                continue
            raise HookError(f"{_class(trainer)}.{name} has no self. Write def {name}({own}).") from None
        try:
            signature.bind(*arguments)
        except TypeError as error:
            raise HookError(
                f"{_class(trainer)}.{name}{signature} cannot be called as the trainer calls it ({error}). "
                f"Write def {name}({own})."
            ) from None


_FLAGS = ("_has_eval", "_verbose", "_evaluate_first", "_load_best", "_async_checkpoint", "_sync_batchnorm")
# Numbers and None mean yes or no in many a script; a string is always true, "False" too.
_YES_OR_NO = (bool, int, type(None), np.bool_)


def check_settings(trainer: ConvnetTrainer) -> None:
    """Raise a ConfigError for a setting with a value that is not allowed."""
    for name, least in (("_num_epochs", 0), ("_start_epoch", 0), ("_eval_interval", 1), ("_save_epoch", 1)):
        value = getattr(trainer, name)
        if isinstance(value, (bool, str, float)) or not hasattr(value, "__index__") or operator.index(value) < least:
            kind = f"{type(value).__name__} " if not isinstance(value, int) or isinstance(value, bool) else ""
            raise ConfigError(
                f"{_class(trainer)}: {name} is {kind}{value!r}; expected a whole number, {least} or more. "
                f"Write self.{name} = {max(least, 10 if name == '_num_epochs' else 1)}."
            )
    for name, allowed in (
        ("_use_tqdm", (None, True, False)),
        ("_monitor_mode", (None, "min", "max")),
        ("_on_nonfinite", ("raise", "warn", "skip")),
        ("_scheduler_step", ("epoch", "step")),
        ("_strategy", (None, "ddp", "fsdp")),
    ):
        value = getattr(trainer, name)
        if not any(value is choice or value == choice for choice in allowed):
            raise ConfigError(f"{_class(trainer)}: {name} is {value!r}; expected one of {allowed}.")
    for name in _FLAGS:
        value = getattr(trainer, name)
        if not isinstance(value, _YES_OR_NO):
            raise ConfigError(f"{_class(trainer)}: {name} is {value!r}; expected True or False.")
    steps, minutes = trainer._save_steps, trainer._save_minutes
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 1):
        raise ConfigError(f"{_class(trainer)}: _save_steps is {steps!r}; expected None or a whole number, 1 or more.")
    a_number = isinstance(minutes, Real) and not isinstance(minutes, bool)
    if minutes is not None and not (a_number and 0 < float(minutes) < math.inf):
        raise ConfigError(f"{_class(trainer)}: _save_minutes is {minutes!r}; expected None or a number above 0.")
    compute.check_settings(trainer)
    distributed.check(trainer)
    shards.check(trainer)
    if not isinstance(trainer._logdir, (str, Path, type(None))):
        raise ConfigError(
            f"{_class(trainer)}: _logdir is {trainer._logdir!r}; expected a path, or None to write nothing."
        )
    if trainer._loss_weights not in (None, "mean") and not isinstance(trainer._loss_weights, Mapping):
        raise ConfigError(
            f"{_class(trainer)}: _loss_weights is {trainer._loss_weights!r}; expected None (the sum), 'mean', or a "
            "dict with a weight for each criterion."
        )
    loggers.check(trainer)
    if trainer._stages is not None:
        stages.check(trainer._stages)
    if trainer._load_best and trainer._logdir is None:
        raise ConfigError(f"{_class(trainer)}: _load_best needs the run folder, and _logdir is None.")
    if trainer._scheduler_step == "step":
        for where, scheduler in components.named(trainer.scheduler, "self.scheduler"):
            if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                raise ConfigError(f"{_class(trainer)}: {where} is a ReduceLROnPlateau, which moves per epoch only.")
    if trainer._monitor is not None and not (isinstance(trainer._monitor, str) and trainer._monitor):
        raise ConfigError(f"{_class(trainer)}: _monitor is {trainer._monitor!r}; expected the name of a metric.")


def check_built(trainer: ConvnetTrainer) -> None:
    """Raise a HookError for a trainer whose constructor has left out the base's."""
    if "_run_state" not in vars(trainer):
        raise HookError(
            f"{_class(trainer)}.__init__ does not call that of ConvnetTrainer. Write super().__init__(config) in it."
        )


def check_model(trainer: ConvnetTrainer) -> None:
    """Raise a HookError where the building hook left something that is no module in ``self.model``."""
    for where, module in components.named(trainer.model, "self.model"):
        if not isinstance(module, nn.Module):
            raise HookError(
                f"{_class(trainer)}.build_model left a {type(module).__name__} in {where}; expected a torch.nn.Module "
                "or a dict of them. Write self.model = MyNetwork(), or self.model = {'encoder': ..., 'head': ...}."
            )


def no_optimizer(trainer: ConvnetTrainer) -> str:
    """Return what to say to a trainer without an optimizer."""
    return (
        f"{_class(trainer)}.build_model set no self.optimizer, which the default training_step steps. Write "
        "self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)."
    )


_STARTS = ("on_train_start", "start_logger", "on_stage_start", "on_train_epoch_start")


def before_training(trainer: ConvnetTrainer) -> None:
    """Check all that can be known before the first step of a run.

    Raises
    ------
    HookError, ConfigError, DataError
    """
    check_settings(trainer)
    if not vars(trainer).keys().isdisjoint(HOOKS):
        check_signatures(trainer)  # hooks that were set on the instance
    for stage in trainer._stages or ():
        ours = {f"_{name}": getattr(trainer, f"_{name}") for name in stage.settings}
        vars(trainer).update({f"_{name}": value for name, value in stage.settings.items()})
        try:
            check_settings(trainer)
        finally:
            vars(trainer).update(ours)
    _check_loaders(trainer)
    # on_train_start, start_logger and on_stage_start may still set what is missing.
    if is_default(trainer, "train_loop", "train_epoch", "train_batch", "training_step", *_STARTS):
        if not components.each(trainer.optimizer) and is_default(trainer, "optimizer_step"):
            raise HookError(no_optimizer(trainer))
        if is_default(trainer, "compute_loss"):
            _check_forward(trainer)
            _check_criterion(trainer)
    _check_optimizers(trainer)
    _announce_batch_of_one(trainer)


def _check_forward(trainer: ConvnetTrainer) -> None:
    model = trainer.model
    if isinstance(model, nn.Module) or not is_default(trainer, "forward"):
        return
    if model:
        raise HookError(
            f"{_class(trainer)} has the models {list(model)} and does not say how they follow each "
            "other. Write def forward(self): return self.model['head'](self.model['encoder'](self.inputs))."
        )
    others = list(components.attribute_modules(trainer))
    network = next((name for name in others if name != "criterion"), None)
    line = f"self.model = self.{network}, or override forward" if network else "self.model = MyNetwork()"
    raise HookError(f"{_class(trainer)}.build_model set no self.model, which the default forward calls. Write {line}.")


def _check_criterion(trainer: ConvnetTrainer) -> None:
    criteria = list(components.named(trainer.criterion, "self.criterion"))
    if not criteria:
        raise HookError(
            f"{_class(trainer)}.build_model set no self.criterion, which the default compute_loss calls. Write "
            "self.criterion = torch.nn.CrossEntropyLoss(), or override compute_loss."
        )
    for where, criterion in criteria:
        if isinstance(criterion, type) or not callable(criterion):
            line = f"{criterion.__name__}()" if isinstance(criterion, type) else "torch.nn.CrossEntropyLoss()"
            raise HookError(
                f"{_class(trainer)}.build_model left {criterion!r} in {where}; expected something to call with outputs "
                f"and targets, or a dict of such. Write {where} = {line}."
            )


# Iterators without an end are not among them, nor classes of the user's, whose __iter__ may start anew.
_READ_ONCE: tuple[type, ...] = (
    *(GeneratorType, enumerate, zip, map, filter, reversed, _BaseDataLoaderIter),
    *(type(iter([])), type(iter(())), type(reversed([]))),
)


def _check_loaders(trainer: ConvnetTrainer) -> None:
    loops = is_default(trainer, "train_loop", "train_epoch", *_STARTS)
    if trainer.train_loader is None and trainer.train_epoch_iter is None and loops:
        if is_default(trainer, "get_trainloader"):
            raise HookError(
                f"{_class(trainer)} does not override get_trainloader. Write def get_trainloader(self): "
                "self.train_loader = DataLoader(dataset, batch_size=32, shuffle=True)."
            )
        raise ConfigError(f"{_class(trainer)}.get_trainloader left self.train_loader None; set it to a DataLoader.")
    for name in ("train", "valid", "test") if trainer._has_eval else ("train", "test"):
        loader = getattr(trainer, f"{name}_loader")
        readable = hasattr(type(loader), "__iter__") or hasattr(type(loader), "__getitem__")
        if loader is not None and (isinstance(loader, (type, str, bytes)) or not readable):
            raise DataError(
                f"self.{name}_loader is {loader!r}; expected an iterable of batches. Write self.{name}_loader = "
                "DataLoader(dataset, batch_size=32)."
            )
        if name != "test":  # test() looks for itself
            check_one_loader(trainer, name)
        again = trainer._num_epochs > trainer._start_epoch and name != "test" and (loops or name == "valid")
        if again and isinstance(loader, _READ_ONCE):
            raise DataError(
                f"self.{name}_loader is a {type(loader).__name__}, which can be read only once, and there are "
                f"{trainer._num_epochs} epochs. Give a DataLoader, a list, or an object whose __iter__ starts anew."
            )
        if data.length_of(loader) == 0 and not (name == "train" and not loops):
            raise DataError(
                f"self.{name}_loader gives no batch. {data.describe_loader(loader)} Give it more samples, a smaller "
                "batch_size or drop_last=False."
            )
        if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
            warnings.warn(
                f"self.{name}_loader is a dataset ({type(loader).__name__}), whose samples are taken for batches. "
                f"Write self.{name}_loader = DataLoader(dataset, batch_size=32).",
                stacklevel=5,
            )


# Hooks that may choose among several loaders, or read them by themselves.
_CHOOSING: dict[str, tuple[str, ...]] = {
    "train": ("train_loop", "train_epoch", *_STARTS, "train_batch", "on_start_training_batch", "take_batch"),
    "valid": (
        *("train_loop", "train_epoch", *_STARTS, "on_train_epoch_end", "evaluate_epoch", "on_evaluate_epoch_start"),
        *("on_evaluate_batch_start", "evaluate_batch", "take_batch"),
    ),
    "test": ("on_test_start", "test_loop", "on_start_test_batch", "test_step", "take_batch"),
}


def check_one_loader(trainer: ConvnetTrainer, name: str) -> None:
    """Raise a DataError for several loaders where one is read: a dict gives its keys, a list the loaders."""
    loader = getattr(trainer, f"{name}_loader")
    of_loaders = isinstance(loader, (list, tuple)) and any(isinstance(part, DataLoader) for part in loader)
    if (isinstance(loader, Mapping) or of_loaders) and is_default(trainer, *_CHOOSING[name]):
        hook = {"train": "on_train_epoch_start", "valid": "on_evaluate_epoch_start", "test": "on_test_start"}[name]
        key = next(iter(loader), name) if isinstance(loader, Mapping) else 0
        items = "test_loop_iter" if name == "test" else f"{name}_epoch_iter"
        raise DataError(
            f"{_class(trainer)}: self.{name}_loader is {data.describe_batch(loader)}; expected one iterable of "
            f"batches. Write self.{name}_loader = loaders[{key!r}], or set self.{items} in {hook} to read several."
        )


def _check_optimizers(trainer: ConvnetTrainer) -> None:
    modules = list(components.attribute_modules(trainer).values())
    known = {id(p) for module in modules for p in module.parameters()}
    for value in vars(trainer).values():
        parts = value if isinstance(value, (list, tuple)) else components.each(value)
        known |= {id(part) for part in parts if isinstance(part, torch.Tensor)}
    held: set[int] = set()
    for where, optimizer in components.named(trainer.optimizer, "self.optimizer"):
        stepped = is_default(trainer, "training_step", "optimizer_zero_grad", "optimizer_step")
        usable = all(callable(getattr(optimizer, name, None)) for name in ("zero_grad", "step"))
        if stepped and (isinstance(optimizer, type) or not usable):
            raise HookError(
                f"{_class(trainer)}.build_model left {optimizer!r} in {where}; expected a torch.optim.Optimizer or a "
                "dict of them. Write self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)."
            )
        own = {id(p) for p in components.parameters_of(optimizer)}
        held |= own
        if own and trainer.model is not None and not own & known and is_default(trainer, "training_step"):
            raise ConfigError(
                f"{_class(trainer)}: none of the {len(own)} parameters of {where} belongs to a model of this trainer; "
                "the run would train nothing. Make the optimizer after the model, from self.model.parameters()."
            )
    _check_schedulers(trainer)
    if held and trainer.model is not None and trainer._stages is None:
        left = [
            name
            for _, module in components.named(trainer.model, "self.model")
            for name, p in module.named_parameters()
            if p.requires_grad and id(p) not in held
        ]
        # A subclass with a step of its own may step some parameters by optimizers under other names.
        if left and is_default(trainer, "training_step", "optimizer_step"):
            warnings.warn(
                f"{_class(trainer)}: {len(left)} trainable parameters are in no optimizer and will not change: "
                f"{', '.join(left[:5])}{', ...' if len(left) > 5 else ''}. Give them to one, or freeze them by "
                "requires_grad_(False).",
                stacklevel=5,
            )


def _check_schedulers(trainer: ConvnetTrainer) -> None:
    own: set[int] = set()  # everything that may be an optimizer of the trainer, and their groups: some wrap another
    for value in vars(trainer).values():
        for part in components.each(value, list, tuple):
            own |= {id(part), *map(id, _groups(part))}
    for where, scheduler in components.named(trainer.scheduler, "self.scheduler"):
        read = any(_reads(code, "scheduler") for code in _code_of(type(trainer)))
        stepless = (isinstance(scheduler, (list, tuple)) and scheduler) or (
            callable(scheduler) and not callable(getattr(scheduler, "step", None))
        )
        read = read or steps_schedulers(trainer) or bool(trainer.callbacks)
        if stepless and not isinstance(scheduler, type) and not read:
            warnings.warn(
                f"{_class(trainer)}: {where} is a {type(scheduler).__name__}, which nothing steps; expected something "
                "with step(), or a dict of such.",
                stacklevel=6,
            )
        if isinstance(scheduler, type):
            raise HookError(
                f"{_class(trainer)}.build_model left the class {scheduler.__name__} in {where}; expected a scheduler. "
                f"Write {where} = {scheduler.__name__}(self.optimizer, ...)."
            )
        moved = getattr(scheduler, "optimizer", None)
        if isinstance(moved, torch.optim.Optimizer) and own.isdisjoint({id(moved), *map(id, moved.param_groups)}):
            warnings.warn(
                f"{_class(trainer)}: {where} moves the learning rate of an optimizer that is no attribute of this "
                "trainer. Make the scheduler after the optimizer, from self.optimizer.",
                stacklevel=6,
            )


def _groups(value: Any) -> Any:
    try:
        return getattr(value, "param_groups", None) or ()
    except Exception:  # of a __getattr__ of the user's, a KeyError say
        return ()


def steps_schedulers(trainer: ConvnetTrainer) -> bool:
    """Return whether a method of the subclass steps a scheduler, so that the base must not."""
    return any(_steps_scheduler(code) for code in _code_of(type(trainer)))


def _steps_scheduler(code: CodeType) -> bool:
    """Return whether code has ``scheduler.step`` or ``schedulers[...].step``."""
    if "step" not in code.co_names:
        return False
    owner = ""
    for instruction in dis.get_instructions(code):
        if instruction.argval == "step" and "sched" in owner:
            return True
        if (
            isinstance(instruction.argval, str)
            and instruction.opname.startswith("LOAD")
            and instruction.opname != "LOAD_CONST"
        ):
            owner = instruction.argval
        elif instruction.opname not in ("LOAD_CONST", "BINARY_SUBSCR", "BINARY_OP", "CACHE", "EXTENDED_ARG"):
            owner = ""
    return False


def loss_problem(trainer: ConvnetTrainer, graph: bool = True) -> str | None:
    """Return what is wrong with ``trainer.loss``, None if nothing is.

    Parameters
    ----------
    trainer : ConvnetTrainer
    graph : bool
        Whether it must depend on the parameters.
    """
    loss = trainer.loss
    parameters = [p for module in components.modules_of(trainer) for p in module.parameters()]
    trainable = sum(p.requires_grad for p in parameters)
    if not isinstance(loss, torch.Tensor):
        if isinstance(loss, (int, float)) and not graph:
            return None
        found = f"{loss!r}, a {type(loss).__name__}" if loss is not None else "None"
    elif loss.numel() != 1:
        found = f"a tensor of shape {tuple(loss.shape)}"
    elif graph and not loss.requires_grad:
        found = f"a tensor without a gradient ({trainable} of {len(parameters)} parameters are trainable)"
    else:
        return None
    return (
        f"{_class(trainer)}.compute_loss returned {found}; expected a tensor with one element that depends on "
        "the model's parameters. Write return self.criterion(self.outputs, self.targets), and .mean() over samples."
    )


def check_loss(trainer: ConvnetTrainer) -> None:
    """Raise a HookError for a loss of an evaluation that is no single number."""
    loss = trainer.loss
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        problem = loss_problem(trainer, graph=False)
        if problem is not None:
            raise HookError(problem)


def step_result(trainer: ConvnetTrainer) -> dict[str, Any]:
    """Return what `train_step` and `val_step` return."""
    outputs = trainer.outputs.detach() if isinstance(trainer.outputs, torch.Tensor) else trainer.outputs
    loss = trainer.loss.item() if isinstance(trainer.loss, torch.Tensor) else trainer.loss
    prediction = trainer.prediction_transform(outputs)
    return {"prediction": prediction, "target": trainer.targets, "loss": loss}


def _announce_batch_of_one(trainer: ConvnetTrainer) -> None:
    loader = trainer.train_loader
    if not isinstance(loader, DataLoader) or loader.batch_size is None or loader.drop_last:
        return
    samples = data.length_of(loader.sampler)
    if samples is None or samples % loader.batch_size != 1 or loader.batch_size == 1:
        return
    if any(
        isinstance(part, nn.modules.batchnorm._BatchNorm)
        for m in components.attribute_modules(trainer).values()
        for part in m.modules()
    ):
        warnings.warn(
            f"{_class(trainer)}: the last train batch has one sample ({samples} samples, "
            f"batch_size={loader.batch_size}), which BatchNorm cannot normalise over. "
            "Write drop_last=True or another batch_size.",
            stacklevel=5,
        )


def _class(trainer: ConvnetTrainer) -> str:
    return type(trainer).__name__
