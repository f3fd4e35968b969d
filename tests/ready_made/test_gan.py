"""`GanTrainer`: what each side learns, and what it leaves alone; counts of steps; averages, pictures, warnings, resume."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from farabio_like.errors import ConfigError, HookError, NonFiniteError
from farabio_like.models import spectral_norm
from farabio_like.trainers import GanTrainer

from .gans import LATENT, QUIET, Gan, by_hand, discriminator, generator, images, pairs, same, states

# A step is that of each loss alone, bit for bit


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"_loss": "hinge"},
        {"_loss": "relativistic"},
        {"_loss": "least_squares", "_smoothing": 0.1},
        {"_loss": "wasserstein", "_gradient_penalty": "wgan-gp", "norm": False},
        {"_gradient_penalty": "r1", "norm": False, "_accumulation_steps": 2},
        {"_gradient_penalty": "r1", "norm": False, "_precision": "bf16"},
        {"_d_statistics": True, "_g_steps": 2},
        {"_d_steps": 3, "_accumulation_steps": 4},
        {"_d_steps": 2, "_g_steps": 3, "_accumulation_steps": 3, "_clip_norm": 0.1},
        *pairs(),
    ],
    ids=lambda settings: "-".join(f"{key.strip('_')}={value}" for key, value in settings.items()) or "default",
)
def test_a_run_is_the_one_by_hand_in_which_each_side_has_its_own_loss_alone(settings):
    trainer = Gan(settings)
    before, steps = copy.deepcopy(states(trainer.model)), count_steps(trainer)
    torch.manual_seed(7)
    expected, counts = by_hand(trainer)
    torch.manual_seed(7)
    trainer.train()
    assert same(trainer.model, expected) == []
    assert steps == counts
    assert len(same(before, expected)) == len(before)  # all of it has moved


def count_steps(trainer):
    """Return the number of steps of every optimizer, counted from now on."""
    counts = dict.fromkeys(trainer.optimizer, 0)

    def count(name):
        counts[name] += 1

    for name, optimizer in trainer.optimizer.items():
        optimizer.register_step_post_hook(lambda *_, name=name: count(name))
    return counts
