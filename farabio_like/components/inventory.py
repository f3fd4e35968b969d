"""What a trainer holds, found by one walk over its attributes: modules, optimizers, schedulers, loaders, parameters.

Everybody who has to know asks this; what is done with them lives elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from ..duck_typing import attribute, has_state, is_a, method
from .one_or_dict import each, is_lazy, param_groups

MOST_ASKED = 100  # entries of a list or dict that are looked at one by one; a longer one holds data
_DATA = frozenset((type(None), bool, int, float, complex, str, bytes, list, tuple, dict))  # in a list or dict
_PLAIN = _DATA - {list, tuple, dict}
_CONTAINERS = (list, tuple, dict, Mapping)
_TORCH = (nn.Module, Tensor, Optimizer, LRScheduler, DataLoader)
# Attributes in which the base keeps what is no part.
_OF_THE_BASE = frozenset(
    ("_run_state", "config", "history", "batch_metrics", "loader_metrics", "epoch_metrics", "device", "run_dir")
)
_OF_THE_BATCH = frozenset(("batch", "inputs", "targets", "outputs", "loss"))


class Part(NamedTuple):
    """One place in which a trainer holds something: an attribute, or an entry of a list, tuple or dict that is one."""

    attribute: str
    keys: tuple[Any, ...]  # none, or the key or index of the entry
    value: Any

    @property
    def where(self) -> str:
        """The place as Python writes it, and as checkpoints name components: ``scheduler[0]``, ``nets['critic']``."""
        return self.attribute + "".join(f"[{key!r}]" for key in self.keys)

    @property
    def dotted(self) -> str:
        """The place as the weights of a trainer without a model are named: ``listed.0``, ``nets.critic``."""
        return ".".join((self.attribute, *map(str, self.keys)))


class Inventory:
    """What a trainer held when this was taken.

    Lists, tuples and dicts among the attributes are looked into, one level deep. Something that stands in two places
    is a part twice, for both names may be in a checkpoint; `once` leaves out the second.

    NOTE: a kind is told by the class of an object, never by ``isinstance`` or by what answers to a name alone: people
    hang objects on a trainer that answer to every name, raise for some, or give themselves out for others. See
    `duck_typing`. A proxy of a module or of an optimizer stands for what is behind it.

    Parameters
    ----------
    parts : list of Part
        All that is no plain data, in the order of the attributes.
    """

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts

    @cached_property
    def modules(self) -> list[Part]:
        """The modules."""
        return self._of(nn.Module)

    @cached_property
    def loaders(self) -> list[Part]:
        """The loaders that are a ``DataLoader``; others cannot be told from data."""
        return self._of(DataLoader)

    @cached_property
    def optimizers(self) -> list[Part]:
        """The optimizers: torch's, and what has parameter groups as they have."""
        return [part for part in self.parts if is_a(part.value, Optimizer) or param_groups(part.value)]

    @cached_property
    def schedulers(self) -> list[Part]:
        """The schedulers: torch's, and whatever is in ``self.scheduler``."""
        return [part for part in self.parts if part.attribute == "scheduler" or is_a(part.value, LRScheduler)]

    @cached_property
    def parameters(self) -> list[Part]:
        """The parameters outside of any module: those of ``nn.Parameter``, and leaves that require a gradient."""
        return [part for part in self.tensors if part.attribute not in _OF_THE_BATCH and _is_trained(part.value)]

    @cached_property
    def stateful(self) -> list[Part]:
        """All that gives its state and takes it back."""
        return [part for part in self.parts if has_state(part.value)]

    @cached_property
    def tensors(self) -> list[Part]:
        """The tensors: of those in lists, tuples and dicts only such as require a gradient, the others are data."""
        return self._of(Tensor)

    def named_modules(self) -> dict[str, nn.Module]:
        """Return the modules by their dotted places."""
        return {part.dotted: part.value for part in self.modules}

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return all parameters by name: those outside of any module, and those of the modules."""
        found = {part.dotted: part.value for part in self.parameters}
        for part in self.modules:
            name = part.dotted
            found |= {f"{name}.{key}": p for key, p in part.value.named_parameters() if not is_lazy(p)}
        return found

    def _of(self, kind: type) -> list[Part]:
        return [part for part in self.parts if is_a(part.value, kind)]


def take(owner: Any) -> Inventory:
    """Return what a trainer, or any object, holds in its attributes."""
    parts = []
    for name, value in list(vars(owner).items()):
        kind = type(value)
        if kind in _PLAIN or name in _OF_THE_BASE:  # most are; this is asked several times an epoch
            continue
        if issubclass(kind, _TORCH):
            parts.append(Part(name, (), value))
        elif kind in _DATA or issubclass(kind, _CONTAINERS):
            if hasattr(kind, "load_state_dict"):  # it has a state of its own
                parts.append(Part(name, (), value))
            parts += [Part(name, (key,), behind(entry)) for key, entry in _entries(value)]
        else:
            parts.append(Part(name, (), behind(value)))
    return Inventory(parts)


def _entries(container: Any) -> list[tuple[Any, Any]]:
    """Return the keys and entries of a list, tuple or mapping, without those that are surely data."""
    kind = type(container)
    pairs: Iterable[tuple[Any, Any]]
    if kind in _DATA and not container:
        return []
    try:
        # By the methods of the class: where keys can be read as attributes, one may be called "items".
        if issubclass(kind, (list, tuple)):
            pairs, values = enumerate(container), container
        elif issubclass(kind, dict):
            pairs, values = kind.items(container), kind.values(container)
        else:
            pairs = list(kind.items(container))  # once: such a mapping may read a file
            values = [value for _, value in pairs]
        kinds = set(map(type, values)) - _DATA
        if len(container) > MOST_ASKED:
            kinds = {kind for kind in kinds if issubclass(kind, _TORCH) or hasattr(kind, "load_state_dict")}
        # In one go, for another thread may write to it.
        chosen = [(key, value) for key, value in list(pairs) if type(value) in kinds] if kinds else []
    except Exception:  # of a mapping of the user's: a file that is closed, say
        return []
    return [(key, value) for key, value in chosen if type(value) is not Tensor or value.requires_grad]


def behind(value: Any) -> Any:
    """Return what a proxy of a module, an optimizer or a scheduler stands for, anything else as it is."""
    if is_a(value, _TORCH):
        return value
    claimed = attribute(value, "__class__")
    if claimed is type(value) or not (is_a(claimed, type) and issubclass(claimed, _TORCH)):
        return value
    inside = attribute(method(value, "state_dict"), "__self__")
    return inside if type(inside) is claimed else value


def _is_trained(tensor: Tensor) -> bool:
    return (isinstance(tensor, nn.Parameter) or (tensor.requires_grad and tensor.is_leaf)) and not is_lazy(tensor)


def once(parts: Iterable[Part]) -> list[Part]:
    """Return the parts, of several places of one object the first alone."""
    found: dict[int, Part] = {}
    for part in parts:
        found.setdefault(id(part.value), part)
    return list(found.values())


# ---------------------------------------------------------------- the modules that a trainer trains


def model_of(trainer: Any, held: Inventory | None = None) -> Any:
    """Return ``trainer.model``, or the networks that a trainer without one keeps under names of its own.

    Those are the modules among its attributes that had trainable parameters when they were first seen. A
    network that was frozen from the start (a feature extractor, say) is not trained, and not saved.

    Parameters
    ----------
    trainer : ConvnetTrainer
    held : Inventory, optional
        What it holds, where that is known already.
    """
    if trainer.model is not None:
        return trainer.model
    there = (held or take(trainer)).named_modules()
    known = trainer._run_state.networks
    known |= {name for name, module in there.items() if any(p.requires_grad for p in module.parameters())}
    return {name: module for name, module in there.items() if name in known}


def modules_of(trainer: Any, held: Inventory | None = None) -> tuple[nn.Module, ...]:
    """Return the modules that a trainer trains, each once."""
    return tuple({id(module): module for module in each(model_of(trainer, held))}.values())


def modules_to_evaluate(trainer: Any) -> list[nn.Module]:
    """Return the modules that an evaluation puts into eval mode: without a model, frozen networks too."""
    if trainer.model is not None:
        return list(modules_of(trainer))
    return [part.value for part in once(take(trainer).modules)]


def named_parameters(trainer: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the name and value of every parameter that a trainer trains, except those without a shape yet."""
    model = model_of(trainer)
    for key, module in model.items() if isinstance(model, Mapping) else [("", model)]:
        for name, parameter in module.named_parameters():
            if not is_lazy(parameter):
                yield f"{key}.{name}" if key else name, parameter
