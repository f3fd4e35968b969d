"""Small GANs, and the same training written by hand."""

import copy
import itertools

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from farabio_like.losses import AdversarialLoss, gradient_penalty, r1_penalty
from farabio_like.trainers import GanTrainer

LATENT = 4
QUIET = {"logdir": None, "verbose": False, "device": "cpu"}


def images(number=20, seed=0):
    return torch.rand(number, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def generator(inputs=LATENT):
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 16),
        nn.Unflatten(1, (1, 4, 4)),
    )


def discriminator(norm=True, dropout=False):
    middle = [nn.BatchNorm1d(8)] if norm else []
    middle += [nn.Dropout(0.3)] if dropout else []
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.LeakyReLU(0.2), *middle, nn.Linear(8, 1))


class Gan(GanTrainer):
    """A GAN of 20 images in batches of 6, the last one of 2; its configuration holds settings and arguments of nets."""

    dropout, norm = False, True

    def define_misc_attr(self):
        self._device, self._logdir, self._verbose, self._num_epochs = "cpu", None, False, 2
        self._latent_size, self._seed = LATENT, 0
        for name, value in self.config.items():
            setattr(self, name, value)

    def get_trainloader(self):
        self.train_loader = DataLoader(TensorDataset(images()), batch_size=6)

    def build_model(self):
        torch.manual_seed(0)
        self.model = {"generator": generator(), "discriminator": discriminator(self.norm, self.dropout)}
        self.optimizer = {
            name: torch.optim.Adam(network.parameters(), lr=0.01, betas=(0.5, 0.999))
            for name, network in self.model.items()
        }


def by_hand(trainer):
    """Train copies of a trainer's networks as it does: each side by the gradients of its own loss alone.

    A generator learns from a copy of the discriminator, so that nothing of it can move.
    """
    model = copy.deepcopy(trainer.model)
    optimizers = {name: torch.optim.Adam(net.parameters(), lr=0.01, betas=(0.5, 0.999)) for name, net in model.items()}
    loss, steps = AdversarialLoss(trainer._loss, trainer._smoothing), trainer._accumulation_steps
    windows, counts, unit = {name: [] for name in model}, dict.fromkeys(model, 0), 0

    def cast():
        return torch.autocast("cpu", torch.bfloat16, enabled=trainer._precision == "bf16")

    def learn(name, value, samples, closes):
        nonlocal unit
        parameters = list(model[name].parameters())
        unit = unit if any(windows.values()) else samples
        windows[name].append((samples, torch.autograd.grad(value * (samples / unit), parameters)))
        if len(windows[name]) < steps and not closes:
            return
        counts[name] += 1
        for index, parameter in enumerate(parameters):
            parameter.grad = sum(gradients[index] for _, gradients in windows[name])
            parameter.grad /= sum(samples for samples, _ in windows[name]) / unit
        if trainer._clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, trainer._clip_norm)
        optimizers[name].step()
        windows[name].clear()

    for _ in range(trainer._num_epochs):
        batches = [real for (real,) in trainer.train_loader]
        for number, real in enumerate(batches):
            closes = number == len(batches) - 1
            for further in reversed(range(trainer._d_steps)):
                with cast():
                    with torch.no_grad():
                        fake = model["generator"](torch.randn(len(real), LATENT))
                    value = loss.discriminator(model["discriminator"](real), model["discriminator"](fake))
                if trainer._gradient_penalty is not None:
                    penalties = {"r1": (r1_penalty, (real,)), "wgan-gp": (gradient_penalty, (real, fake.float()))}
                    function, arguments = penalties[trainer._gradient_penalty]
                    value = value + 10 * function(model["discriminator"], *arguments)
                learn("discriminator", value, len(real), closes and not further)
            for further in reversed(range(trainer._g_steps)):
                judge = model["discriminator"] if trainer._d_statistics else copy.deepcopy(model["discriminator"])
                with cast():
                    fake = model["generator"](torch.randn(len(real), LATENT))
                    logits = judge(real) if loss.needs_real else None
                    value = loss.generator(judge(fake), logits)
                learn("generator", value, len(real), closes and not further)
    return model, counts


def states(model):
    return {f"{name}.{key}": value for name, net in model.items() for key, value in net.state_dict().items()}


