"""A call of a model: the module, its method, and inputs with a batch axis, of which there can be any number.

What a trainer's model is called with is seen by watching a call of its `ConvnetTrainer.forward`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..components import weights
from ..data import read_batches
from ..distributed import loaders as rank_loaders
from ..errors import ConfigError, DataError, HookError, closest
from ..inference.model import leaves, like
from ..loop import batch as loop_batch
from ..loop import evaluation, loader_pass

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer

MODES = ("eval", "train")
SEED = 0  # of the model and of its file: in train mode, dropout draws the same


@dataclass
class Call:
    """A method of a module, and what it is called with.

    Attributes
    ----------
    module : nn.Module
        On the CPU, and nobody else's: its flags and its buffers may be changed.
    method : str
    args : tuple
    kwargs : dict
        Tensors, or tuples, lists and dicts of them.
    batch : int
        The length of the batch axis, the first one of the tensors that have it.
    """

    module: nn.Module
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    batch: int

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors that go in, by their place: ``[0]``, ``['mask']``."""
        found = leaves((self.args, self.kwargs))
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    @property
    def names(self) -> list[str]:
        """A name for each tensor that goes in: its key, or its argument's; ``input`` of a single one."""
        if len(self.tensors) == 1:
            return ["input"]
        given = [place[3:] for place in self.tensors]
        plain = ["_".join(part.strip("'\"") for part in place.strip("[]").split("][")) for place in given]
        return [f"input_{name}" if name.isdecimal() else name for name in plain]

    def has_batch(self, tensor: Tensor) -> bool:
        """Return whether a tensor has the batch axis."""
        return tensor.ndim > 0 and len(tensor) == self.batch

    def of_size(self, size: int) -> list[Tensor]:
        """Return the tensors that go in with a batch of another size: its samples, over and over."""
        index = torch.arange(size) % self.batch
        return [tensor[index] if self.has_batch(tensor) else tensor for tensor in self.tensors.values()]

    def run(self, tensors: Sequence[Tensor]) -> Any:
        """Return the outputs of the module for other tensors; its buffers stay, and random numbers begin at `SEED`."""
        buffers = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            try:
                return self.wrapped()(*tensors)
            finally:
                for name, buffer in self.module.named_buffers():  # statistics of batch norm in train mode
                    buffer.copy_(buffers[name])

    def is_plain(self) -> bool:
        """Return whether the module itself takes the tensors, one after the other."""
        return self.method == "forward" and not self.kwargs and all(isinstance(arg, Tensor) for arg in self.args)

    def wrapped(self, flat_outputs: bool = False) -> nn.Module:
        """Return a module whose forward takes the tensors, one after the other; the module itself where it does.

        Parameters
        ----------
        flat_outputs : bool
            Whether it returns the tensors that come out in a tuple, whatever their structure is.
        """
        return Flat(self, flat_outputs) if flat_outputs or not self.is_plain() else self.module


class Flat(nn.Module):
    """Calls a method of a module with tensors that are given one after the other.

    Parameters
    ----------
    call : Call
        Says how they are put together.
    flat_outputs : bool
        Whether to return a tuple of tensors, whatever the method returns.
    """

    def __init__(self, call: Call, flat_outputs: bool = False) -> None:
        super().__init__()
        self.flat_outputs = flat_outputs
        self.model = call.module
        self.method = call.method
        structure = (call.args, call.kwargs)
        self.places = list(call.tensors)
        self.fixed = {name: value for name, value in leaves(structure).items() if name not in call.tensors}
        self.structure = like(structure, {name: None for name in leaves(structure)})

    def forward(self, *tensors: Tensor) -> Any:
        """Return what the method returns."""
        given = {**self.fixed, **dict(zip(self.places, tensors, strict=True))}
        args, kwargs = like(self.structure, given)
        outputs = getattr(self.model, self.method)(*args, **kwargs)
        if not self.flat_outputs:
            return outputs
        return tuple(value for value in leaves(outputs).values() if isinstance(value, Tensor))


class _OfTrainer(nn.Module):
    """The models of a trainer, called as its `forward` does, which puts several together.

    Parameters
    ----------
    trainer : ConvnetTrainer
        With a batch under way.
    """

    def __init__(self, trainer: ConvnetTrainer) -> None:
        super().__init__()
        models = {str(name): _own(module) for name, module in trainer.model.items()}
        called: list[nn.Module] = []
        hooks = [
            module.register_forward_pre_hook(lambda module, _: called.append(module)) for module in models.values()
        ]
        self._models = [models]  # in lists: nn.Module looks no further
        self._trainer = [trainer]
        with torch.no_grad():
            self(_on_cpu(trainer.inputs))
        for hook in hooks:
            hook.remove()
        # The others, a discriminator say, are none of the file's.
        self.models = nn.ModuleDict({name: module for name, module in models.items() if module in called})

    def forward(self, inputs: Any) -> Any:
        trainer = copy.copy(self._trainer[0])
        vars(trainer).update(model=self._models[0], inputs=inputs)
        return type(trainer).forward(trainer)


# ---------------------------------------------------------------- calls of modules and trainers


def of_module(module: nn.Module, batch: Any, method: str, mode: str) -> Call:
    """Return the call of a module.

    Parameters
    ----------
    module : nn.Module
    batch : Tensor, or tuple of arguments
        Samples for it; a dict is one argument.
    method : str
    mode : {"eval", "train"}

    Raises
    ------
    ConfigError
        For a method that is not there, or another mode.
    DataError
        For a batch without tensors, or of fewer than 2 samples.
    """
    return _call(module, method, batch if type(batch) is tuple else (batch,), {}, mode)


