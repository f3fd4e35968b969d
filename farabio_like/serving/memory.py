"""A broker within one process, for tests and notebooks: ``memory://NAME``. Messages are lost with the process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import defaultdict, deque
from concurrent.futures import Future
from dataclasses import dataclass, field

from .relay import Message, NotNow, Relay

Call = tuple[Message, "Future[Message]"]


@dataclass
class _Queue:
    waiting: deque[Call] = field(default_factory=deque)
    consumers: list[MemoryConsumer] = field(default_factory=list)


class MemoryBroker:
    """The queues of one name; made by `broker`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: dict[str, _Queue] = defaultdict(_Queue)

    def call(self, queue: str, message: Message) -> Future[Message]:
        """Put a message into a queue, and return the future of its answer."""
        answer: Future[Message] = Future()
        with self._lock:
            self._queues[queue].waiting.append((message, answer))
            for consumer in self._queues[queue].consumers:
                consumer.notify()
        return answer

    def take(self, queue: str) -> Call | None:
        """Return the oldest message whose caller still waits."""
        with self._lock:
            waiting = self._queues[queue].waiting
            while waiting:
                message, answer = waiting.popleft()
                if not answer.cancelled():
                    return message, answer
        return None

    def give_back(self, queue: str, call: Call) -> None:
        """Put a message back to the head of its queue."""
        with self._lock:
            self._queues[queue].waiting.appendleft(call)

    def join(self, queue: str, consumer: MemoryConsumer, leaves: bool = False) -> None:
        """Let a consumer be told of messages, or no longer."""
        with self._lock:
            consumers = self._queues[queue].consumers
            consumers.remove(consumer) if leaves else consumers.append(consumer)
            for other in consumers:
                other.notify()


_BROKERS: dict[str, MemoryBroker] = defaultdict(MemoryBroker)


def broker(url: str) -> MemoryBroker:
    """Return the broker of an address."""
    return _BROKERS[url]


class MemoryConsumer:
    """Takes messages of a queue, as many at once as the relay likes.

    Parameters
    ----------
    url, queue : str
    relay : Relay
    """

    def __init__(self, url: str, queue: str, relay: Relay) -> None:
        self._broker, self._queue, self._relay = broker(url), queue, relay
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._taking = True

    def notify(self) -> None:
        """Say that there may be messages; from any thread."""
        with contextlib.suppress(RuntimeError):  # its loop has ended
            self._loop.call_soon_threadsafe(self._news.set)

    async def run(self) -> None:
        """Take messages until it is cancelled."""
        self._broker.join(self._queue, self)
        try:
            while True:
                self._news.clear()
                while self._taking and len(self._tasks) < self._relay.prefetch:
                    call = self._broker.take(self._queue)
                    if call is None:
                        break
                    task = asyncio.create_task(self._answer(call))
                    self._tasks.add(task)
                    task.add_done_callback(self._done)
                await self._news.wait()
        finally:
            self._broker.join(self._queue, self, leaves=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._news.set()

    async def _answer(self, call: Call) -> None:
        message, future = call
        try:
            answer = await self._relay.answer(message)
        except NotNow:
            self._taking = not self._relay.service.draining
            self._broker.give_back(self._queue, call)
            return
        if not future.cancelled():
            with contextlib.suppress(Exception):  # cancelled meanwhile
                future.set_result(answer)

    async def stop(self) -> None:
        """Take no more messages, and wait for those under way."""
        self._taking = False
        if self._tasks:
            await asyncio.wait(self._tasks)
