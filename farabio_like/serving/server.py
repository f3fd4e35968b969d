"""A service in a process of its own: the port, the signals, and the order in which everything ends."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import multiprocessing
import pickle
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

import uvicorn

from ..errors import ConfigError
from .handlers import Handler
from .http import HTTP
from .memory import MemoryConsumer
from .predictor import Predictor
from .relay import Relay
from .service import Service
from .settings import ServeSettings

if TYPE_CHECKING:
    from .rabbit import RabbitConsumer

    _Consumer = MemoryConsumer | RabbitConsumer


class _Uvicorn(uvicorn.Server):
    """Leaves the signals to `Server`: between one and the end of the port there is the draining."""

    on_signal: Callable[[], None]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.on_signal()


class Server:
    """Serves a predictor over HTTP, until SIGTERM or Ctrl-C.

    Parameters
    ----------
    make : callable
        Returns the predictor; called in every worker, so it must be picklable: the class itself, say.
    settings : ServeSettings, optional
    handlers : sequence of Handler
        They see each request and its answer.

    Raises
    ------
    ConfigError
        Where the workers cannot be given `make`.

    Attributes
    ----------
    url : str
        Where it serves, from `run` on.

    Examples
    --------
    ``Server(MyPredictor, ServeSettings(port=8000)).run()`` under ``if __name__ == "__main__":``.
    """

    def __init__(
        self,
        make: Callable[[], Predictor],
        settings: ServeSettings | None = None,
        handlers: Sequence[Handler] = (),
    ) -> None:
        if isinstance(make, Predictor) or not callable(make):
            raise ConfigError(
                f"Server({type(make).__name__} object): give the class itself, Server({type(make).__name__})."
            )
        try:
            pickle.dumps(make)
        except Exception as error:  # whatever the parts of it raise
            raise ConfigError(
                f"{make!r} cannot be sent to the workers: {error}. Give a class at the top level of a file."
            ) from error
        self.make = make
        self.settings = settings or ServeSettings()
        self.handlers = list(handlers)
        self.url = ""
        self._told: Callable[[], None] | None = None

    def run(self) -> None:
        """Serve until a signal comes; what is under way is answered, and no process is left.

        A second signal ends everything at once.

        Raises
        ------
        ConfigError
            Where the port cannot be had, or a worker's process comes here.
        ServiceError
            Where the workers cannot be set up, or die again and again.
        """
        if getattr(multiprocessing.current_process(), "_inheriting", False):  # a worker imports the script again
            raise ConfigError(
                'The script starts a server when it is imported. Write if __name__ == "__main__": before.'
            )
        listener = self._listener()
        try:
            _run(self._serve(listener))
        finally:
            listener.close()

    def stop(self) -> None:
        """End `run`, which goes on in another thread, as SIGTERM does; called twice, as two signals."""
        if self._told is not None:
            self._told()

    def _listener(self) -> socket.socket:
        host, port = self.settings.host, self.settings.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(2048)  # who comes while the server starts waits
        except OSError as error:
            listener.close()
            raise ConfigError(
                f"{host} port {port} cannot be had: {error.strerror}. Choose another: --port 8001"
            ) from None
        return listener

    async def _serve(self, listener: socket.socket) -> None:
        service = Service(self.make, self.settings, self.handlers)
        loop = asyncio.get_running_loop()
        config = uvicorn.Config(
            HTTP(service).app(),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            backlog=2048,
            timeout_graceful_shutdown=int(self.settings.max_seconds) + 1,
        )
        server = _Uvicorn(config)
        told = asyncio.Event()
        signals: list[bool] = []

        def on_signal() -> None:
            if signals:
                server.force_exit = server.should_exit = True
            signals.append(True)
            loop.call_soon_threadsafe(told.set)

        server.on_signal = self._told = on_signal
        with server.capture_signals():
            service.start()
            serving = asyncio.create_task(server._serve([listener]))
            consumer = self._consumer(service)
            ending = asyncio.create_task(self._end(service, server, told, consumer))
            self._say(listener)
            others = [asyncio.create_task(self._announce(service))]
            if consumer is not None:
                others.append(asyncio.create_task(consumer.run()))
                others[-1].add_done_callback(service.pool.fail_with)
            try:
                await serving
                await ending
            finally:
                service.draining = True
                for task in others:
                    task.cancel()
                await asyncio.gather(*others, return_exceptions=True)
                await service.close()

    def _consumer(self, service: Service) -> _Consumer | None:
        url, name = self.settings.queue, self.settings.queue_name
        if url is None:
            return None
        if url.startswith("memory://"):
            return MemoryConsumer(url, name, Relay(service))
        from .rabbit import RabbitConsumer

        return RabbitConsumer(url, name, Relay(service))

    def _say(self, listener: socket.socket) -> None:
        host, port = listener.getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        self.url = f"http://{host}:{port}"
        _tell(f"serving at {self.url}", sys.stdout)

    async def _announce(self, service: Service) -> None:
        while not service.ready:
            await asyncio.sleep(0.05)
        _tell(f"ready: {self.settings.workers} workers are set up", sys.stdout)

    async def _end(self, service: Service, server: _Uvicorn, told: asyncio.Event, consumer: _Consumer | None) -> None:
        """Wait for a signal or the failure of the pool, drain, and let the port close."""
        await _first(told, service.pool.failure)
        service.draining = True
        stopping = asyncio.create_task(consumer.stop()) if consumer is not None else None
        if not service.pool.failure.done():
            _tell(f"ending: {service.pool.under_way} requests are under way", sys.stderr)
            told.clear()
            if self.settings.drain:
                await _first(told, service.pool.failure, self.settings.drain)
        server.should_exit = True
        if stopping is not None:
            await _first(told, stopping)
            stopping.cancel()
        if service.pool.failure.done():
            service.pool.failure.result()


def _tell(text: str, stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody reads any more
        print(text, file=stream, flush=True)


async def _first(told: asyncio.Event, other: asyncio.Future[None], seconds: float | None = None) -> None:
    """Wait until one of both happens."""
    waiting = asyncio.create_task(told.wait())
    both: set[asyncio.Future[Any]] = {waiting, other}
    await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


def _run(serving: Coroutine[None, None, None]) -> None:
    """Run a coroutine on the quickest event loop there is."""
    if sys.version_info < (3, 11) or importlib.util.find_spec("uvloop") is None:
        asyncio.run(serving)
        return
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serving)
