"""Tensors in shards: a rank's part, the whole, and a whole tensor in the shards of another one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

# ---------------------------------------------------------------- tensors


def is_sharded(value: Any) -> bool:
    """Return whether a tensor is in shards."""
    return hasattr(type(value), "full_tensor")  # a DTensor; its class is slow to import for those who have none


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor, sharing its memory; all of one that is not in shards."""
    return tensor.detach().to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def like(value: Any, target: Any) -> Any:
    """Return a whole tensor in the shards of `target`, where that has the same shape and is in shards."""
    if not is_sharded(target) or is_sharded(value) or not isinstance(value, Tensor) or value.shape != target.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    # Every rank has all of it, so nothing is sent.
    return distribute_tensor(value.to(target.device), target.device_mesh, target.placements, src_data_rank=None)


def with_local(tensor: Tensor, part: Tensor) -> Tensor:
    """Return a tensor as `tensor` is in shards, of which this is a rank's part; the part where it is in none."""
    if not is_sharded(tensor):
        return part
    from torch.distributed.tensor import DTensor

    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=tensor.shape, stride=tensor.stride())


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with the parts of all ranks, which all have to call it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
