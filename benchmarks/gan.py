"""What a step of `GanTrainer` costs over the same one written by hand.

Both train the same DCGAN for images of 32 x 32 pixels on the same batches, in turn (A B A B ...), on one thread, and
come to the same weights bit for bit. Counted is the time of the processor, so that what else runs on the machine is
not. The one by hand is a careful one: it freezes the discriminator in the generator's step, as to compute its gradients
there would be waste, and keeps its statistics. The ratio is the median over the rounds of the ratio in one round:
neighbours in time share the machine's moods.

Usage::

    OMP_NUM_THREADS=1 python benchmarks/gan.py [--rounds 25]

The exit code is 1 where ours takes more than 1.03 times as long, or comes to other weights.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from farabio_like.trainers import GanTrainer

BOUND = 1.03
LATENT = 64
BATCH = 16
STEPS = 5  # per round and contestant


def networks() -> dict[str, nn.Module]:
    generator = nn.Sequential(
        *(nn.Linear(LATENT, 128 * 16), nn.Unflatten(1, (128, 4, 4)), nn.BatchNorm2d(128), nn.ReLU()),
        *(nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.ConvTranspose2d(32, 3, 4, 2, 1), nn.Tanh()),
    )
    discriminator = nn.Sequential(
        *(nn.Conv2d(3, 32, 4, 2, 1), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(32, 64, 4, 2, 1), nn.BatchNorm2d(64), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(64, 128, 4, 2, 1), nn.BatchNorm2d(128), nn.LeakyReLU(0.2)),
        *(nn.Flatten(), nn.Linear(128 * 16, 1)),
    )
    return {"generator": generator, "discriminator": discriminator}


class ByHand:
    """The same training without a trainer.

    Parameters
    ----------
    model : dict of nn.Module
    """

    def __init__(self, model: dict[str, nn.Module]) -> None:
        self.generator, self.discriminator = model["generator"], model["discriminator"]
        self.optimizers = [torch.optim.Adam(n.parameters(), 2e-4, (0.5, 0.999)) for n in model.values()]
        self.losses: list[tuple[Tensor, Tensor]] = []

    def step(self, real: Tensor) -> None:
        generator, discriminator = self.generator, self.discriminator
        of_generator, of_discriminator = self.optimizers
        with torch.no_grad():
            fake = generator(torch.randn(len(real), LATENT))
        of_discriminator.zero_grad()
        loss_d = (F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(fake)).mean()) / 2
        loss_d.backward()
        of_discriminator.step()

        discriminator.requires_grad_(False)
        buffers = list(discriminator.buffers())
        kept = [buffer.clone() for buffer in buffers]
        of_generator.zero_grad()
        loss_g = F.softplus(-discriminator(generator(torch.randn(len(real), LATENT)))).mean()
        loss_g.backward()
        of_generator.step()
        torch._foreach_copy_(buffers, kept)
        discriminator.requires_grad_(True)
        self.losses.append((loss_d.detach(), loss_g.detach()))


class InTurns(GanTrainer):
    """Every `STEPS` batches, the one by hand has its turn on the same ones, with random numbers of its own."""

    hand: ByHand
    started: float
    noise: Tensor

    def start(self, hand: ByHand) -> None:
        self.hand, self.pairs = hand, []
        self.noise = torch.get_rng_state()

    def on_start_training_batch(self, item: tuple[int, Tensor]) -> None:
        if item[0] % STEPS == 0:
            ours = time.process_time() - self.started if item[0] else None
            own = torch.get_rng_state()
            torch.set_rng_state(self.noise)
            begin = time.process_time()
            for batch in self.train_loader[item[0] : item[0] + STEPS]:
                self.hand.step(batch)
            theirs = time.process_time() - begin
            self.noise = torch.get_rng_state()
            torch.set_rng_state(own)
            self.pairs.append((ours, theirs))
            self.started = time.process_time()
        self.take_batch(item)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = networks()
    hand = ByHand(copy.deepcopy(model))
    batches = [torch.rand(BATCH, 3, 32, 32) * 2 - 1 for _ in range((rounds + 2) * STEPS)]
    trainer = InTurns(
        {"num_epochs": 1, "latent_size": LATENT, "seed": None, "device": "cpu", "logdir": None, "verbose": False},
        model=model,
        train=batches,
    )
    trainer.start(hand)
    trainer.train()
    # Of a turn of ours, the time is known when the next one begins; the first round warms up.
    ours = [first for first, _ in trainer.pairs[2:]]
    theirs = [second for _, second in trainer.pairs[1:-1]]
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    ratio = statistics.median(ratios)
    equal = all(
        torch.equal(value, other)
        for key, network in (("generator", hand.generator), ("discriminator", hand.discriminator))
        for value, other in zip(network.state_dict().values(), trainer.model[key].state_dict().values(), strict=True)
    )
    print(f"DCGAN, {BATCH} images of 3 x 32 x 32, one thread, {len(ratios)} rounds of {STEPS} steps")
    for name, times in (("GanTrainer", ours), ("by hand", theirs)):
        print(f"{name:12} {statistics.median(times) / STEPS * 1e3:8.2f} ms per step")
    low, *_, high = statistics.quantiles(ratios, n=4)
    print(f"{'ratio':12} {ratio:8.3f}    (bound {BOUND})")
    print(f"{'its spread':12} {min(ratios):8.3f} to {max(ratios):.3f}, the middle half {low:.3f} to {high:.3f}")
    print(f"{'weights':12} {'the same bit for bit' if equal else 'DIFFERENT'}")
    return int(ratio > BOUND or not equal)


if __name__ == "__main__":
    sys.exit(main())
