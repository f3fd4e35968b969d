"""What HTTP and the queue have in common: they hand items to the pool, and every answer is counted and shown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from .handlers import Exchange, Handler, Recorder
from .jobs import PendingRequest
from .metrics import Metrics
from .payloads import JSON, error_body
from .pool import Pool
from .predictor import Predictor, RequestError
from .settings import ServeSettings


class Service:
    """A pool of workers, what counts its answers, and what is shown them.

    Parameters
    ----------
    make : callable
        Returns the predictor; picklable.
    settings : ServeSettings
    handlers : sequence of Handler
    """

    def __init__(
        self, make: Callable[[], Predictor], settings: ServeSettings, handlers: Sequence[Handler] = ()
    ) -> None:
        self.settings = settings
        self.pool = Pool(make, settings)
        self.metrics = Metrics()
        self.recorder = Recorder(handlers)
        self.draining = False

    @property
    def ready(self) -> bool:
        """Whether requests are taken: every worker has set up, and no signal has come."""
        return self.pool.ready and not self.draining

    def start(self) -> None:
        """Start the workers and the thread of the handlers."""
        self.recorder.start()
        self.pool.start()

    async def close(self) -> None:
        """End both."""
        await self.pool.close()
        await asyncio.get_running_loop().run_in_executor(None, self.recorder.close)

    def submit(self, items: list[Any], as_npy: bool) -> PendingRequest:
        """Take a request; it is refused by a RequestError."""
        if self.draining:
            raise RequestError(503, "the service is ending")
        return self.pool.submit([(item, as_npy) for item in items])

    def note(
        self, source: str, client: str, items: list[Any], began: float, status: int, media_type: str, answer: bytes
    ) -> None:
        """Count an answer, and show it to the handlers.

        Parameters
        ----------
        source, client, items, status, media_type, answer
            As in `Exchange`.
        began : float
            When the request came, by ``time.monotonic()``.
        """
        seconds = time.monotonic() - began
        self.metrics.count(source, status, seconds)
        if self.recorder.handlers:
            came = time.time() - seconds
            self.recorder.put(Exchange(came, source, client, items, status, seconds, media_type, answer))

    def metrics_text(self) -> str:
        """Return what ``/metrics`` says."""
        pool = self.pool
        counts = pool.counts
        return self.metrics.text(
            {
                "workers": ("gauge", "Workers that are set up.", sum(worker.ready for worker in pool.workers)),
                "waiting_items": ("gauge", "Items that wait for a worker.", pool.waiting.count),
                "under_way_requests": ("gauge", "Requests without an answer.", pool.under_way),
                "batches_total": ("counter", "Batches that were answered.", counts["batches"]),
                "batched_items_total": ("counter", "Items in them.", counts["items"]),
                "worker_restarts_total": ("counter", "Workers that were replaced.", counts["restarts"]),
                "abandoned_requests_total": ("counter", "Requests whose client went.", counts["abandoned"]),
                "unhandled_total": ("counter", "Answers that the handlers were too slow for.", self.recorder.left_out),
            }
        )


def refused(error: RequestError) -> tuple[int, str, bytes]:
    """Return status, media type and body of a request that is refused."""
    return error.status, JSON, error_body(error.text)