def of_trainer(trainer: ConvnetTrainer, batch: Any, method: str, mode: str) -> Call:
    """Return the call of a trainer's model, as its `ConvnetTrainer.forward` makes it; of averages where it has any.

    Parameters
    ----------
    trainer : ConvnetTrainer
    batch : batch, optional
        Default: the first one of 2 samples or more that its loaders give.
    method, mode : str
        As for `of_module`.

    Raises
    ------
    ConfigError, DataError
        As for `of_module`; for a trainer without loaders.
    HookError
        Where its `forward` does not call the model.
    """
    batch = real_batch(trainer) if batch is None else batch
    with evaluation.averaged_weights(trainer), evaluation.evaluation(trainer), loop_batch.single_batch(trainer, batch):
        trainer.take_batch((0, batch))
        model = trainer.model
        if isinstance(model, Mapping):
            if method != "forward":
                raise ConfigError(
                    f"{type(trainer).__name__} has several models, which have no method {method!r} alone."
                )
            return _call(_OfTrainer(trainer), method, (trainer.inputs,), {}, mode)
        inner = weights.unwrap(model)
        args, kwargs = _watched(trainer, inner)
        return _call(inner, method, args, kwargs, mode)


def _watched(trainer: ConvnetTrainer, model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what the first call of the model in the trainer's `forward` gets."""
    seen: list[Any] = []

    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.append((args, kwargs))

    compiled = {part: part._compiled_call_impl for part in model.modules()}
    held = trainer.model
    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        trainer.model = model
        for part in compiled:
            part._compiled_call_impl = None  # a compiled call would be compiled anew for the hook
        with torch.no_grad():
            trainer.forward()
    finally:
        hook.remove()
        trainer.model = held
        for part, call in compiled.items():
            part._compiled_call_impl = call
    if not seen:
        raise HookError(
            f"{type(trainer).__name__}.forward did not call self.model. Give the batch of the model itself."
        )
    return seen[0]


def _own(module: nn.Module) -> nn.Module:
    """Return a copy of a module on the CPU, out of its wrapper and not compiled."""
    try:
        found = copy.deepcopy(weights.unwrap(module)).cpu()
    except Exception as error:
        raise ConfigError(
            f"{type(module).__name__} cannot be copied: {type(error).__name__}: {error}. A model is exported from a "
            "copy: let its attributes be plain data, tensors and modules."
        ) from error
    for part in found.modules():
        part._compiled_call_impl = None
    return found


def _call(module: nn.Module, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], mode: str) -> Call:
    if mode not in MODES:
        raise ConfigError(f"mode={mode!r}; expected one of {', '.join(MODES)}.{closest(str(mode), MODES)}")
    inner = weights.unwrap(module)
    if not callable(getattr(inner, method, None)):
        names = [name for name in dir(type(inner)) if not name.startswith("_") and not hasattr(nn.Module, name)]
        there = ", ".join(["forward", *(name for name in names if callable(getattr(inner, name, None)))])
        raise ConfigError(
            f"{type(inner).__name__} has no method {method!r}.{closest(method, ['forward', *names])} It has: {there}."
        )
    own = module if isinstance(module, _OfTrainer) else _own(module)
    own.train(mode == "train")
    args, kwargs = _on_cpu((args, kwargs))
    values = leaves((args, kwargs))
    tensors = [value for value in values.values() if isinstance(value, Tensor)]
    sizes = [len(tensor) for tensor in tensors if tensor.ndim > 0]
    if not sizes:
        raise DataError(f"the batch has no tensor with a batch axis: {_kinds(values)}.")
    if sizes[0] < 2:
        raise DataError(
            f"the batch has {sizes[0]} sample; expected 2 or more: what is traced with one may hold for one alone."
        )
    return Call(own, method, args, kwargs, sizes[0])


def _on_cpu(inputs: Any) -> Any:
    parts = leaves(inputs)
    return like(inputs, {p: v.detach().cpu().contiguous() if isinstance(v, Tensor) else v for p, v in parts.items()})


def _kinds(values: Mapping[str, Any]) -> str:
    return ", ".join(type(value).__name__ for value in values.values()) or "it is empty"


def output_leaves(outputs: Any, call: Call) -> dict[str, Tensor]:
    """Return the tensors of an output by their place; numbers and the like are left out.

    Raises
    ------
    HookError
        Where there is none.
    """
    found = {name: value for name, value in leaves(outputs).items() if isinstance(value, Tensor)}
    if not found:
        raise HookError(
            f"{type(call.module).__name__}.{call.method} returns a {type(outputs).__name__}; expected a tensor, or a "
            "tuple, list or dict of tensors."
        )
    return found


def structure_of(outputs: Any) -> Any:
    """Return the structure of outputs in plain data: in the place of each tensor its number, else None."""
    parts = leaves(outputs)
    numbers = {place: k for k, place in enumerate(p for p, value in parts.items() if isinstance(value, Tensor))}
    return like(outputs, {place: numbers.get(place) for place in parts})


def real_batch(trainer: ConvnetTrainer, least: int = 2) -> Any:
    """Return the first batch of `least` samples or more that the loaders give: those of evaluation and test first.

    Raises
    ------
    DataError
        Where none does.
    """
    smaller = False
    for loader in (trainer.valid_loader, trainer.test_loader, trainer.train_loader):
        if loader is None:
            continue
        for number, batch in enumerate(read_batches(loader_pass.apart(trainer, rank_loaders.unsharded(loader)))):
            if trainer.batch_size_of(batch) >= least:
                return batch
            smaller = True
            if number == 1:  # a batch size of 1; the first batch may be a short one
                break
    said = f"their batches have fewer than {least} samples" if smaller else "it has none"
    raise DataError(f"{type(trainer).__name__} has no loader with a batch to take the shapes from: {said}.")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back the warnings of tracing: what they fear is looked at by comparing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