def same(one, other):
    """Return the names of what is not the same bit for bit in two dicts of networks, or of their states."""
    one, other = (states(part) if isinstance(next(iter(part.values())), nn.Module) else part for part in (one, other))
    assert one.keys() == other.keys()
    return [key for key in one if not torch.equal(one[key], other[key])]


def pairs():
    """Return the settings of every pair of options that a step depends on."""
    options = [
        {"_precision": "bf16"},
        {"_accumulation_steps": 2},
        {"_clip_norm": 0.1},
        {"_d_steps": 2},
        {"dropout": True},
    ]
    return [{**a, **b} for a, b in itertools.combinations(options, 2)]


def networks():
    return {"generator": generator(), "discriminator": discriminator()}


class Cycle(Gan):
    """Two generators, each of the other's images, and two discriminators; `joint`: one optimizer for each pair."""

    joint = False

    def get_trainloader(self):
        self.train_loader = DataLoader(TensorDataset(images(), images(seed=1)), batch_size=6)

    def build_model(self):
        torch.manual_seed(0)
        self.model = {
            "generator_ab": generator(16),
            "generator_ba": generator(16),
            "discriminator_a": discriminator(),
            "discriminator_b": discriminator(),
        }
        parts = {name: list(network.parameters()) for name, network in self.model.items()}
        if self.joint:
            sides = ("generator", "discriminator")
            parts = {s: [p for name in parts if name.startswith(s) for p in parts[name]] for s in sides}
        self.optimizer = {name: torch.optim.SGD(parameters, lr=0.1) for name, parameters in parts.items()}

    def discriminator_loss(self):
        return self.of_discriminators(self.model, self.inputs, self.targets)

    def generator_loss(self):
        return self.of_generators(self.model, self.inputs, self.targets)

    def of_discriminators(self, model, a, b):
        loss = AdversarialLoss("least_squares")
        fake_a, fake_b = model["generator_ba"](b), model["generator_ab"](a)
        return loss.discriminator(model["discriminator_a"](a), model["discriminator_a"](fake_a.detach())) + (
            loss.discriminator(model["discriminator_b"](b), model["discriminator_b"](fake_b))
        )

    def of_generators(self, model, a, b):
        loss = AdversarialLoss("least_squares")
        fake_a, fake_b = model["generator_ba"](b), model["generator_ab"](a)
        judged = loss.generator(model["discriminator_a"](fake_a)) + loss.generator(model["discriminator_b"](fake_b))
        again_a, again_b = model["generator_ba"](fake_b), model["generator_ab"](fake_a)
        return judged + (again_a - a).abs().mean() + (again_b - b).abs().mean()

    def by_hand(self):
        """Return copies of the networks, trained by the gradients of each side's loss alone."""
        model = copy.deepcopy(self.model)
        groups = [["discriminator_a", "discriminator_b"], ["generator_ab", "generator_ba"]]
        windows, steps = [[], []], self._accumulation_steps
        optimizers = {name: torch.optim.SGD(network.parameters(), lr=0.1) for name, network in model.items()}
        for _ in range(self._num_epochs):
            batches = list(self.train_loader)
            unit = 0
            for number, (a, b) in enumerate(batches):
                for side, names in enumerate(groups):
                    judges = {name: copy.deepcopy(model[name]) for name in groups[0]} if side else {}
                    value = (self.of_generators if side else self.of_discriminators)({**model, **judges}, a, b)
                    parameters = {name: list(model[name].parameters()) for name in names}
                    flat = [p for name in names for p in parameters[name]]
                    unit = unit if any(windows) else len(a)
                    windows[side].append((len(a), torch.autograd.grad(value * (len(a) / unit), flat)))
                    if len(windows[side]) < steps and number + 1 < len(batches):
                        continue
                    for index, parameter in enumerate(flat):
                        parameter.grad = sum(gradients[index] for _, gradients in windows[side])
                        parameter.grad /= sum(samples for samples, _ in windows[side]) / unit
                    windows[side].clear()
                    if self._clip_norm is not None:
                        for clipped in [flat] if self.joint else parameters.values():
                            nn.utils.clip_grad_norm_(clipped, self._clip_norm)
                    for name in names:
                        optimizers[name].step()
        return model
