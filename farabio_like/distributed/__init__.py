"""Several processes: their group, and how modules, loaders and requests are shared out among them.

The functions of the group are handed on here: outside of ``torchrun`` they are those of one process. Started
processes and elastic restarts are ``torchrun``'s own.
"""

from .process_group import (
    broadcast_object,
    control,
    failed,
    from_main,
    gather_objects,
    gather_on_main,
    is_main,
    job,
    launched,
    own_device,
    rank,
    reduce_sums,
    restarts,
    several,
    start,
    starts_again,
    store,
    world_size,
)

__all__ = [
    "broadcast_object",
    "control",
    "failed",
    "from_main",
    "gather_objects",
    "gather_on_main",
    "is_main",
    "job",
    "launched",
    "own_device",
    "rank",
    "reduce_sums",
    "restarts",
    "several",
    "start",
    "starts_again",
    "store",
    "world_size",
]
