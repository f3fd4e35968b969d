"""Every fault many times, on real processes: prints per fault how often it was tried, survived and lost.

    python -m tests.faults.torture                  (make torture; some minutes)
    python -m tests.faults.torture --kills 20 --trials 2 --seed 1

Exits with 1 if anything was lost.
"""

import argparse
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import torch

from .trials import TRIALS, Kills, chance_of


class Table:
    """Counts trials and prints a line per fault."""

    def __init__(self):
        self.all_lost = 0
        print(f"{'fault':44}{'tried':>8}{'survived':>10}{'lost':>8}", flush=True)

    def line(self, name, trials):
        """Run the trials of one fault, each a function without arguments."""
        tried = lost = 0
        for trial in trials:
            tried += 1
            try:
                trial()
            except Exception:
                lost += 1
                traceback.print_exc()
        self.all_lost += lost
        print(f"{name:44}{tried:8}{tried - lost:10}{lost:8}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="by SIGKILL while 50 MB are written (default 200)")
    parser.add_argument("--trials", type=int, default=20, help="of each other fault (default 20)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", "the (pictures|report) of .* could not be")  # where the disk is full
    torch.set_num_threads(1)  # the processes are forked, and a pool of OpenMP's threads does not outlive that
    table = Table()
    for background in (False, True):
        with tempfile.TemporaryDirectory(prefix="torture-") as folder:
            kills = Kills(folder, chance_of(given.seed), background)
            half = given.kills // 2
            table.line(f"killed, 50 MB saved{' in the background' * background}", [kills.trial] * half)
            table.line("    then compared with a run without", [kills.compare])
            print(f"    {kills.temporary} of {half} kills met a write", flush=True)
    for name, trial in TRIALS.items():
        with tempfile.TemporaryDirectory(prefix="torture-") as folder:
            chance = chance_of(given.seed)
            table.line(name, [lambda t=trial, f=Path(folder), c=chance: t(f, c)] * given.trials)
    print("nothing was lost" if not table.all_lost else f"{table.all_lost} lost")
    return int(table.all_lost > 0)


if __name__ == "__main__":
    sys.exit(main())
