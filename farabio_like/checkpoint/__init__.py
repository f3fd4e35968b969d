"""Files of weights and state: written durably, read without running code; and plain data to put into them.

Nothing here knows a trainer. What a checkpoint of a run holds, and how a run goes on from one, is in `resume`.
"""

from .bounds import check_size
from .files import FORMAT, link_durably, read, save, sweep, weights_of, write_durably, write_text
from .writer import Copies, snapshot

__all__ = [
    "Copies",
    "FORMAT",
    "check_size",
    "link_durably",
    "read",
    "save",
    "snapshot",
    "sweep",
    "weights_of",
    "write_durably",
    "write_text",
]
