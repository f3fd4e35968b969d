"""Scripted, exported and compiled networks give what they give eagerly."""

import pytest
import torch
import tqdm

from .nets import ALL, PLAIN, RESNET, make

COMPILE = """
import sys

import torch

from tests.models.segmentation.nets import make

torch.set_num_threads(1)
network, image = make(sys.argv[1]).eval(), torch.rand(2, 3, 65, 50)
with torch.no_grad():
    print(torch.allclose(torch.compile(network, fullgraph=True)(image), network(image), atol=1e-5))
"""


def slow(names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("name", ALL)
def test_scripted(name):
    image = torch.rand(2, 3, 65, 50)
    network = make(name, deep_supervision=True)
    scripted = torch.jit.script(network)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(scripted(image), network(image), strict=True))
    with torch.no_grad():
        assert torch.allclose(scripted.eval()(image), network.eval()(image), atol=1e-6)


@pytest.mark.parametrize("name", [*PLAIN, *slow(RESNET)])
def test_exported_with_any_batch(name):
    network = make(name).eval()
    batch = torch.export.Dim("batch")
    exported = torch.export.export(network, (torch.rand(2, 3, 65, 50),), dynamic_shapes={"image": {0: batch}}).module()
    with torch.no_grad():
        for number in (1, 5):
            images = torch.rand(number, 3, 65, 50)
            assert torch.allclose(exported(images), network(images), atol=1e-6)


@pytest.mark.parametrize("name", ["Unet", *slow(name for name in ALL if name != "Unet")])
def test_traced_by_the_compiler(name, monkeypatch):
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)  # the compiler's bar would start a thread
    network, image = make(name).eval(), torch.rand(2, 3, 65, 50)
    with torch.no_grad():
        compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
        assert torch.allclose(compiled(image), network(image), atol=1e-6)
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Unet", "ResnetLinknet"])
def test_compiled(name, python, tmp_path):
    # In a process of its own: the compiler leaves processes and files.
    folders = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    assert python(COMPILE, name, timeout=500, **folders) == "True\n"
