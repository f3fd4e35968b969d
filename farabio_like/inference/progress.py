"""A bar for work that takes long. What is done is counted elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

BAR_SECONDS = 2.0  # work that is over by then shows no bar


@contextmanager
def progress_bar(total: int, name: str, unit: str) -> Iterator[Callable[[int], Any]]:
    """Give what counts: by a bar that appears on long work where stderr is a terminal or a notebook.

    Parameters
    ----------
    total : int
    name : str
        What is done, in front of the bar.
    unit : str
        What is counted.
    """
    if not _shows_bars(sys.stderr):
        yield lambda done: None
        return
    from tqdm.auto import tqdm

    class Transient(tqdm):
        monitor_interval = 0  # without the thread by which tqdm watches its bars: it would outlive the call

    with Transient(
        total=total, desc=name, unit=unit, delay=BAR_SECONDS, leave=False, dynamic_ncols=True, miniters=1
    ) as bar:
        yield bar.update


def _shows_bars(stream: Any) -> bool:
    if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
        return False
    return stream is not None and (stream.isatty() or type(stream).__module__.partition(".")[0] == "ipykernel")
