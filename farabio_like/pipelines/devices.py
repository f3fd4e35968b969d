"""The devices of a machine, given to the tasks that run at the same time."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from .dagfile import Dag, Task


@dataclass(frozen=True)
class Share:
    """What a task has while it runs.

    Attributes
    ----------
    gpus : tuple of str
        As in ``CUDA_VISIBLE_DEVICES``.
    memory : float
        In GB.
    """

    gpus: tuple[str, ...]
    cpus: int
    memory: float


@dataclass
class DevicePool:
    """GPUs, cores and memory (GB) that are free.

    Parameters
    ----------
    gpus : list of str
    cpus : int
    memory : float
    """

    gpus: list[str]
    cpus: int
    memory: float
    total: Share = field(init=False)

    def __post_init__(self) -> None:
        self.total = Share(tuple(self.gpus), self.cpus, self.memory)

    def check(self, dag: Dag) -> None:
        """Raise a ConfigError for a task that asks for more than there is."""
        for task in dag.tasks.values():
            for key, asked, there in (
                ("gpu", task.gpu[0], len(self.total.gpus)),
                ("cpu", task.cpu, self.total.cpus),
                ("memory", task.memory, round(self.total.memory, 1)),
            ):
                if asked > there:
                    said = f"'{task.name}' asks for {key}: {asked:g}, but this machine has {there:g}"
                    raise dag.source.error(f"{said}{' GB' * (key == 'memory')}.", "executors", task.name, key)

    def take(self, task: Task) -> Share | None:
        """Return the share of a task, None where too little is free."""
        fewest, most = task.gpu
        if len(self.gpus) < fewest or self.cpus < task.cpu or self.memory < task.memory:
            return None
        gpus = tuple(self.gpus[:most])
        del self.gpus[: len(gpus)]
        self.cpus -= task.cpu
        self.memory -= task.memory
        return Share(gpus, task.cpu, task.memory)

    def lacks(self, task: Task) -> set[str]:
        """Return what there is too little of for a task."""
        lack = {"gpu": len(self.gpus) < task.gpu[0], "cpu": self.cpus < task.cpu, "memory": self.memory < task.memory}
        return {key for key, missing in lack.items() if missing}

    def give_back(self, share: Share) -> None:
        """Make a share free again."""
        self.gpus += share.gpus
        self.gpus.sort(key=self.total.gpus.index)
        self.cpus += share.cpus
        self.memory += share.memory


def here() -> DevicePool:
    """Return what this process may use of the machine."""
    return DevicePool(_gpus(), _cpus(), _memory())


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9


def _gpus() -> list[str]:
    """Return the GPUs as the driver's own tool lists them: asking torch would take its import, and memory of each."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [each.strip() for each in visible.split(",") if each.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"nvidia-smi -L, which lists the GPUs, failed: {error}.") from None
    return [str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU")]
