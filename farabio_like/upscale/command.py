"""What the command does and says, and its exit status. How it is called is in ``__main__`` and `cli`."""

from __future__ import annotations

import sys

from ..compute import resolve_device
from ..errors import FarabioError, printable
from .folders import upscale_folder
from .network import load_network


def run(
    run_or_weights: str,
    source: str,
    target: str,
    tile: int = 256,
    overlap: int = 16,
    device: str = "auto",
    again: bool = False,
) -> int:
    """Make images larger, and return the exit status.

    Parameters
    ----------
    run_or_weights, source, target : str
        As `load_network` and `upscale_folder` take them.
    tile, overlap : int
    device : str
        As the setting ``_device``.
    again : bool
        Make again what is there already.

    Returns
    -------
    int
        0, 1 if a file failed, 2 for a mistake of the caller, 130 after Ctrl-C.
    """
    try:
        chosen = resolve_device(device)
        model, weights = load_network(run_or_weights)
        found = upscale_folder(
            model.to(chosen), source, target, tile, overlap, newer_than=weights.stat().st_mtime, again=again
        )
    except (FarabioError, FileNotFoundError, PermissionError) as error:
        print(printable(str(error), "\n\t"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on.", file=sys.stderr)
        return 130
    parts = [f"{found.done} images made"]
    if found.there:
        parts.append(f"{found.there} were there already (--again makes them again)")
    if found.failed:
        parts.append(f"{len(found.failed)} failed")
    print(printable(f"{', '.join(parts)}: {target}"))
    return 1 if found.failed else 0
