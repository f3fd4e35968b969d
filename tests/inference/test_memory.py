"""How much memory `sliding_window` takes, in processes that may not have more.

The limit is on private memory (RLIMIT_DATA): what is mapped from a file is not in it, and can go back to the file.
"""

import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone limits private memory")

SCRIPT = """
import resource, sys
import numpy as np
import torch
from farabio_like.inference import sliding_window

torch.set_num_threads(1)
MB = 2**20


def limit(megabytes):
    '''Allow so much more than there is.'''
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    now = int(status["VmData"].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (now + int(megabytes * MB), resource.RLIM_INFINITY))


def attempt(*arguments, **further):
    try:
        return sliding_window(*arguments, **further)
    except (MemoryError, RuntimeError) as error:
        assert isinstance(error, MemoryError) or "memory" in str(error), error


class Scores(torch.nn.Module):
    '''So many scores of every voxel, of which the one of its own class is largest.'''

    def __init__(self, classes):
        super().__init__()
        self.classes = torch.arange(classes, dtype=torch.float32).reshape(1, -1, 1, 1, 1)

    def forward(self, windows):
        return (self.classes - windows).abs_().neg_()
"""


def test_a_volume_larger_than_memory_from_file_to_file(python):
    script = """
shape = (1, 1, 160, 320, 320)
volume = np.memmap("volume.raw", dtype=np.float32, mode="w+", shape=shape)
for z in range(160):
    volume[0, 0, z] = z
out = np.memmap("out.raw", dtype=np.float32, mode="w+", shape=shape)
double = lambda windows: windows * 2
sliding_window(double, volume[..., :20, :20], 16, out=out[..., :20, :20])  # loads what is loaded once

# A slab of 32 rows and the weights of one row of windows, twice, are 3 * 12.5 MB.
limit(56)
assert volume.nbytes == out.nbytes == 62.5 * MB
assert attempt(double, volume, 32, batch_size=2) is None
sliding_window(double, volume, 32, batch_size=2, out=out)
differs = max(abs(out[0, 0, z] - 2 * z).max() for z in range(160))
print(differs < 1e-4)
"""
    assert python(SCRIPT + script) == "True\n"


def test_reduce_holds_one_slab_of_a_hundred_classes(python):
    script = """
model = Scores(100)
numbers = torch.arange(128 * 80 * 80).reshape(1, 1, 128, 80, 80)
volume = (numbers % 100).float()
sliding_window(model, volume[..., :20, :20], 16, reduce="argmax")

# All means together are 312.5 MB, a slab of 16 rows is 39.1 MB, the result 6.3 MB.
limit(100)
assert attempt(model, volume, 16) is None
classes = sliding_window(model, volume, 16, reduce="argmax")
print(torch.equal(classes, numbers[0] % 100))
"""
    assert python(SCRIPT + script) == "True\n"


def test_without_reduce_memory_is_the_output_and_a_batch(python):
    script = """
model = Scores(8)
image = torch.rand(2, 1, 128, 80, 80)
sliding_window(model, image[..., :20, :20], 16)

# The output is 50 MB; a batch of four windows with eight scores, 0.5 MB; the weights of one row of windows, 0.4 MB.
limit(44)
assert attempt(model, image, 16) is None
limit(64)
print(tuple(sliding_window(model, image, 16).shape))
"""
    assert python(SCRIPT + script) == "(2, 8, 128, 80, 80)\n"
