"""The modules of a trainer under ``torchrun``: wrapped so that every step averages the gradients over the ranks.

Those of which each rank has a part only are made in `fsdp`.
"""

import math
from collections.abc import MutableMapping
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from .. import components
from ..components import dtensor, inventory
from ..components.inventory import Part
from ..errors import ConfigError, HookError
from . import fsdp, process_group
from .forward_methods import Forwarded
from .ranks import Ranks

if TYPE_CHECKING:
    from ..trainer import ConvnetTrainer


class Replica(DistributedDataParallel):
    """A module of which every rank has a copy, and whose gradients are averaged by samples in every backward pass.

    What the wrapper has not, the module inside is asked for; a method of it that is called from outside runs as the
    wrapper's forward does, so that its gradients are averaged too.

    Parameters
    ----------
    module : nn.Module
    ranks : Ranks
    device : torch.device
    in_parts : bool
        A backward pass may reach some of its parameters only, as those of a GAN in one module do.
    """

    def __init__(self, module: nn.Module, ranks: Ranks, device: torch.device, in_parts: bool) -> None:
        self._build(module, device, in_parts, init_sync=True)
        vars(self)["ranks"] = ranks

    def _build(self, module: nn.Module, device: torch.device, in_parts: bool, init_sync: bool) -> None:
        super().__init__(
            module,
            device_ids=[device.index] if device.type == "cuda" else None,
            find_unused_parameters=in_parts,
            init_sync=init_sync,
        )
        # Not in every forward pass, which evaluations and several passes per step could not bear: see sync_buffers.
        self.broadcast_buffers = False
        self.register_comm_hook(self, _weighted_sum)
        self.learning = _learning(module)

    def follow_module(self) -> None:
        """Average the gradients of the parameters that learn now: some may have been frozen or replaced since."""
        learning = _learning(self.module)
        if learning != self.learning and any(learning.values()):
            as_module = {name: vars(self)[name] for name in vars(nn.Module())}  # its hooks and flag
            replaced = learning.keys() != self.learning.keys()
            self._build(self.module, self.device, self.find_unused_parameters, init_sync=replaced)
            vars(self).update(as_module)

    def __setattr__(self, name: str, value: Any) -> None:
        """Give the module inside what a script sets of it, once this is built: its forward looks there."""
        from_outside = "learning" in vars(self) and name not in vars(self) and name != "module"
        if from_outside and (isinstance(value, (nn.Module, nn.Parameter)) or hasattr(self.module, name)):
            setattr(self.module, name, value)
        else:
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            module = self.__dict__.get("_modules", {}).get("module")
            if module is None:
                raise
        found = getattr(module, name)
        if isinstance(found, MethodType) and found.__self__ is module:
            return Forwarded(self, found)
        return found


def _learning(module: nn.Module) -> dict[int, bool]:
    """Return which parameters there are, and which of them learn."""
    return {id(parameter): parameter.requires_grad for parameter in module.parameters()}


