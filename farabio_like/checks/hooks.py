"""The hooks and their arguments: which ones a class overrides, which names are misspelt, which signatures wrong."""

from __future__ import annotations

import dis
import inspect
import warnings
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from ..duck_typing import is_a
from ..errors import HookError, closest

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


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
    "prepare_input": ("image",),
}
NATIVE = (
    *("save_model", "save_parallel_model", "save_checkpoint", "stop_train", "exit_trainer", "stop_loader"),
    *("batch_size_of", "to_device", "get_lr", "set_lr", "only", "clip_gradients"),
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


# Called while the trainer is built, before any number is measured.
_BUILDING = {name for name in HOOKS if name.startswith(("define_", "get_", "build_"))} | {
    *("default_attr", "init_attr", "load_model", "load_parallel_model", "build_parallel_model"),
    "prepare_input",  # of pictures that are no part of a run
}


def runs_base_alone(trainer: ConvnetTrainer) -> bool:
    """Return whether the subclass overrides nothing that runs while numbers are measured, so that it adds none."""
    return is_default(trainer, *({*HOOKS, *CALLED_BY, *ARGUMENTS, *NATIVE} - _BUILDING))


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
        if not is_a(value, FunctionType) or name.startswith("_") or hasattr(_base, name):
            continue
        usual = name.replace("begin", "start")  # as other libraries say it
        hint = closest(_ELSEWHERE.get(name, usual), known, cutoff=0.72 if name.startswith("on_") else 0.82)
        if hint and not any(name in code.co_names for code in code_of(cls)):
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
        if ignored and not any(reads(code, name) for code in code_of(cls)):
            warnings.warn(f"{cls.__name__} sets {name}, which no method reads. Did you mean '{setting}'?", stacklevel=3)
    for name in {**vars(cls), **vars(trainer)}:
        if not name.startswith("_") or name.startswith("__") or name in settings or hasattr(_base, name):
            continue
        hint = closest(name, [s for s in settings if s.startswith("_")], cutoff=0.82)
        if name in _WITHOUT_UNDERSCORE:
            hint = f" Did you mean '{name[1:]}'?"
        if hint and name != "_run_state" and not any(reads(code, name) for code in code_of(cls)):
            warnings.warn(f"{cls.__name__} sets {name}, which is no setting.{hint}", stacklevel=3)


def code_of(cls: type) -> Iterator[CodeType]:
    """Yield the code of every method that `cls` has below the base, nested functions included."""
    replaced: set[str] = set()  # by a method that does not call super()
    for owner in cls.__mro__[: cls.__mro__.index(_base)]:
        for name, value in vars(owner).items():
            function = value.fget if is_a(value, property) else value
            function = value.__func__ if is_a(value, (classmethod, staticmethod)) else function
            if is_a(function, FunctionType) and name not in replaced:
                if "super" not in function.__code__.co_names:
                    replaced.add(name)
                waiting = [function.__code__]
                while waiting:
                    code = waiting.pop()
                    yield code
                    waiting += [const for const in code.co_consts if isinstance(const, CodeType)]


def reads(code: CodeType, name: str) -> bool:
    """Return whether code reads an attribute of this name."""
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
            raise HookError(f"{owner(trainer)}.{name} is {hook!r}; expected a method: def {name}({own}).")
        if any(kind(hook) for kind in _NEVER_RUN) and name != "autocast":
            raise HookError(f"{owner(trainer)}.{name} is a coroutine or a generator, which a call does not run.")
        try:
            signature = inspect.signature(hook)
        except (TypeError, ValueError):
            if not isinstance(hook, MethodType):  # a builtin without one
                continue
            raise HookError(f"{owner(trainer)}.{name} has no self. Write def {name}({own}).") from None
        try:
            signature.bind(*arguments)
        except TypeError as error:
            raise HookError(
                f"{owner(trainer)}.{name}{signature} cannot be called as the trainer calls it ({error}). "
                f"Write def {name}({own})."
            ) from None


_LOOKUPS = ("LOAD_ATTR", "LOAD_METHOD")
_SUBSCRIPTS = ("BINARY_SUBSCR", "BINARY_OP")
_CONSTANTS = ("LOAD_CONST", "LOAD_SMALL_INT")
_NO_STEPS = ("CACHE", "EXTENDED_ARG", "NOP")


def stepped_schedulers(trainer: ConvnetTrainer) -> set[str]:
    """Return the schedulers whose ``step`` a method of the subclass has in its text: ``self.scheduler['head']``.

    Only what it calls by this very name: no other object with a ``step``, nothing in a loop or a helper.
    """
    return {where for code in code_of(type(trainer)) for where in _stepped(code)}


def _stepped(code: CodeType) -> Iterator[str]:
    if not {"scheduler", "step"} <= set(code.co_names) or not code.co_argcount:
        return
    there = [step for step in dis.get_instructions(code) if step.opname not in _NO_STEPS]
    for end, instruction in enumerate(there):
        if instruction.argval != "step" or instruction.opname not in _LOOKUPS:
            continue
        before = there[:end]
        key = ""
        if len(before) > 2 and before[-1].opname in _SUBSCRIPTS and before[-2].opname in _CONSTANTS:
            key = f"[{before[-2].argval!r}]"
            before = before[:-2]
        if len(before) < 2 or before[-1].argval != "scheduler" or before[-1].opname not in _LOOKUPS:
            continue
        loaded = before[-2].argval  # two names, where one instruction loads both
        if (loaded[-1] if isinstance(loaded, tuple) else loaded) == code.co_varnames[0]:
            yield f"self.scheduler{key}"


def owner(trainer: ConvnetTrainer) -> str:
    """Return the name of a trainer's class, with which a message begins."""
    return type(trainer).__name__
