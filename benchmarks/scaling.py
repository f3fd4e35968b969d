"""Steps per second under torchrun against a hand-written DistributedDataParallel loop on the same work.

    python benchmarks/scaling.py [--rounds 7] [--steps 150] [--bound 0.98]

Starts itself by torchrun with 1 and 2 gloo processes. Both sides train the same network on the same batches with the
same optimizer; they alternate within one run, and the median of the rounds' ratios is compared. Exits non-zero where
it is below the bound.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

BATCH = 64  # of all processes together


def network():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


def samples(steps):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(steps * BATCH, 1, 8, 8, generator=generator)
    return TensorDataset(images, torch.randint(10, (len(images),), generator=generator))


def by_hand(steps):
    """Return a function that trains one epoch by a textbook loop, with the mean loss that every user wants."""
    torch.manual_seed(0)
    ranks = dist.get_world_size()
    model = nn.parallel.DistributedDataParallel(network()) if ranks > 1 else network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    criterion = nn.CrossEntropyLoss()
    data = samples(steps)
    sampler = DistributedSampler(data) if ranks > 1 else None
    loader = DataLoader(data, batch_size=BATCH // ranks, sampler=sampler, shuffle=sampler is None)
    epoch = 0

    def train():
        nonlocal epoch
        epoch += 1
        if sampler is not None:
            sampler.set_epoch(epoch)
        total = torch.zeros((), dtype=torch.float64)
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(images)
        if ranks > 1:
            dist.all_reduce(total)

    return train


def by_trainer(steps):
    """Return a function that trains one more epoch by the trainer."""
    from farabio_like import ConvnetTrainer

    class Scaling(ConvnetTrainer):
        def define_log_attr(self):
            self._logdir, self._verbose, self._device, self._num_epochs = None, False, "cpu", 1

        def get_trainloader(self):
            self.train_loader = DataLoader(samples(steps), batch_size=BATCH, shuffle=True)

        def build_model(self):
            self.model = network()
            self.criterion = nn.CrossEntropyLoss()
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)

    torch.manual_seed(0)
    trainer = Scaling()

    def train():
        trainer._num_epochs = 1  # one more
        trainer.train()

    return train


def measure(rounds, steps):
    """Print steps per second of both sides and the median ratio; called in every process."""
    torch.set_num_threads(1)
    ours = by_trainer(steps)  # it makes the process group
    hand = by_hand(steps)
    ours(), hand()
    ratios, speeds = [], {"hand": [], "ours": []}
    for number in range(rounds):
        sides = [("ours", ours), ("hand", hand)]
        for name, train in sides if number % 2 else sides[::-1]:
            dist.barrier()
            started = time.perf_counter()
            train()
            dist.barrier()
            speeds[name].append(steps / (time.perf_counter() - started))
        ratios.append(speeds["ours"][-1] / speeds["hand"][-1])
    hand_speed, our_speed = (statistics.median(speeds[name]) for name in ("hand", "ours"))
    print(
        f"{dist.get_world_size():9}  {hand_speed:12.1f}  {our_speed:12.1f}  {statistics.median(ratios):8.3f}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--bound", type=float, default=0.98)
    arguments = parser.parse_args()
    if "RANK" in os.environ:
        measure(arguments.rounds, arguments.steps)
        return 0
    print(f"{'processes':>9}  {'hand steps/s':>12}  {'ours steps/s':>12}  {'ratio':>8}", flush=True)
    slowest = 1.0
    for ranks in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        options = ["--rounds", str(arguments.rounds), "--steps", str(arguments.steps)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*command, __file__, *options], env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        print(done.stdout, end="", flush=True)
        slowest = min(slowest, float(done.stdout.split()[-1]))
    return 0 if slowest >= arguments.bound else 1


if __name__ == "__main__":
    sys.exit(main())
