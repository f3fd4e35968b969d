"""Structures of outputs by the place of their parts."""

import collections

import pytest
import torch

from farabio_like.errors import HookError
from farabio_like.inference.model import leaves, like, output_tensors

Pair = collections.namedtuple("Pair", ["a", "b"])


def test_leaves_by_place_and_back():
    value = {"x": (1, [2, Pair(3, 4)]), 5: 6}
    found = leaves(value)
    assert found == {"['x'][0]": 1, "['x'][1][0]": 2, "['x'][1][1][0]": 3, "['x'][1][1][1]": 4, "[5]": 6}
    again = like(value, {name: -leaf for name, leaf in found.items()})
    assert again == {"x": (-1, [-2, Pair(-3, -4)]), 5: -6} and type(again["x"][1][1]) is Pair
    assert leaves(7) == {"": 7} and like(7, {"": 8}) == 8
    ordered = collections.OrderedDict(out=1)
    assert type(like(ordered, leaves(ordered))) is dict


def test_empty_structures_have_no_tensors():
    with pytest.raises(HookError, match="the model gave an empty dict; expected at least one tensor"):
        output_tensors({}, "the model")
    assert output_tensors(torch.ones(1), "the model")[""].item() == 1
