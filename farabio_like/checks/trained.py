"""Parameters and optimizers that belong together: what no optimizer has, and what an optimizer has for nothing."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from .. import components
from ..callbacks.base import Callback
from ..checkpoint.plain import PLAIN
from ..components import dtensor, inventory
from ..config.config import Config
from ..duck_typing import are_same, attribute, is_a, own_attributes
from ..errors import ConfigError, HookError
from .hooks import is_default, owner

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


DEEPEST = 4  # objects within objects that are looked into
MOST_SEEN = 2000  # of them
_NOT_TRAINED = (Dataset, DataLoader, Sampler, Callback, Config, BaseException, type)
_OTHERS = frozenset((*sys.stdlib_module_names, "torch", "numpy", "farabio_like"))
# Attributes that hold data, or what is no part of a training.
_APART = frozenset(
    (
        *("_run_state", "config", "history", "device", "run_dir", "callbacks", "metrics", "loggers", "_stages"),
        *("batch_metrics", "loader_metrics", "epoch_metrics", "batch", "inputs", "targets", "outputs", "loss"),
        *("train_loader", "valid_loader", "test_loader", "train_epoch_iter", "valid_epoch_iter", "test_loop_iter"),
    )
)


class Trained:
    """All parameters and optimizers that a trainer holds, also in records, and in containers within containers.

    Attributes
    ----------
    modules : dict of str to nn.Module
        By their places; those of the model have the names that `components.named_parameters` gives.
    parameters : dict of str to Tensor
        Those outside of any module.
    optimizers : list of object
    """

    def __init__(self, trainer: ConvnetTrainer) -> None:
        self.modules: dict[str, nn.Module] = {}
        self.parameters: dict[str, Tensor] = {}
        self.optimizers: list[Any] = []
        self._seen: set[int] = set()
        self.of_model = set(map(id, components.modules_of(trainer)))
        for where, module in components.named(trainer.model, "model"):
            if isinstance(module, nn.Module):
                self._look(where, module, 0)
        for name, value in list(vars(trainer).items()):
            if name not in _APART:
                self._look(name, value, 0)

    def named(self) -> Iterator[tuple[str, Tensor, nn.Module | None]]:
        """Yield name, value and module of every parameter; the names of the model's are plain."""
        for where, module in self.modules.items():
            prefix = f"self.{where}."
            if id(module) in self.of_model and where.startswith("model"):
                key = where.removeprefix("model").strip("[]'\"")  # of a dict of models
                prefix = f"{key}." if key else ""
            for name, parameter in module.named_parameters():
                yield prefix + components.plain_key(module, name), parameter, module
        for where, bare in self.parameters.items():
            yield f"self.{where}", bare, None

    def _look(self, where: str, value: Any, depth: int) -> None:
        if id(value) in self._seen or depth > DEEPEST or len(self._seen) > MOST_SEEN:
            return
        value = inventory.behind(value)
        if is_a(value, nn.Module):
            self._seen.add(id(value))
            self.modules[where] = value
        elif is_a(value, Tensor):
            if value.requires_grad and value.is_leaf:
                self._seen.add(id(value))
                self.parameters[where] = value
        elif components.param_groups(value):
            self._seen.add(id(value))
            self.optimizers.append(value)
        else:
            for key, part in _parts(value):
                self._seen.add(id(value))
                self._look(f"{where}{key}", part, depth + 1)


def _parts(value: Any) -> list[tuple[str, Any]]:
    """Return the parts of a container, or the attributes of a record of the user's, that may be or hold parameters."""
    kind = type(value)
    if issubclass(kind, (list, tuple)):
        pairs = [(f"[{index}]", part) for index, part in enumerate(value)]
    elif issubclass(kind, (dict, Mapping)):
        try:
            pairs = [(f"[{key!r}]", value[key]) for key in list(value)]
        except Exception:  # of a mapping of the user's: a file that is closed, say
            return []
    elif issubclass(kind, _NOT_TRAINED) or kind.__module__.partition(".")[0] in _OTHERS - {"types"}:
        return []
    else:
        # Another trainer is trained by itself.
        own = own_attributes(value) or {}
        pairs = [(f".{name}", part) for name, part in own.items()] if "_run_state" not in own else []
    return pairs if len(pairs) <= inventory.MOST_ASKED else []


# ---------------------------------------------------------------- before a run


def check_optimizers(trainer: ConvnetTrainer) -> None:
    """Raise an error for what is no optimizer, and for one that would move nothing of the trainer's.

    Raises
    ------
    HookError, ConfigError
    """
    known: set[int] | None = None
    for where, optimizer in components.named(trainer.optimizer, "self.optimizer"):
        stepped = is_default(trainer, "training_step", "optimizer_zero_grad", "optimizer_step")
        usable = all(callable(attribute(optimizer, name)) for name in ("zero_grad", "step"))
        if stepped and (isinstance(optimizer, type) or not usable):
            raise HookError(
                f"{owner(trainer)}.build_model left {optimizer!r} in {where}; expected a torch.optim.Optimizer or a "
                "dict of them. Write self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)."
            )
        if stepped and _needs_a_function(optimizer):
            raise HookError(
                f"{owner(trainer)}: step() of {where}, a {type(optimizer).__name__}, needs a function that computes "
                "the loss. Write def training_step(self): self.loss = self.optimizer.step(self.closure), "
                "and def closure(self): self.optimizer.zero_grad(); loss = self.compute_loss(); loss.backward(); "
                "return loss."
            )
        own = {id(p) for p in components.parameters_of(optimizer)}
        if own and trainer.model is not None and is_default(trainer, "training_step"):
            known = {id(p) for _, p, _ in Trained(trainer).named()} if known is None else known
            if not own & known:
                raise ConfigError(
                    f"{owner(trainer)}: none of the {len(own)} parameters of {where} belongs to a model of this "
                    "trainer; the run would train nothing. Make the optimizer after the model, from "
                    "self.model.parameters()."
                )


