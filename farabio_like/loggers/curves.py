"""Curves that are redrawn as a whole: their points, and the few of them that a picture needs."""

from __future__ import annotations

import math

import numpy as np

MOST_POINTS = 500  # of a drawn curve
MOST_KEPT = 20_000  # of a curve in memory; beyond, half of them go


class Curve:
    """The points of one curve. A point with the abscissa of an earlier one takes its place."""

    def __init__(self) -> None:
        self.points: dict[float, float] = {}

    def add(self, x: float, y: float) -> None:
        """Add a point."""
        self.points[x] = y
        if len(self.points) > MOST_KEPT:
            x_kept, y_kept = thin(*self.arrays(), MOST_KEPT // 2)
            self.points = dict(zip(x_kept.tolist(), y_kept.tolist(), strict=True))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return abscissas and ordinates, by abscissa."""
        x = np.fromiter(self.points.keys(), float, len(self.points))
        y = np.fromiter(self.points.values(), float, len(self.points))
        order = np.argsort(x, kind="stable")
        return x[order], y[order]

    def drawn(self) -> tuple[list[float], list[float | None]]:
        """Return at most `MOST_POINTS` points; what is not finite is None, a gap."""
        x, y = thin(*self.arrays(), MOST_POINTS)
        return x.tolist(), [value if math.isfinite(value) else None for value in y.tolist()]


def thin(x: np.ndarray, y: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return at most so many points: the first, the last, and the lowest and highest of equal stretches between.

    Parameters
    ----------
    x, y : ndarray of shape (N,)
    most : int
        At least 4.
    """
    if len(x) <= most:
        return x, y
    kept = {0, len(x) - 1}
    low, high = np.where(np.isfinite(y), y, np.inf), np.where(np.isfinite(y), y, -np.inf)
    edges = np.linspace(1, len(x) - 1, (most - 2) // 2 + 1).astype(int)
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        kept |= {start + int(low[start:end].argmin()), start + int(high[start:end].argmax())}
    chosen = np.array(sorted(kept))
    return x[chosen], y[chosen]
