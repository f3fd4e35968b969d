"""``python -m farabio_like.upscale RUN_OR_WEIGHTS IN OUT``: the arguments. What is done with them is in `command`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .command import run


def main(arguments: Sequence[str] | None = None) -> int:
    """Make images larger, and return the exit status: 0, 1 if a file failed, 2 for a mistake of the caller."""
    parser = argparse.ArgumentParser(
        prog="python -m farabio_like.upscale",
        description="Make images larger by a network that was trained. Killed, and called again, it goes on.",
    )
    parser.add_argument("run_or_weights", help="the folder of a run, a checkpoint, or a file of weights")
    parser.add_argument("source", metavar="IN", help="an image, or a folder of images and those within it")
    parser.add_argument("target", metavar="OUT", help="where they go, under the same names")
    parser.add_argument("--tile", type=int, default=256, help="pixels of the side of a tile (default: 256)")
    parser.add_argument("--overlap", type=int, default=16, help="pixels around a tile (default: 16)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: auto)")
    parser.add_argument("--again", action="store_true", help="make again what is there already")
    given = parser.parse_args(arguments)
    return run(given.run_or_weights, given.source, given.target, given.tile, given.overlap, given.device, given.again)


if __name__ == "__main__":
    sys.exit(main())
