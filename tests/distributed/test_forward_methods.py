"""Methods of a module that are called from outside run as its forward does."""

import pytest
import torch
from torch import nn

from farabio_like.distributed.forward_methods import forward_methods


def test_methods_from_outside_run_as_the_forward():
    class Net(nn.Module):
        def forward(self, x):
            return self.doubled(x)

        def doubled(self, x):
            return 2 * x

        def name(self):
            return "net"

        @staticmethod
        def half(x):
            return x / 2

    net, calls = Net(), []
    forward_methods(net)
    net.register_forward_hook(lambda *_: calls.append(1))
    one = torch.ones(())
    assert (net.doubled(one), len(calls)) == (2, 1)
    assert (net(one), len(calls)) == (2, 2)
    assert (net.name(), net.half(one), len(calls)) == ("net", 0.5, 2)
    with pytest.raises(TypeError):
        net.doubled(one, one)
    assert (net(one), len(calls)) == (2, 3)