def _needs_a_function(optimizer: Any) -> bool:
    if not is_a(optimizer, torch.optim.Optimizer):
        return False
    try:
        # Of the class: a scheduler wraps the method of the object.
        inspect.signature(type(optimizer).step).bind(optimizer)
    except TypeError:
        return True
    return False


# ---------------------------------------------------------------- before the batches of an epoch


def check_parameters(trainer: ConvnetTrainer) -> None:
    """Warn of trainable parameters that no optimizer has, once of each: before the first batch, and when they are new.

    Raises
    ------
    ConfigError
        Where an optimizer has nothing but parameters that a hook has replaced.
    """
    state = trainer._run_state
    if state.checked is not None and are_same(state.checked[1], _objects(trainer, state.checked[0])):
        return
    first, known = state.untrained is None, state.untrained or set()
    there = Trained(trainer)
    state.checked = there, _objects(trainer, there)
    moved = {id(p) for optimizer in there.optimizers for p in components.parameters_of(optimizer)}
    if not first:
        check_optimizers(trainer)
    state.untrained = set(known)
    if not moved:  # a step of the subclass's own moves them in another way
        return
    left = [entry for entry in there.named() if entry[1].requires_grad and id(entry[1]) not in moved]
    new = [entry for entry in left if (entry[0], id(entry[1])) not in known]
    state.untrained |= {(name, id(p)) for name, p, _ in left}
    copies = _copies(there, {id(module) for _, _, module in new if module is not None})
    told = [
        name
        for name, _, module in new
        if not (module is not None and id(module) in copies)
        # A stage trains some of the model's parts.
        and not (first and trainer._stages is not None and module is not None and id(module) in there.of_model)
    ]
    if told:
        names = f"{', '.join(told[:5])}{', ...' if len(told) > 5 else ''}"
        text = (
            f"{len(told)} trainable parameters are in no optimizer and will not change: {names}. "
            "Give them to one, or freeze them by requires_grad_(False)."
        )
        if not first:
            stale = len(moved - {id(p) for _, p, _ in there.named()})
            text = (
                f"in epoch {trainer._epoch} {len(told)} trainable parameters have come that are in no optimizer and "
                f"will not change: {names}. {f'{stale} that an optimizer has are in no model. ' if stale else ''}"
                "Write self.optimizer.add_param_group({'params': ...}) where they are made, or make the optimizer anew."
            )
        warnings.warn(f"{owner(trainer)}: {text}", stacklevel=_outside())


def _objects(trainer: ConvnetTrainer, there: Trained) -> list[Any]:
    """Return what the check depends on: nothing is to be told again while all of it are the very same objects."""
    found: list[Any] = []
    for name, value in vars(trainer).items():
        if name not in _APART and type(value) not in PLAIN:
            found.append(value)
            if type(value) in (list, tuple, dict) and len(value) <= inventory.MOST_ASKED:
                found += value.values() if type(value) is dict else value
    for module in there.modules.values():
        for parameter in module.parameters():
            found += (parameter, parameter.requires_grad)
    for optimizer in there.optimizers:
        found += components.parameters_of(optimizer)
    return found


def _copies(there: Trained, ids: set[int]) -> set[int]:
    """Return which of some modules have the very values of a part that is trained: averages or targets of it."""
    found: set[int] = set()
    sources: dict[tuple[Any, ...], list[nn.Module]] = {}
    for module in there.modules.values():
        for part in module.modules() if id(module) in there.of_model else (module,):
            sources.setdefault(_shapes(part), []).append(part)
    for module in there.modules.values():
        if id(module) in ids and id(module) not in there.of_model:
            others = [part for part in sources.get(_shapes(module), ()) if part is not module]
            if any(_are_equal(module, other) for other in others):
                found.add(id(module))
    return found


def _shapes(module: nn.Module) -> tuple[Any, ...]:
    # `AveragedModel` and DataParallel hold the copy under this name.
    found = ((name, p) for name, p in module.named_parameters() if not components.is_lazy(p))
    return tuple((name.removeprefix("module."), tuple(p.shape)) for name, p in found)


def _are_equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = list(zip(one.parameters(), other.parameters(), strict=False))
    if not pairs or any(a.device != b.device or a.dtype != b.dtype for a, b in pairs):
        return False
    return all(a is not b and torch.equal(dtensor.local(a), dtensor.local(b)) for a, b in pairs)


def _outside() -> int:
    """Return the stack level of the first caller outside of the package."""
    level, frame = 1, sys._getframe(1)
    package = __name__.partition(".")[0]
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    return level
