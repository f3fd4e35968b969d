"""Requests that wait for a worker, and how batches are made of them. Knows no processes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from .payloads import error_body
from .worker import Item, Result

RESOLUTION = 0.001  # seconds by which timers of the event loop ring late, never early


class PendingRequest:
    """One request on its way: its items, their results so far, and the future that its client waits on.

    Parameters
    ----------
    items : list
    on_done : callable
        Called when the future has a result or the client has gone; twice where it goes meanwhile.
    """

    __slots__ = ("arrived", "deaths", "done", "items", "left", "on_done", "results", "taken")

    def __init__(self, items: list[Item], on_done: Callable[[PendingRequest], None]) -> None:
        self.items = items
        self.on_done = on_done
        self.results: list[Result | None] = [None] * len(items)
        self.left = len(items)
        self.taken = 0  # items that were given to workers
        self.deaths = 0  # workers that died with it
        self.arrived = time.monotonic()
        self.done: asyncio.Future[list[Result]] = asyncio.get_running_loop().create_future()

    def put(self, start: int, results: list[Result]) -> None:
        """Take the results of some items; an error among them is the answer of the whole request."""
        if self.done.done():
            return
        for index, result in enumerate(results, start):
            if result[0] == "error":
                self._end([result])
                return
            self.results[index] = result
        self.left -= len(results)
        if self.left == 0:
            self._end([result for result in self.results if result is not None])

    def refuse(self, status: int, text: str) -> None:
        """Answer the whole request with an error."""
        self._end([("error", status, error_body(text), "")])

    def abandon(self) -> None:
        """Forget the request: its client has gone."""
        self.done.cancel()
        self.on_done(self)

    def _end(self, results: list[Result]) -> None:
        if not self.done.done():
            self.done.set_result(results)
            self.on_done(self)


@dataclass
class Slice:
    """Neighbouring items of one request that are in one batch."""

    job: PendingRequest
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def items(self) -> list[Item]:
        """The items themselves."""
        return self.job.items[self.start : self.stop]


@dataclass
class Waiting:
    """The requests that wait, the oldest first, and the batches that are made of them.

    Parameters
    ----------
    max_batch : int
        Items in a batch.
    timeout : float
        Seconds that the oldest request waits for others.
    """

    max_batch: int
    timeout: float
    count: int = 0  # items that wait
    _jobs: dict[PendingRequest, None] = field(default_factory=dict)
    _alone: deque[Slice] = field(default_factory=deque)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, job: PendingRequest) -> None:
        """Let a request wait for its turn."""
        self._jobs[job] = None
        self.count += len(job.items)
        self._news.set()

    def add_alone(self, part: Slice) -> None:
        """Let items go next, in a batch of their own: they were in one that could not be answered."""
        self._alone.append(part)
        self.count += len(part)
        self._news.set()

    def drop(self, job: PendingRequest) -> None:
        """Forget what waits of a request that has its answer, or whose client has gone."""
        if job in self._jobs:
            del self._jobs[job]
            self.count -= len(job.items) - job.taken
        if self._alone:
            kept = deque(part for part in self._alone if part.job is not job)
            self.count -= sum(map(len, self._alone)) - sum(map(len, kept))
            self._alone = kept

    def everything(self) -> list[PendingRequest]:
        """Return the requests that wait."""
        return [*self._jobs, *(part.job for part in self._alone)]

    async def batch(self, free_since: float, way: float) -> list[Slice]:
        """Wait for a batch: full, or what there is when the oldest request has waited for the timeout.

        Parameters
        ----------
        free_since : float
            When the worker that gets it became free, by ``time.monotonic()``: for a request that comes soon after, the
            timeout counts from there. Who asks again and again is not kept longer than the timeout each time.
        way : float
            Seconds that a batch takes to the worker; it leaves so much earlier.
        """
        while True:
            if self._alone:
                self.count -= len(self._alone[0])
                return [self._alone.popleft()]
            left = None
            if self._jobs:
                arrived = next(iter(self._jobs)).arrived
                begun = free_since if free_since <= arrived < free_since + self.timeout else arrived
                left = begun + self.timeout - way - RESOLUTION - time.monotonic()
                if self.count >= self.max_batch or left <= 0:
                    return self._take()
            await self._news_or(left)

    async def _news_or(self, seconds: float | None) -> None:
        self._news.clear()
        timer = asyncio.get_running_loop().call_later(seconds, self._news.set) if seconds is not None else None
        await self._news.wait()
        if timer:
            timer.cancel()

    def _take(self) -> list[Slice]:
        batch: list[Slice] = []
        room = self.max_batch
        while room and self._jobs:
            job = next(iter(self._jobs))
            part = Slice(job, job.taken, min(job.taken + room, len(job.items)))
            job.taken = part.stop
            room -= len(part)
            self.count -= len(part)
            batch.append(part)
            if job.taken == len(job.items):
                del self._jobs[job]
        return batch
