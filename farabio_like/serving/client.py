"""`QueueClient`: calls a service over a queue, from ordinary and from asynchronous code, many calls at once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from concurrent.futures import Future
from typing import Any

from ..errors import ConfigError
from ..packages import needs
from . import memory
from .relay import Message, request_of, value_of


class QueueClient:
    """Sends items to a service over a queue, and waits for its answers.

    It may be used by many threads, and by asynchronous code, at once. Close it, or use it with ``with``.

    Parameters
    ----------
    url : str
        ``amqp://user:password@host:5672/``, or ``memory://NAME`` for a service in the same process.

    Examples
    --------
    ``QueueClient("amqp://guest:guest@localhost/").call("predict", Path("cat.png").read_bytes())``
    """

    def __init__(self, url: str) -> None:
        if not str(url).startswith(("amqp://", "amqps://", "memory://")):
            raise ConfigError(f"QueueClient({url!r}): expected amqp://user:password@host:5672/ or memory://NAME.")
        self._is_memory = url.startswith("memory://")
        if not self._is_memory:
            needs("aio_pika", "QueueClient", extra="queue")
        self.url = url
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._rabbit: _Rabbit | None = None

    def call(self, queue: str, x: Any, timeout: float = 30.0, codec: str | None = None) -> Any:
        """Return the answer of the service for a value.

        Parameters
        ----------
        queue : str
            Its name, as ``--queue-name`` says; ``"predict"`` where nothing else was said.
        x : bytes, array, tensor, plain data, or anything with a codec
            The bytes of a file, a sample or a batch of samples, or one item as JSON.
        timeout : float
            Seconds; the broker has to be there within them too.
        codec : str, optional
            A name that `register_codec` was given.

        Returns
        -------
        Any
            Plain data, an array, or the bytes of a picture.

        Raises
        ------
        RemoteError
            Where the service answers with an error; it has the traceback of the worker.
        TimeoutError
            Where there is no answer in time.
        ConnectionError
            Where the broker goes while the call is under way.
        """
        future = self._sent(queue, x, timeout, codec)
        try:
            return value_of(future.result(timeout + 1))
        except (TimeoutError, asyncio.TimeoutError):
            raise TimeoutError(f"{queue}: no answer within {timeout:g} seconds") from None
        finally:
            future.cancel()

    async def call_async(self, queue: str, x: Any, timeout: float = 30.0, codec: str | None = None) -> Any:
        """Do what `call` does, in asynchronous code."""
        future = asyncio.wrap_future(self._sent(queue, x, timeout, codec))
        try:
            return value_of(await asyncio.wait_for(future, timeout + 1))
        except (TimeoutError, asyncio.TimeoutError):
            raise TimeoutError(f"{queue}: no answer within {timeout:g} seconds") from None

    def _sent(self, queue: str, x: Any, timeout: float, codec: str | None) -> Future[Message]:
        message = request_of(x, codec)
        if self._is_memory:
            return _within(memory.broker(self.url).call(queue, message), timeout)
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._rabbit = _Rabbit(self.url)
                self._thread = threading.Thread(target=self._loop.run_forever, name="farabio-like-queue", daemon=True)
                self._thread.start()
            assert self._rabbit is not None
            return asyncio.run_coroutine_threadsafe(self._rabbit.call(queue, message, timeout), self._loop)

    def close(self) -> None:
        """End the connection; calls under way fail."""
        with self._lock:
            loop, thread, rabbit = self._loop, self._thread, self._rabbit
            self._loop = self._thread = self._rabbit = None
        if loop is not None and thread is not None and rabbit is not None:
            asyncio.run_coroutine_threadsafe(rabbit.close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def __enter__(self) -> QueueClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _within(future: Future[Message], seconds: float) -> Future[Message]:
    """End a future with a TimeoutError after some seconds, unless it is done before."""

    def end() -> None:
        with contextlib.suppress(Exception):
            future.set_exception(TimeoutError())

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    future.add_done_callback(lambda _: timer.cancel())
    return future


class _Rabbit:
    """The connection to RabbitMQ, on the loop of the client."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._waiting: dict[str, asyncio.Future[Message]] = {}
        self._connection: Any = None
        self._channel: Any = None
        self._answers: Any = None
        self._connecting = asyncio.Lock()

    async def call(self, queue: str, message: Message, timeout: float) -> Message:
        return await asyncio.wait_for(self._call(queue, message, timeout), timeout)

    async def _call(self, queue: str, message: Message, timeout: float) -> Message:
        import aio_pika

        end = time.monotonic() + timeout
        await self._connected(queue)
        number = uuid.uuid4().hex
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            sent = aio_pika.Message(
                message.body,
                headers=message.headers,
                content_type=message.content_type,
                correlation_id=number,
                reply_to=self._answers.name,
                # Who no longer waits needs no answer.
                expiration=max(end - time.monotonic(), 0.001),
            )
            await self._channel.default_exchange.publish(sent, routing_key=queue)
            return await answer
        finally:
            self._waiting.pop(number, None)

    async def _connected(self, queue: str) -> None:
        """Connect where there is no connection; a broker that is not there yet is waited for."""
        import aio_pika

        async with self._connecting:
            while self._connection is None:
                try:
                    connection = await aio_pika.connect(self._url)
                    connection.close_callbacks.add(self._gone)
                    self._channel = await connection.channel()
                    self._answers = await self._channel.declare_queue(exclusive=True, auto_delete=True)
                    await self._answers.consume(self._take, no_ack=True)
                    self._connection = connection
                except OSError:
                    await asyncio.sleep(0.2)
            await self._channel.declare_queue(queue, durable=True)

    async def _take(self, message: Any) -> None:
        waits = self._waiting.get(message.correlation_id or "")
        if waits is not None and not waits.done():
            waits.set_result(Message(message.body, message.content_type or "", dict(message.headers)))

    def _gone(self, *_: Any) -> None:
        self._connection = None
        for waits in self._waiting.values():
            if not waits.done():
                waits.set_exception(ConnectionError("the broker has gone while the call was under way"))

    async def close(self) -> None:
        for task in _others():
            task.cancel()
        if self._connection is not None:
            await self._connection.close()
        while tasks := _others():  # what the connection has still to do
            await asyncio.wait(tasks)


def _others() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
