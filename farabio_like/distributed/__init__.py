"""Several processes: their group, and how modules, loaders and requests are shared out among them.

The functions of the group are handed on here: outside of ``torchrun`` they are those of one process. Processes
are started, and started again, by ``torchrun``. Metrics of several ranks are in `metrics.across_ranks`, files of
shards in `checkpoint.sharded`.
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
