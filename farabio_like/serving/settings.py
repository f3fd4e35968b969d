"""The settings of a service, checked when they are made. `farabio-like serve` has an option for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError
from .predictor import MAX_PIXELS


@dataclass(frozen=True)
class ServeSettings:
    """What a service is told.

    Parameters
    ----------
    host : str
    port : int
        0 lets the system choose; the first line printed says which.
    workers : int
        Processes with a model each.
    max_batch : int
        Items that are predicted together at most.
    timeout : float
        Seconds that the first request of a batch waits for others; 0 for none.
    token : str or None
        Clients must send ``Authorization: Bearer TOKEN``.
    max_body : int
        Bytes of a request.
    max_pixels : int
        Pixels of a picture.
    max_waiting : int
        Items that wait for a worker; further requests get 429.
    max_seconds : float
        A request that has no answer after this time gets 503.
    time_limit : float or None
        A batch that takes longer ends its worker. None: no limit.
    drain : float
        Seconds from SIGTERM until the port closes; ``/ready`` says 503 meanwhile.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` (the workers are shared out among the GPUs), or one as ``"cuda:1"``.
    threads : int or None
        Threads of torch in each worker. None: 1 where there are several workers, else torch's own choice.
    queue : str or None
        Where messages are taken from too: ``amqp://...``, or ``memory://NAME`` within this process.
    queue_name : str
        Of the queue there.
    prefetch : int or None
        Messages that are under way at once. None: four batches for each worker.

    Raises
    ------
    ConfigError
        For a value that is not allowed.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    max_batch: int = 8
    timeout: float = 0.02
    token: str | None = field(default=None, repr=False)
    max_body: int = 32 * 2**20
    max_pixels: int = MAX_PIXELS
    max_waiting: int = 1024
    max_seconds: float = 60.0
    time_limit: float | None = None
    drain: float = 0.0
    device: str = "auto"
    threads: int | None = None
    queue: str | None = None
    queue_name: str = "predict"
    prefetch: int | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "max_batch", "max_body", "max_pixels", "max_waiting"):
            self._check(name, int, self.__dict__[name], 1)
        self._check("port", int, self.port, 0, 65535)
        self._check("timeout", float, self.timeout, 0)
        self._check("drain", float, self.drain, 0)
        self._check("max_seconds", float, self.max_seconds, 1e-3)
        if self.time_limit is not None:
            self._check("time_limit", float, self.time_limit, 1e-3)
        if self.threads is not None:
            self._check("threads", int, self.threads, 1)
        if self.prefetch is not None:
            self._check("prefetch", int, self.prefetch, 1, 65535)
        if self.queue is not None and not str(self.queue).startswith(("amqp://", "amqps://", "memory://")):
            raise ConfigError(f"queue is {self.queue!r}; expected amqp://user:password@host:5672/ or memory://NAME.")
        if self.token is not None and not (isinstance(self.token, str) and self.token.strip() and self.token.isascii()):
            raise ConfigError("token is empty or not ASCII; expected a secret, or no token at all.")

    def _check(self, name: str, kind: type, value: Any, least: float, most: float | None = None) -> None:
        kinds = (int,) if kind is int else (int, float)
        allowed = f"{least} or more" if most is None else f"{least} to {most}"
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise ConfigError(f"{name} is {value!r}; expected a number, {allowed}.")
        if not (least <= value and (most is None or value <= most) and value < float("inf")):
            raise ConfigError(f"{name} is {value!r}; expected {allowed}.")
