"""The figure that all pictures are drawn on: matplotlib's own, which a notebook shows without pyplot."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

from .figure import DPI


class Picture(Figure):
    """A ``matplotlib.figure.Figure`` that shows itself where a notebook's cell returns it."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=DPI)
        return file.getvalue()
