"""The ResNet encoders: torchvision's features and weights."""

import sys

import pytest
import torch
import torchvision
from torchvision.models.feature_extraction import create_feature_extractor

from farabio_like import CheckpointError, ConfigError
from farabio_like.models.segmentation import ResnetEncoder, ResnetPSPnet, ResnetUnet
from farabio_like.models.segmentation.weights import adapt_filters

NODES = ["relu", "layer1", "layer2", "layer3", "layer4"]


def as_path(state, path):
    torch.save(state, path)
    return path


SOURCES = {"mapping": lambda state, path: state, "path": as_path, "name": lambda state, path: str(as_path(state, path))}


@pytest.mark.parametrize(("arch", "source"), [("resnet18", "mapping"), ("resnet18", "name"), ("resnet50", "path")])
def test_the_features_are_those_of_torchvision(arch, source, tmp_path):
    resnet = torchvision.models.get_model(arch)
    resnet(torch.rand(2, 3, 33, 33))  # moves the statistics
    image = torch.rand(2, 3, 65, 97)
    with torch.no_grad():
        expected = list(create_feature_extractor(resnet.eval(), NODES)(image).values())
    state = SOURCES[source](resnet.state_dict(), tmp_path / "resnet.pth")
    with pytest.warns(UserWarning, match=rf"{arch} left out fc\.\* of the given weights"):
        network = ResnetUnet(arch=arch, encoder_params={"state_dict": state})
    with torch.no_grad():
        features = network.encoder.eval()(image)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(features, expected, strict=True))
    assert [feature.shape[1] for feature in features] == network.encoder.out_channels
    names = {name for name in resnet.state_dict() if not name.startswith("fc.")}
    assert network.encoder.state_dict().keys() == names


@pytest.mark.parametrize("arch", ["resnet34", "resnet101", pytest.param("resnet152", marks=pytest.mark.slow)])
def test_the_other_architectures(arch):
    encoder = ResnetEncoder(arch, depth=5).eval()
    width = 512 if arch == "resnet34" else 2048
    assert encoder.out_channels[-1] == width and encoder.out_strides == [2, 4, 8, 16, 32]
    with torch.no_grad():
        assert encoder(torch.rand(1, 3, 33, 47))[-1].shape == (1, width, 2, 2)


def test_what_is_deeper_is_not_built(recwarn):
    state = torchvision.models.resnet18().state_dict()
    network = ResnetPSPnet(arch="resnet18", encoder_params={"state_dict": state})
    assert [str(warning.message) for warning in recwarn] == [
        "resnet18 left out layer3.*, layer4.*, fc.* of the given weights: an encoder has no such layer."
    ]
    assert network.encoder.out_strides == [2, 4, 8]
    assert torch.equal(network.encoder.layer2[1].conv2.weight, state["layer2.1.conv2.weight"])
    assert ResnetEncoder("resnet18", depth=1).out_channels == [64]
    assert ResnetPSPnet(arch="resnet18", encoder_params={"depth": 5}).head.out_strides == [1]


def test_weights_without_a_classifier_say_nothing(recwarn):
    state = ResnetEncoder("resnet18").state_dict()
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}  # an old file
    encoder = ResnetEncoder("resnet18", state_dict=state)
    assert all(torch.equal(encoder.state_dict()[name], value) for name, value in state.items())
    assert not list(recwarn)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_what_a_wrapper_put_before_the_names_is_left_out(prefix):
    state = ResnetEncoder("resnet18").state_dict()
    encoder = ResnetEncoder("resnet18", state_dict={prefix + name: value for name, value in state.items()})
    assert all(torch.equal(encoder.state_dict()[name], value) for name, value in state.items())