def _weighted_sum(replica: Replica, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Sum the gradients of all ranks, each by its share of the samples."""
    gradients = bucket.buffer()
    replica.ranks.weigh(gradients)
    work = dist.all_reduce(gradients, async_op=True)
    return work.get_future().then(_first)


def _first(future: Any) -> Any:
    return future.value()[0]


def replicate(trainer: "ConvnetTrainer") -> None:
    """Wrap every module of a trainer that learns, or put it in shards, and give the others rank 0's values.

    What is wrapped, or in shards, stays. Called after the model is built, and before the batches of every epoch, for
    what hooks have built or frozen since.

    Raises
    ------
    ConfigError
        For a module without shapes yet, and for parameters outside of any module.
    """
    state = trainer._run_state
    if not process_group.several():
        return
    if state.ranks is None:
        state.ranks = Ranks()
        state.ranks.mesh = fsdp.make_mesh(trainer)
        if process_group.rank():  # not the same dropout on every rank
            torch.manual_seed((torch.initial_seed() + process_group.rank()) % 2**63)
    parallel = _parallel(trainer)
    replicas = [part for part in parallel if isinstance(part, Replica)]
    for replica in replicas:
        replica.follow_module()
    covered = {id(p) for part in parallel for p in part.parameters()}
    wrapped: dict[int, nn.Module] = {id(replica.module): replica for replica in replicas}
    # The model first: another attribute may be a part of it.
    order = {"model": 0, "criterion": 1}
    for part in sorted(inventory.take(trainer).modules, key=lambda part: order.get(part.attribute, 2)):
        # One that stands in several places is one in all of them afterwards, too.
        if id(part.value) not in wrapped:
            wrapped[id(part.value)] = _wrapped(trainer, state.ranks, part.where, part.value, covered)
        _put(vars(trainer), part, wrapped[id(part.value)])
    _check_optimizers(trainer, covered)


def _put(own: dict[str, Any], part: Part, module: nn.Module) -> None:
    """Put what wraps a module in its place, unless that holds a proxy of it, or cannot be written to."""
    value = own[part.attribute]
    here = value[part.keys[0]] if part.keys else value
    if module is part.value or here is not part.value:
        return
    if not part.keys:
        own[part.attribute] = module
        return
    (key,) = part.keys
    if isinstance(value, (list, MutableMapping)):
        value[key] = module
    elif type(value) is tuple:
        own[part.attribute] = (*value[:key], module, *value[key + 1 :])
    elif hasattr(type(value), "_make"):  # a named tuple
        own[part.attribute] = value._make((*value[:key], module, *value[key + 1 :]))


def _parallel(trainer: "ConvnetTrainer") -> list[nn.Module]:
    """Return the modules that are replicas, or in shards, each once."""
    modules = (part.value for part in inventory.once(inventory.take(trainer).modules))
    return [module for module in modules if isinstance(module, Replica) or fsdp.is_module(module)]


def _wrapped(trainer: "ConvnetTrainer", ranks: Ranks, name: str, module: nn.Module, covered: set[int]) -> nn.Module:
    parameters = list(module.parameters())
    if fsdp.is_module(module):
        fsdp.check_module(trainer, name, module)
    done = isinstance(module, DistributedDataParallel) or fsdp.is_module(module)
    if done or (parameters and all(id(p) in covered for p in parameters)):
        return module
    if any(components.is_lazy(p) for p in parameters):
        raise ConfigError(
            f"{type(trainer).__name__}: self.{name} has parameters without a shape yet, which ranks cannot share. "
            "Run one batch through it in build_model."
        )
    if not any(p.requires_grad for p in parameters):
        for tensor in module.state_dict().values():
            if isinstance(tensor, Tensor):
                dist.broadcast(tensor, src=0)
        covered.update(id(p) for p in parameters)
        return module
    if trainer._sync_batchnorm and trainer.device.type == "cuda":
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    elif trainer._sync_batchnorm:
        trainer._run_state.console.once(
            "_sync_batchnorm is set, but works on CUDA only: each process normalises over its own part of a batch"
        )
    if ranks.mesh is not None:
        module = fsdp.shard_module(trainer, ranks, name, module)
    else:
        optimizers = [_held(optimizer) for optimizer in components.each(trainer.optimizer)]
        in_parts = sum(any(id(p) in held for p in parameters) for held in optimizers) > 1
        module = Replica(module.to(trainer.device), ranks, trainer.device, in_parts)
    covered.update(id(p) for p in module.parameters())
    return module


def _held(optimizer: Any) -> set[int]:
    """Return the identities of the parameters of an optimizer."""
    return {id(p) for p in components.parameters_of(optimizer)}


def _check_optimizers(trainer: "ConvnetTrainer", covered: set[int]) -> None:
    for where, optimizer in components.named(trainer.optimizer, "self.optimizer"):
        stray = len(_held(optimizer) - covered)
        if stray:
            raise ConfigError(
                f"{type(trainer).__name__}: {stray} parameters of {where} are in no module of this trainer, so the "
                "ranks cannot average their gradients. Make them parameters of self.model."
            )


def average_next(trainer: "ConvnetTrainer", closes: bool, weigh: bool) -> None:
    """Have the next backward pass sum the gradients of all ranks, or keep its own until a window closes."""
    ranks = trainer._run_state.ranks
    assert ranks is not None
    if not weigh:
        ranks.weight = 1.0  # each loss of a window was weighted by itself
    for module in _parallel(trainer):
        # Gradients in shards are summed each time: gathered whole, they would take the memory that shards save.
        if isinstance(module, Replica):
            # One that is frozen, a discriminator while its generator learns, would wait for gradients that never come,
            # and send those of the next backward pass, which may have to gather on.
            module.require_backward_grad_sync = closes and any(p.requires_grad for p in module.parameters())


def sum_gradients(parameters: list[nn.Parameter]) -> None:
    """Sum what the ranks have gathered in a window that was not known to be the last one."""
    for parameter in parameters:
        if parameter.requires_grad and not dtensor.is_sharded(parameter):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)


def check_weights(trainer: "ConvnetTrainer") -> None:
    """After a training pass: compare the weights of all ranks. All of them have to call it.

    Raises
    ------
    HookError
        Where they have drifted apart, because some gradients were never averaged.
    """
    replicas = [module for module in _parallel(trainer) if isinstance(module, Replica)]
    named = [pair for replica in replicas for pair in replica.module.named_parameters()]
    norms = torch._foreach_norm([p.detach() for _, p in named]) if named else []
    everywhere = process_group.gather_objects([norm.item() for norm in norms])
    for (name, _), *of_ranks in zip(named, *everywhere, strict=True):
        # Not to the last bit, which different kinds of GPU may compute differently.
        if all(math.isfinite(norm) for norm in of_ranks) and max(of_ranks) - min(of_ranks) > 1e-5 * max(of_ranks):
            raise HookError(
                f"{type(trainer).__name__}: after epoch {trainer._epoch} the ranks have different weights, first in "
                f"{name}: its gradients were not averaged. If training_step calls a part of the model, "
                "self.model.decoder(x) say, write a method of the model that does it, and call that, or make "
                "self.model a dict of its parts. Freeze and unfreeze parameters in on_train_epoch_start, not later."
            )


def sync_buffers(trainer: "ConvnetTrainer") -> None:
    """Give all ranks the same buffers: the mean of the ranks' batch statistics, else those of rank 0."""
    for module in map(components.unwrap, _parallel(trainer)):
        averaged = {
            id(buffer)
            for part in module.modules()
            if isinstance(part, _NormBase)
            for buffer in (part.running_mean, part.running_var)
            if buffer is not None
        }
        for buffer in module.buffers():
            if id(buffer) in averaged:
                dist.all_reduce(buffer)
                buffer.div_(process_group.world_size())
            else:
                dist.broadcast(buffer, src=0)
