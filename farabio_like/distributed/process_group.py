"""The processes that ``torchrun`` has started: their group, who is who, and what they tell each other.

Outside of ``torchrun`` every function here is that of one process: rank 0 of 1, and nothing is ever sent.
Objects travel over a group of their own (gloo, on the CPU), so they never mix with the gradients'.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import pickle
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ..errors import ConfigError

T = TypeVar("T")
_control: Any = None  # the group over which objects travel
_store: Any = None  # what all ranks can read and write at any time
_failed = False  # this process ends by an exception: it waits for nobody


def launched() -> bool:
    """Return whether ``torchrun`` (or anything else that sets its variables) has started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))


def rank() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ["RANK"]) if launched() else 0


def world_size() -> int:
    """Return the number of processes that train together."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def is_main() -> bool:
    """Return whether this is the one process that prints and writes files."""
    return rank() == 0


def restarts() -> int:
    """Return how often ``torchrun`` has restarted its processes after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) if launched() else 0


def starts_again() -> bool:
    """Return whether ``torchrun`` will restart its processes after a failure."""
    return launched() and restarts() < int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))


def job() -> str | None:
    """Return what ``torchrun`` calls this job, the same after a restart."""
    return os.environ.get("TORCHELASTIC_RUN_ID") if launched() else None


def several() -> bool:
    """Return whether there is a group of more than one process."""
    return _control is not None and world_size() > 1


def own_device(asked: Any) -> Any:
    """Return the device of this process for the setting ``_device``: the GPU of its local rank, or the CPU.

    Raises
    ------
    ConfigError
        If a GPU is asked for by its number, or there is none left for this process.
    """
    if not launched():
        return asked
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    name = str(asked)
    if name == "cuda" and torch.cuda.is_available():
        local, visible = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= visible:
            raise ConfigError(
                f"torchrun started {os.environ.get('LOCAL_WORLD_SIZE', 'more')} processes here, but torch sees "
                f"{visible} CUDA devices. Start one process per device: torchrun --nproc-per-node {visible}."
            )
        torch.cuda.set_device(local)
        return torch.device("cuda", local)
    if name.startswith("cuda:") and world_size() > 1:
        raise ConfigError(f"_device is {name!r}: under torchrun every process takes its own. Write _device = 'auto'.")
    return asked


def start(asked: Any, timeout: float | None) -> None:
    """Join the other processes, unless that is done; other ranks than 0 fall silent.

    Parameters
    ----------
    asked : Any
        The setting ``_device``, as `own_device` gives it.
    timeout : float or None
        Seconds after which a rank that waits for another one gives up; None is PyTorch's own limit.
    """
    global _control, _store
    if not launched() or _control is not None:
        return
    limit: dict[str, Any] = {} if timeout is None else {"timeout": timedelta(seconds=float(timeout))}
    if dist.is_initialized():
        base, _, _ = next(dist.rendezvous("env://", **limit))
        _store = dist.PrefixStore("farabio_like", base)
    else:
        # What a group that was broken off has left in the store is not for the group that follows it.
        base, own_rank, ranks = next(dist.rendezvous("env://", **limit))
        _store = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", base)
        backend = "cpu:gloo,cuda:nccl" if torch.device(asked).type == "cuda" else "gloo"
        dist.init_process_group(backend, store=_store, rank=own_rank, world_size=ranks, **limit)
        atexit.register(_leave)
    _control = dist.new_group(backend="gloo", **limit)
    if not is_main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (it stays until the process ends)
        if not sys.warnoptions:
            warnings.simplefilter("ignore")


def _leave() -> None:
    """Leave the group at the end of the process, together with the others."""
    global _control
    if _failed or not dist.is_initialized():
        return
    with contextlib.suppress(Exception):  # a rank that has died ends nothing here
        dist.barrier(group=_control)
    _control = None
    gc.collect()  # models hold on to the group
    dist.destroy_process_group()


def gather_objects(value: T) -> list[T]:
    """Return the value of every rank, by rank; all ranks have to call it."""
    if not several():
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value, group=_control)
    return found


def gather_on_main(value: T) -> list[T]:
    """Return the value of every rank, by rank, on rank 0 alone, nothing on the others; all ranks have to call it."""
    if not several():
        return [value]
    found: list[Any] = [None] * world_size() if is_main() else []
    dist.gather_object(value, found or None, dst=0, group=_control)
    return found


def broadcast_object(value: T) -> T:
    """Return the value of rank 0; all ranks have to call it."""
    if not several():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_control)
    return box[0]


def from_main(function: Callable[[], T]) -> T:
    """Call a function on rank 0 alone; every rank returns what it returned, or raises what it raised."""
    if not several():
        return function()
    answer: tuple[Any, Exception | None] = (None, None)
    if is_main():
        try:
            answer = (function(), None)
        except Exception as error:
            broadcast_object((None, _sendable(error)))
            raise
    value, raised = broadcast_object(answer)
    if raised is not None:
        raise raised
    return value


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class does there
        return RuntimeError(f"rank 0: {type(error).__name__}: {error}")
    return error


def reduce_sums(values: list[float]) -> list[float]:
    """Return the sums of the values over all ranks, in double precision; all ranks have to call it."""
    if not several():
        return values
    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums, group=_control)
    return sums.tolist()


def barrier() -> None:
    """Wait until every rank is here."""
    if several():
        dist.barrier(group=_control)


def control() -> Any:
    """Return the group over which objects travel, None in one process."""
    return _control


def store() -> Any:
    """Return what every rank can write to and read from without the others taking part."""
    return _store


def raise_failure() -> None:
    """Raise a RuntimeError if another rank has failed."""
    if _store.check(["failure"]):
        raise RuntimeError(f"another rank has failed: {_store.get('failure').decode()}")


def failed(error: BaseException) -> None:
    """Note that this process ends by an exception; on a rank that only follows another one, say which it was."""
    global _failed
    if not several() or _failed or isinstance(error, (KeyboardInterrupt, SystemExit)):  # all ranks end by a signal
        return
    _failed = True
    with contextlib.suppress(Exception):  # the store may be gone with its process
        line = traceback.format_exception_only(error)[-1].strip()
        own = f"rank {rank()}: {line}"
        first = _store.compare_set("failure", "", own).decode() if _store is not None else own
        if first != own:
            print(f"rank {rank()} ends, because of the first failure, of {first}", file=sys.stderr, flush=True)
