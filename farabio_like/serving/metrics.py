"""How a service does: counts and times of requests, as Prometheus' text and as the last hour, minute by minute."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, deque
from typing import Any

# Upper bounds of the buckets, in seconds: a tenth apart in the logarithm to base ten, 1 ms to 100 s.
BOUNDS = [10 ** (exponent / 10) for exponent in range(-30, 21)]
SHOWN = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # those that Prometheus gets
MINUTES = 60


class Times:
    """A histogram of seconds, from which percentiles are read to within 13 %."""

    __slots__ = ("counts", "number")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.number = 0

    def add(self, seconds: float) -> None:
        """Count a time."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.number += 1

    def percentile(self, percent: float) -> float | None:
        """Return the seconds below which so many percent of the times are; None without times."""
        if not self.number:
            return None
        wanted, seen = percent / 100 * self.number, 0
        for index, count in enumerate(self.counts):
            seen += count
            if seen >= wanted:
                return BOUNDS[min(index, len(BOUNDS) - 1)]
        return BOUNDS[-1]


class Minute:
    """The requests of one minute."""

    __slots__ = ("errors", "minute", "times")

    def __init__(self, minute: int) -> None:
        self.minute = minute
        self.errors = 0
        self.times = Times()


class Metrics:
    """Counts what a service has answered."""

    def __init__(self) -> None:
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.seconds = 0.0
        self.shown = [0] * (len(SHOWN) + 1)
        self.hour: deque[Minute] = deque(maxlen=MINUTES)

    def count(self, source: str, status: int, seconds: float) -> None:
        """Count a request that was answered.

        Parameters
        ----------
        source : str
            ``"http"`` or ``"queue"``.
        status : int
        seconds : float
        """
        self.statuses[source, status] += 1
        self.seconds += seconds
        self.shown[bisect_left(SHOWN, seconds)] += 1
        minute = int(time.time() // 60)
        if not self.hour or self.hour[-1].minute != minute:
            self.hour.append(Minute(minute))
        self.hour[-1].times.add(seconds)
        self.hour[-1].errors += status >= 400

    def text(self, gauges: dict[str, tuple[str, str, float]]) -> str:
        """Return everything in Prometheus' text format (version 0.0.4).

        Parameters
        ----------
        gauges : dict
            Further numbers: for each name its kind (``"gauge"`` or ``"counter"``), what it is, and its value.
        """
        lines = ["# HELP farabio_requests_total Requests that were answered.", "# TYPE farabio_requests_total counter"]
        for (source, status), number in sorted(self.statuses.items()):
            lines.append(f'farabio_requests_total{{source="{source}",status="{status}"}} {number}')
        lines += [
            "# HELP farabio_request_seconds From the first byte of a request to its answer.",
            "# TYPE farabio_request_seconds histogram",
        ]
        total = 0
        for bound, number in zip([*map(str, SHOWN), "+Inf"], self.shown, strict=True):
            total += number
            lines.append(f'farabio_request_seconds_bucket{{le="{bound}"}} {total}')
        lines += [f"farabio_request_seconds_sum {self.seconds:.6f}", f"farabio_request_seconds_count {total}"]
        for name, (kind, what, value) in gauges.items():
            lines += [f"# HELP farabio_{name} {what}", f"# TYPE farabio_{name} {kind}", f"farabio_{name} {value:g}"]
        return "\n".join(lines) + "\n"

    def last_hour(self) -> list[dict[str, Any]]:
        """Return the last sixty minutes, the oldest first: requests, errors, p50 and p99 in milliseconds."""
        now = int(time.time() // 60)
        known = {each.minute: each for each in self.hour}
        rows = []
        for number in range(now - MINUTES + 1, now + 1):
            each = known.get(number) or Minute(number)
            half, most = each.times.percentile(50), each.times.percentile(99)
            rows.append(
                {
                    "minute": number * 60,
                    "requests": each.times.number,
                    "errors": each.errors,
                    "p50": None if half is None else round(half * 1000, 2),
                    "p99": None if most is None else round(most * 1000, 2),
                }
            )
        return rows
