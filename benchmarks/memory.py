"""Memory and time of a long run: ours and a loop by hand.

Three questions, one table:

1. Peak memory of a process that trains a model with 10 million parameters by Adam, ours and by hand, in processes of
   their own, in turn. On a GPU it is the peak of torch's allocator; else that of the process, in which glibc gives
   every large block back at once (by two of its variables), so that the figure repeats within 0.1 MiB.
2. Live tensors and their bytes beyond step 10,000 of one epoch, against step 228. Losses wait in groups of 128 before
   they are summed, so the two steps are a multiple of 128 apart, and the first sum is there at both.
3. Time per step from step 100,000 on, against step 1,000. The loop by hand runs in between, 100 steps of each in
   turn, and each of ours is divided by its neighbour: what remains is ours alone.

Usage::

    OMP_NUM_THREADS=1 python benchmarks/memory.py [--steps 100000] [--pairs 2]

The exit code is 1 where ours needs more than 1.01 times the memory, keeps a tensor, or becomes 5 % slower.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from farabio_like import ConvnetTrainer

MOST_MEMORY, MOST_DRIFT = 1.01, 1.05
FIRST, LAST = 228, 228 + 77 * 128  # 10,084
GLIBC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
CHUNK, CHUNKS = 100, 30  # steps in turn, and chunks per measurement
DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


class Quiet(ConvnetTrainer):
    def define_log_attr(self) -> None:
        self._logdir, self._verbose, self._use_tqdm, self._has_eval = None, False, False, False
        self._device, self._num_epochs = DEVICE, 1


# ---------------------------------------------------------------- peak memory


def large() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*[part for _ in range(10) for part in (nn.Linear(1024, 1024), nn.ReLU())])


def large_batches() -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(4096, 1024, generator=torch.Generator().manual_seed(0))
    return [(x[start : start + 1024], x[start : start + 1024]) for start in range(0, 4096, 1024)]


class Large(Quiet):
    def get_trainloader(self) -> None:
        self.train_loader = large_batches()

    def build_model(self) -> None:
        self.model, self.criterion = large(), nn.MSELoss()
        self.optimizer = torch.optim.Adam(self.model.parameters())


def large_by_hand() -> None:
    model, criterion = large().to(DEVICE), nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters())
    total = torch.zeros((), device=DEVICE)
    for x, y in large_batches():
        x, y = x.to(DEVICE), y.to(DEVICE)
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.detach()
    total.item()


def peak() -> float:
    """Return the peak of this process in MiB."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def peak_of(side: str) -> float:
    command = [sys.executable, __file__, "--side", side]
    done = subprocess.run(command, env={**os.environ, **GLIBC}, capture_output=True, text=True, check=True)
    return float(done.stdout)


# ---------------------------------------------------------------- a long run


class Long(Quiet):
    """Counts what is alive, and is interrupted by a loop by hand where time is measured."""

    def get_trainloader(self) -> None:
        self.steps = self.config.steps
        self.alive: dict[int, tuple[int, int]] = {}
        self.ratios: dict[int, list[float]] = {1000: [], self.steps: []}
        self.batch_by_hand = (torch.randn(8, 16, device=DEVICE), torch.randn(8, 4, device=DEVICE))
        self.train_loader = self.batches()

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a batch for every step; time chunks of ours from outside, and of the loop by hand in between."""
        x, y = torch.randn(8, 16, device=DEVICE), torch.randn(8, 4, device=DEVICE)
        for start in range(0, self.steps + CHUNK * CHUNKS, CHUNK):
            measured = [at for at in self.ratios if at <= start < at + CHUNK * CHUNKS]
            begun = now() if measured else 0.0
            for _ in range(CHUNK):
                yield x, y
            if measured:
                between = now()
                self.by_hand()
                self.ratios[measured[0]].append((between - begun) / (now() - between))

    def build_model(self) -> None:
        self.model, self.criterion = nn.Linear(16, 4), nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.other = nn.Linear(16, 4).to(DEVICE)
        self.other_optimizer = torch.optim.SGD(self.other.parameters(), lr=0.01)
        self.by_hand()  # so that its gradients are there before anything is counted

    def by_hand(self) -> None:
        x, y = self.batch_by_hand
        total = torch.zeros((), device=DEVICE)
        for _ in range(CHUNK):
            self.other_optimizer.zero_grad()
            loss = self.criterion(self.other(x), y)
            loss.backward()
            self.other_optimizer.step()
            total += loss.detach() * len(x)
        total.item()

    def on_end_training_batch(self) -> None:
        if self.step in (FIRST, LAST):
            self.alive[self.step] = alive()


def alive() -> tuple[int, int]:
    """Return the number of live tensors and the bytes of their storages."""
    gc.collect()
    # By type: isinstance would wake lazy objects of other modules.
    tensors = [found for found in gc.get_objects() if type(found) in (Tensor, nn.Parameter)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return len(tensors), sum(storages.values())


def now() -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--side", choices=["ours", "by hand"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.side:
        large_by_hand() if arguments.side == "by hand" else Large().train()
        print(peak())
        return 0
    peaks = [(peak_of("ours"), peak_of("by hand")) for _ in range(arguments.pairs)]
    ours, theirs = (statistics.median(side) for side in zip(*peaks, strict=True))
    memory = statistics.median(one / other for one, other in peaks)
    job = Long({"steps": max(arguments.steps, LAST + 1)})
    job.train()
    (count, size), (later_count, later_size) = job.alive[FIRST], job.alive[LAST]
    early, late = (statistics.median(ratios) for ratios in job.ratios.values())
    rows = [
        ("peak memory, MiB", f"{ours:.1f}", f"{theirs:.1f} by hand", memory <= MOST_MEMORY, f"{memory:.4f} <= 1.01"),
        (f"live tensors at step {LAST}", later_count, f"{count} at step {FIRST}", later_count == count, "equal"),
        (f"their bytes at step {LAST}", later_size, f"{size} at step {FIRST}", later_size == size, "equal"),
        (
            f"time at step {job.steps}, of the loop by hand",
            f"{late:.3f}",
            f"{early:.3f} at step 1000",
            late / early <= MOST_DRIFT,
            f"{late / early:.3f} <= 1.05",
        ),
    ]
    print(f"torch {torch.__version__} on {DEVICE}")
    for name, value, other, kept, bound in rows:
        print(f"{name:42} {value!s:>10}   {other:22} {bound}{'' if kept else '   <- past the bound'}")
    return int(not all(row[3] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
