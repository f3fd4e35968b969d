"""Worker processes and what happens to them: started, fed with batches, timed, replaced, ended.

Knows neither HTTP nor the queue: whoever has items calls `Pool.submit`.
"""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
import pickle
import socket
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from ..errors import FarabioError
from .jobs import PendingRequest, Slice, Waiting
from .predictor import Predictor, RequestError
from .settings import ServeSettings
from .worker import LENGTH, Item, Result, framed, work

MOST_RESTARTS = 5  # in a row, with no batch answered in between
LONGEST_WAY = 0.002  # seconds by which a batch leaves earlier, so that it is there in time
PATIENCE = 5.0  # seconds for a worker to end when it is told to


class ServiceError(FarabioError, RuntimeError):
    """The service cannot go on: its workers cannot be set up, or die again and again."""


class WorkerProcess:
    """One process and the pipe to it.

    Parameters
    ----------
    make : callable
        Returns the predictor; sent to the process.
    index : int
    settings : ServeSettings
    """

    def __init__(self, make: Callable[[], Predictor], index: int, settings: ServeSettings) -> None:
        self.make = make
        self.index = index
        self.settings = settings
        self.process: BaseProcess | None = None
        self.ready = False
        self.late = False  # ended by us: the batch took too long
        self.batch: list[Slice] = []
        self.free_since = 0.0  # by the clock of all processes, time.monotonic()
        self.way = 0.0  # seconds that the last batch took to arrive
        self.deaths = 0  # in a row
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sent = 0.0

    async def start(self) -> tuple[int | None, bool]:
        """Start the process, wait until its predictor has set up, and return which arrays it takes.

        Raises
        ------
        ServiceError
            Where the predictor's setup raised.
        EOFError
            Where the process died.
        """
        ours, theirs = socket.socketpair()
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=2**20)
        threads = self.settings.threads or (1 if self.settings.workers > 1 else None)
        arguments = (self.make, theirs, device_of(self.settings.device, self.index), self.settings.max_pixels, threads)
        self.late = False
        self.process = context().Process(
            target=work, args=arguments, name=f"farabio-like-worker-{self.index}", daemon=True
        )
        starting = asyncio.get_running_loop().run_in_executor(None, self.process.start)
        try:
            await asyncio.shield(starting)
        finally:
            if not starting.done():  # cancelled: a process that is being made cannot be left alone
                await asyncio.wait({starting})
            theirs.close()
        kind, what = await self._receive()
        if kind == "broken":
            raise ServiceError(f"the predictor cannot be set up: {what}")
        self.ready = True
        return what

    def send(self, batch: list[Slice]) -> None:
        """Give a batch to the process; `results` returns what it says to it."""
        assert self._writer is not None
        message = framed([part.items for part in batch])
        self.batch, self._sent = batch, time.monotonic()
        self._writer.write(message)
        self._time()

    async def results(self) -> list[list[Result]]:
        """Wait for the results of the batch that is sent next; past the time limit the process is ended.

        Raises
        ------
        EOFError
            Where the process died, with a batch or without, or was ended.
        """
        try:
            while (message := await self._receive())[0] != "done":
                self._time()  # request by request now
        finally:
            if self._timer:
                self._timer.cancel()
        _, results, came, self.free_since = message
        self.way = min(max(came - self._sent, 0.0), LONGEST_WAY)
        return results

    def _time(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self.settings.time_limit:
            self._timer = asyncio.get_running_loop().call_later(self.settings.time_limit, self._end_late)

    async def _receive(self) -> Any:
        assert self._reader is not None
        try:
            header = await self._reader.readexactly(LENGTH.size)
            return pickle.loads(await self._reader.readexactly(*LENGTH.unpack(header)))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise EOFError(f"worker {self.index} has gone") from error

    def _end_late(self) -> None:
        self.late = True
        self.kill()

    def kill(self) -> None:
        """End the process at once."""
        if self.process is not None and self.process.pid is not None:
            self.process.kill()

    async def end(self, seconds: float) -> None:
        """Close the pipe, and wait until the process has ended; it is killed after some seconds."""
        self.ready = False
        if self._writer is not None:
            self._writer.close()
            self._reader = self._writer = None
        if self.process is not None and self.process.pid is not None:
            await asyncio.get_running_loop().run_in_executor(None, _ended, self.process, seconds)
        self.process = None


def _ended(process: BaseProcess, seconds: float) -> None:
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    process.close()


@functools.cache
def context() -> Any:
    """Return how processes are made: forked from a clean one that has imported this package already."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["farabio_like.serving.worker"])
    return found


def end_forkserver() -> None:
    """End the process that workers were forked from, where nothing else of this process uses it any more."""
    stop = getattr(getattr(forkserver, "_forkserver", None), "_stop", None)
    if stop is not None:
        stop()


def device_of(device: str, index: int) -> str:
    """Return the device of a worker: with several GPUs each gets the next one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return f"cuda:{index % max(torch.cuda.device_count(), 1)}" if device == "cuda" else device


class Pool:
    """Workers that answer requests in batches.

    Parameters
    ----------
    make : callable
        Returns the predictor, in the worker: a class of the user's, say. It must be picklable.
    settings : ServeSettings
    restart_seconds : float
        Before the first restart; three times as long before each further one in a row.

    Attributes
    ----------
    counts : collections.Counter
        ``"batches"``, ``"items"``, ``"restarts"``, ``"abandoned"`` so far.
    failure : asyncio.Future
        Gets a ServiceError when the service cannot go on.
    """

    def __init__(self, make: Callable[[], Predictor], settings: ServeSettings, restart_seconds: float = 0.1) -> None:
        self.settings = settings
        self.restart_seconds = restart_seconds
        self.counts: Counter[str] = Counter()
        self.waiting = Waiting(settings.max_batch, settings.timeout)
        self.workers = [WorkerProcess(make, index, settings) for index in range(settings.workers)]
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.arrays: tuple[int | None, bool] = (None, False)  # as `payloads.samples_of` takes them
        self._jobs: set[PendingRequest] = set()
        self._set_up: set[int] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._free: dict[WorkerProcess, None] = {}  # the one that has been free for longest comes first
        self._is_free = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether every worker has set up once, and one is there now."""
        return len(self._set_up) == len(self.workers) and any(worker.ready for worker in self.workers)

    @property
    def under_way(self) -> int:
        """The number of requests without an answer."""
        return len(self._jobs)

    def start(self) -> None:
        """Start the workers; `ready` and `failure` say how it went."""
        self._tasks = [asyncio.create_task(self._keep(worker)) for worker in self.workers]
        self._tasks.append(asyncio.create_task(self._share_out()))
        self._tasks[-1].add_done_callback(self.fail_with)

    def submit(self, items: list[Item]) -> PendingRequest:
        """Take a request; its results are in ``job.done``.

        Raises
        ------
        RequestError
            413 for more items than may wait at all, 429 where too many wait already, 503 where no worker is left.
        """
        most = self.settings.max_waiting
        if self.failure.done():
            raise RequestError(503, "the service has failed; its log says why")
        if len(items) > most:
            raise RequestError(413, f"{len(items)} items in one request; {most} are allowed")
        if self.waiting.count + len(items) > most:
            raise RequestError(429, f"{self.waiting.count} items are waiting already; try again later")
        job = PendingRequest(items, self._forget)
        self._jobs.add(job)
        self.waiting.add(job)
        return job

    def abandon(self, job: PendingRequest) -> None:
        """Forget a request whose client has gone."""
        if job in self._jobs:
            self.counts["abandoned"] += 1
            job.abandon()

    def _forget(self, job: PendingRequest) -> None:
        self._jobs.discard(job)
        self.waiting.drop(job)

    async def _keep(self, worker: WorkerProcess) -> None:
        """Run one worker, and the next one in its place when it dies."""
        try:
            while True:
                await self._run(worker)
                worker.deaths += 1
                if worker.deaths >= MOST_RESTARTS:
                    raise ServiceError(
                        f"worker {worker.index} has died {worker.deaths} times in a row without an answer in between."
                    )
                self.counts["restarts"] += 1
                await asyncio.sleep(self.restart_seconds * 3 ** (worker.deaths - 1))
        except asyncio.CancelledError:
            raise
        # Anything else is shown by who waits for `failure`: a service without workers must not go on in silence.
        except BaseException as error:
            self._fail(error)
        finally:
            worker.ready = False

    async def _run(self, worker: WorkerProcess) -> None:
        """Run one process until it dies."""
        seconds = 0.0
        try:
            self.arrays = await worker.start()
            self._set_up.add(worker.index)
            while True:
                self._free[worker] = None
                self._is_free.set()
                self._take(worker, await worker.results())
        except EOFError:
            pass
        except ServiceError:
            if worker.index not in self._set_up:
                raise
            seconds = PATIENCE
        finally:
            self._free.pop(worker, None)
            parts, worker.batch = worker.batch, []
            for part in parts:
                self._after_death(part, worker.late and len(parts) == 1)
        await worker.end(seconds)

    async def _share_out(self) -> None:
        """Give batches to workers that are free, whichever comes first."""
        while True:
            await self._until_free()
            first = next(iter(self._free))
            batch = await self.waiting.batch(first.free_since, first.way)
            await self._until_free()  # the free one may have died meanwhile
            worker = next(iter(self._free))
            try:
                worker.send(batch)
            except (RecursionError, MemoryError):
                self._sort_out(batch)
            else:
                del self._free[worker]

    def _sort_out(self, batch: list[Slice]) -> None:
        """Refuse the requests that cannot be sent to a worker, and let the others of a batch go alone."""
        for part in batch:
            try:
                framed([part.items])
            except (RecursionError, MemoryError):
                part.job.refuse(422, "the input is nested too deeply, or too large")
            else:
                self.waiting.add_alone(part)

    async def _until_free(self) -> None:
        while not self._free:
            self._is_free.clear()
            await self._is_free.wait()

    def _take(self, worker: WorkerProcess, results: list[list[Result]]) -> None:
        batch, worker.batch = worker.batch, []
        worker.deaths = 0
        self.counts["batches"] += 1
        for part, found in zip(batch, results, strict=True):
            self.counts["items"] += len(part)
            part.job.put(part.start, found)

    def _after_death(self, part: Slice, too_long: bool) -> None:
        """Let a request whose worker died go once more, alone; refuse it when that was the second time."""
        job = part.job
        job.deaths += 1
        if job.done.done():
            return
        if too_long:
            job.refuse(503, f"the request took longer than {self.settings.time_limit:g} seconds")
        elif job.deaths < 2:
            self.waiting.add_alone(part)
        else:
            job.refuse(503, "a worker ended while it worked on this request")

    def _fail(self, error: BaseException) -> None:
        if not self.failure.done():
            self.failure.set_exception(error)
            self.failure.exception()  # seen: who does not wait for it gets no warning
        for job in list(self._jobs):
            job.refuse(503, "the service has failed; its log says why")

    def fail_with(self, task: asyncio.Task[None]) -> None:
        """End the service where a task that it cannot do without has failed."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    async def close(self, seconds: float = PATIENCE) -> None:
        """End the workers; requests that are still under way are refused."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for job in list(self._jobs):
            job.refuse(503, "the service is ending")
        await asyncio.gather(*(worker.end(seconds) for worker in self.workers))