def test_a_grey_image_gives_what_three_equal_channels_gave():
    state = ResnetEncoder("resnet18").state_dict()
    grey, colour = torch.rand(2, 1, 65, 65), ResnetEncoder("resnet18", state_dict=state).eval()
    expected = colour(grey.expand(-1, 3, -1, -1))
    for in_channels in (1, 6):
        encoder = ResnetEncoder("resnet18", in_channels=in_channels, state_dict=state).eval()
        features = encoder(grey.expand(-1, in_channels, -1, -1))
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(features, expected, strict=True))
    for in_channels in (2, 4, 5):
        encoder = ResnetEncoder("resnet18", in_channels=in_channels, state_dict=state)
        assert encoder.conv1.weight.shape == (64, in_channels, 7, 7)
        own = ResnetEncoder("resnet18", in_channels=in_channels, state_dict=encoder.state_dict())
        assert torch.equal(own.conv1.weight, encoder.conv1.weight)


def test_filters_for_more_channels_repeat_in_turn():
    filters = torch.rand(5, 3, 7, 7)
    adapted = adapt_filters(filters, 4)
    assert torch.equal(adapted, filters[:, [0, 1, 2, 0]] * 0.75)


def test_weights_of_another_network(tmp_path):
    state = torchvision.models.resnet34().state_dict()
    with pytest.raises(CheckpointError) as caught:
        ResnetUnet(arch="resnet18", encoder_params={"state_dict": state})
    assert "The weights are not those of this encoder: 96 unknown: layer1.2.conv1.weight," in str(caught.value)
    state = torchvision.models.resnet50().state_dict()
    with pytest.raises(
        CheckpointError, match=r"of another shape: layer1\.0\.conv1\.weight \(64, 64, 1, 1\) for \(64, 64, 3"
    ):
        ResnetUnet(arch="resnet18", encoder_params={"state_dict": state})
    with pytest.raises(CheckpointError, match="missing: conv1.weight, bn1.weight, "):
        ResnetUnet(arch="resnet18", encoder_params={"state_dict": {}})


def test_files_that_are_no_weights(tmp_path):
    def load(path):
        return ResnetUnet(arch="resnet18", encoder_params={"state_dict": path})

    with pytest.raises(FileNotFoundError, match="absent.pth"):
        load(tmp_path / "absent.pth")
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(b"<html>503</html>")
    with pytest.raises(CheckpointError, match=r"damaged\.pth \(16 bytes\) is no file of weights, or damaged: "):
        load(damaged)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list; expected a dict of tensors by name"):
        load(tmp_path / "list.pth")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "module.pth")  # a pickle that would run code
    with pytest.raises(CheckpointError, match="module.pth"):
        load(tmp_path / "module.pth")


def test_pretrained_weights_without_internet(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(CheckpointError) as caught:
        ResnetUnet(arch="resnet34", pretrained=True)
    assert "Fetch https://download.pytorch.org/models/resnet34-b627a593.pth where there is internet" in str(
        caught.value
    )
    assert "encoder_params=dict(state_dict='path/to/resnet34-b627a593.pth')" in str(caught.value)


def test_pretrained_weights_of_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = torchvision.models.resnet18().state_dict()
    name = torchvision.models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(state, tmp_path / "hub" / "checkpoints" / name)
    encoder = ResnetUnet(arch="resnet18", pretrained=True, in_channels=1).encoder
    assert torch.equal(encoder.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert torch.equal(encoder.conv1.weight, state["conv1.weight"].sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"arch": "resnet43"}, "arch='resnet43'; expected one of 'resnet18', .* Did you mean 'resnet34'?"),
        ({"pretrained": True, "encoder_params": {"state_dict": {}}}, "pretrained=True and a state_dict; expected one"),
        (
            {"pretrained": True, "norm": "group"},
            r"pretrained=True with norm='group'.*encoder_params=dict\(norm='batch'\)",
        ),
        ({"encoder_params": {"depth": 6}}, "depth=6; expected one of 1, 2, 3, 4, 5."),
    ],
)
def test_arguments_that_are_not_allowed(arguments, said):
    with pytest.raises(ConfigError, match=said):
        ResnetUnet(**arguments)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise RuntimeError('operator torchvision::nms does not exist')", "operator torchvision::nms does not exist"),
        ("raise ImportError('no such file')", "no such file"),
    ],
)
def test_a_torchvision_that_does_not_fit(source, said, monkeypatch, tmp_path):
    (tmp_path / "torchvision.py").write_text(source)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=f"{said}.*pip install --upgrade torch torchvision"):
        ResnetUnet()
