"""Models in shards, ``_strategy = "fsdp"``: every rank holds, updates and saves its part of each parameter.

The engine is PyTorch's own ``fully_shard`` (FSDP2). How such a model is stored is in `checkpoint.sharded`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..components import inventory, param_groups
from ..components.dtensor import is_sharded, like
from ..duck_typing import attribute, is_a
from ..errors import ConfigError
from . import process_group
from .forward_methods import forward_methods

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer
    from .ranks import Ranks


SMALLEST_UNIT = 100_000  # parameters; gathering fewer at once is not worth a message of its own


# ---------------------------------------------------------------- modules


def mesh_of(trainer: ConvnetTrainer) -> Any:
    """Return the mesh over which a trainer's modules are in shards, else None."""
    ranks = trainer._run_state.ranks
    return None if ranks is None else ranks.mesh


def are_in(trainer: ConvnetTrainer) -> bool:
    """Return whether a trainer's modules are in shards."""
    return mesh_of(trainer) is not None


def wanted(trainer: ConvnetTrainer) -> bool:
    """Return whether the modules of a trainer that learn are to be in shards."""
    return trainer._strategy == "fsdp" and process_group.several()


def make_mesh(trainer: ConvnetTrainer) -> Any:
    """Return the mesh of all ranks for a trainer whose modules are to be in shards, else None."""
    if not wanted(trainer):
        return None
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(trainer.device.type, (process_group.world_size(),))


def is_module(module: Any) -> bool:
    """Return whether a module is in shards: all of it is, or nothing."""
    return is_a(module, nn.Module) and is_sharded(next(module.parameters(), None))


def check_module(trainer: ConvnetTrainer, name: str, module: nn.Module) -> None:
    """Raise a ConfigError for a module in shards of which a hook has replaced a part, whose gradients nobody sums."""
    new = [key for key, parameter in module.named_parameters() if not is_sharded(parameter)]
    if new:
        raise ConfigError(
            f"{type(trainer).__name__}: self.{name} is in shards, and {len(new)} of its parameters have been replaced "
            f"since, the first is {new[0]}. Build all of it in build_model."
        )


def class_of(module: Any) -> type:
    """Return the class of a module before it was put in shards: PyTorch makes a new one of it."""
    kind = type(module)
    return kind.__mro__[2] if hasattr(kind, "set_requires_gradient_sync") else kind


def shard_module(trainer: ConvnetTrainer, ranks: Ranks, name: str, module: nn.Module) -> nn.Module:
    """Put a module in shards, with the values of rank 0, and tell the optimizers its new parameters.

    Each outermost item of a ``ModuleList`` or ``Sequential`` that is large enough is a unit: its parameters are
    gathered and dropped together. The rest of the module is one unit more.

    Raises
    ------
    ConfigError
        For a module that cannot be in shards.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if not hasattr(FSDPModule, "set_custom_reduce_scatter"):
        raise ConfigError(f"_strategy = 'fsdp' needs a newer PyTorch than {torch.__version__}.")
    where = f"{type(trainer).__name__}: self.{name}"
    _check_module(where, module)
    for tensor in (*module.parameters(), *module.buffers()):
        dist.broadcast(tensor.detach(), src=0)
    before = dict(module.named_parameters(remove_duplicate=False))
    roots = _roots(module)
    for root in roots:
        forward_methods(root)
    for unit in [*(unit for root in roots for unit in _units(root)), *roots]:
        # The rest too is dropped after each forward pass: nobody has to know whether one has been made.
        sharded = fully_shard(unit, mesh=ranks.mesh, reshard_after_forward=True)
        # Summed, not averaged: each rank counts by its share of the samples.
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
        sharded.set_custom_reduce_scatter(_WeightedSum(ranks))  # type: ignore[arg-type]
    module.to(trainer.device)  # buffers
    after = dict(module.named_parameters(remove_duplicate=False))
    new: dict[int, nn.Parameter] = {}
    for key, old in before.items():
        if new.setdefault(id(old), after[key]) is not after[key]:
            raise ConfigError(f"{where} uses the parameter {key} in two parts that no forward method joins.")
    _replace(trainer, new)
    return module


def _check_module(where: str, module: nn.Module) -> None:
    for key, parameter in module.named_parameters():
        if parameter.is_meta:
            raise ConfigError(f"{where} has a parameter without values, {key}. Build it on the CPU.")
        if parameter.dim() == 0:
            raise ConfigError(
                f"{where} has the parameter {key} without a dimension, which ranks cannot divide. Give it one: "
                "torch.nn.Parameter(torch.ones(1))."
            )
    kinds = sorted({str(p.dtype) for p in module.parameters() if p.requires_grad})
    if len(kinds) > 1:
        raise ConfigError(f"{where} has parameters of {' and '.join(kinds)}; with shards they have to be of one kind.")


def _roots(module: nn.Module) -> list[nn.Module]:
    """Return the module, or the outermost ones in it that have a forward method."""
    if _runs(module):
        return [module]
    return [root for child in module.children() for root in _roots(child) if any(True for _ in root.parameters())]


def _runs(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward


def _units(module: nn.Module) -> list[nn.Module]:
    """Return the blocks of a module whose parameters are gathered by themselves."""
    uses: dict[int, int] = {}
    for _, parameter in module.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1

    def is_unit(block: nn.Module) -> bool:
        own: dict[int, int] = {}
        for _, parameter in block.named_parameters(remove_duplicate=False):
            own[id(parameter)] = own.get(id(parameter), 0) + 1
        # One that is used outside of the block too has to be gathered with the rest.
        apart = all(uses[key] == count for key, count in own.items())
        return apart and _runs(block) and sum(p.numel() for p in block.parameters()) >= SMALLEST_UNIT

    def blocks(part: nn.Module) -> Iterator[nn.Module]:
        for child in part.children():
            if isinstance(part, (nn.ModuleList, nn.Sequential)) and is_unit(child):
                yield child
            else:
                yield from blocks(child)

    return list(dict.fromkeys(blocks(module)))


def _replace(trainer: ConvnetTrainer, new: Mapping[int, nn.Parameter]) -> None:
    """Let the optimizers of a trainer step the parameters in shards."""
    for part in inventory.take(trainer).optimizers:
        optimizer = part.value
        if is_a(optimizer, torch.optim.LBFGS):
            raise ConfigError(
                f"{type(trainer).__name__}: LBFGS and _strategy = 'fsdp' do not go together: it makes one vector "
                "of all parameters. Take another optimizer."
            )
        for group in param_groups(optimizer):
            group["params"][:] = [new.get(id(p), p) for p in group["params"]]
        state = attribute(optimizer, "state")
        if not is_a(state, dict):  # of an optimizer of another kind
            continue
        for old in [p for p in state if id(p) in new]:
            target = new[id(old)]
            entries = state.pop(old)
            state[target] = {key: like(entry, target) for key, entry in entries.items()}


class _WeightedSum:
    """How FSDP2 sums the gradients of all ranks, each by its share of the samples: its ``ReduceScatter``."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False) -> Any:
        self.ranks.weigh(input_tensor)
        return dist.reduce_scatter_tensor(output_tensor, input_tensor, op, group, async_op)
