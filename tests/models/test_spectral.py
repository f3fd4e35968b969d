"""Spectral norm of all layers of a network."""

import copy

import pytest
import torch
from torch import nn

from farabio_like.errors import ConfigError
from farabio_like.models import spectral_norm


def network():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.ConvTranspose2d(4, 3, 2), nn.Conv1d(1, 1, 1))
    return nn.ModuleList([nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), inner, nn.Linear(5, 2)])


def test_weights_of_all_layers_have_the_norm_one():
    normed = spectral_norm(network())
    layers = [normed[0], normed[2][0], normed[2][1], normed[3]]
    for layer in layers:
        for _ in range(60):
            weight = layer.weight
        matrix = weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight
        assert torch.linalg.matrix_norm(matrix.flatten(1), 2).item() == pytest.approx(1, abs=1e-3)
    assert len(list(normed.parameters())) == len(list(network().parameters()))


def test_a_second_time_changes_nothing_and_copies_work():
    normed = spectral_norm(network()).eval()
    weights = copy.deepcopy(normed).state_dict()
    assert spectral_norm(normed) is normed
    assert weights.keys() == normed.state_dict().keys()
    assert all(torch.equal(value, weights[key]) for key, value in normed.state_dict().items())


def test_a_network_without_layers():
    with pytest.raises(ConfigError, match="ReLU has no linear layer"):
        spectral_norm(nn.ReLU())
