"""Losses of super-resolution: closed forms, features that nothing overwrites, weights from files."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from farabio_like import CheckpointError, ConfigError, DataError
from farabio_like.losses import ContentLoss, PerceptualLoss

torchvision = pytest.importorskip("torchvision")


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(0)
    return torchvision.models.vgg11()


@pytest.fixture(scope="module")
def file(vgg, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vgg11.pth"
    torch.save({**vgg.features.state_dict(prefix="features."), "classifier.0.bias": torch.zeros(3)}, path)
    return path


def images(size=32, seed=0):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.activation = nn.ReLU(inplace=True)
        self.last = nn.Conv2d(4, 2, 3)

    def forward(self, images):
        return self.last(self.activation(self.norm(self.first(images))))


def test_content_losses_have_their_closed_forms():
    outputs, target = torch.full((2, 3, 4, 5), 0.7), torch.full((2, 3, 4, 5), 0.3)
    assert ContentLoss()(outputs, target).item() == pytest.approx(0.4)
    assert ContentLoss("mse")(outputs, target).item() == pytest.approx(0.16)
    assert ContentLoss("charbonnier", epsilon=0.3)(outputs, target).item() == pytest.approx(0.5)
    assert ContentLoss("charbonnier")(target, target).item() == pytest.approx(1e-3)
    half = ContentLoss("charbonnier")(outputs.half(), target.half())
    assert half.dtype == torch.float32 and half.item() == pytest.approx(0.4, rel=1e-3)


@pytest.mark.parametrize("distance", ["l1", "mse", "charbonnier"])
def test_content_losses_have_the_gradient_of_finite_differences(distance):
    outputs = torch.rand(1, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(ContentLoss(distance), (outputs, torch.rand(1, 3, 3, 3, dtype=torch.float64)))


def test_features_are_those_before_the_activation(vgg, file):
    # By hand: the convolution alone, without the ReLU that works in place behind it.
    normalized = torchvision.transforms.functional.normalize(images(), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    before = vgg.features[3](vgg.features[:3](normalized))
    assert before.min() < 0
    for loss in (
        PerceptualLoss("vgg11", {"conv2_1": 1.0, "relu2_1": 1.0}, weights=file),
        PerceptualLoss(vgg, {"conv2_1": 1.0, "relu2_1": 1.0}),
    ):
        found = loss.features(images())
        assert torch.equal(found["conv2_1"], before)
        assert torch.equal(found["relu2_1"], before.clamp(min=0))
        assert len(list(loss.network.children())) == 5  # what lies behind is not run


@pytest.mark.parametrize(("distance", "compare"), [("l1", nn.functional.l1_loss), ("l2", nn.functional.mse_loss)])
def test_the_loss_is_the_weighted_sum_over_the_layers(distance, compare):
    network = Small().eval()
    loss = PerceptualLoss(network, {"first": 0.5, "last": 2.0}, distance, normalize=False)
    outputs, target = images(8), images(8, 1)
    expected = 0.5 * compare(network.first(outputs), network.first(target))
    expected = expected + 2 * compare(network(outputs), network(target))
    assert loss(outputs, target).item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss(target, target).item() == 0


def test_the_network_is_a_frozen_copy_in_eval_mode():
    network = Small()
    loss = PerceptualLoss(network, {"last": 1.0})
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    outputs = images(8).requires_grad_()
    loss.train()
    loss(outputs, images(8, 1)).backward()
    assert outputs.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    assert not any(module.training for module in loss.network.modules())
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())
    assert network.training and all(parameter.requires_grad for parameter in network.parameters())
    assert dict(loss.named_buffers())["mean"].shape == (3, 1, 1)  # moves with the loss


def test_grey_images_are_three_equal_channels():
    loss = PerceptualLoss(Small(), {"first": 1.0})
    grey, other = images()[:, :1], images(seed=1)[:, :1]
    assert torch.equal(loss(grey, other), loss(grey.expand(-1, 3, -1, -1), other.expand(-1, 3, -1, -1)))


def test_the_layers_of_vgg19_have_their_usual_names(tmp_path):
    with torch.device("meta"):
        features = torchvision.models.vgg19().features
    loss = PerceptualLoss(torchvision.models.vgg19(), {"conv5_4": 1.0})
    assert len(loss.network) == 35 and isinstance(features[34], nn.Conv2d)
    assert list(dict(loss.network.named_children()))[-3:] == ["conv5_3", "relu5_3", "conv5_4"]


def test_weights_that_are_not_there_or_others(file, monkeypatch, tmp_path):
    with pytest.raises(CheckpointError, match=r"vgg11\.pth are not those of torchvision's vgg13: "):
        PerceptualLoss("vgg13", {"conv1_1": 1.0}, weights=file)
    with pytest.raises(FileNotFoundError, match="absent.pth"):
        PerceptualLoss("vgg11", {"conv1_1": 1.0}, weights=tmp_path / "absent.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(CheckpointError, match=r"write PerceptualLoss\(weights='path/to/vgg19-dcbb9e9d\.pth'\)"):
        PerceptualLoss()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ContentLoss("l3"), r"ContentLoss\(distance='l3'\): expected one of 'l1', 'mse', 'charbonnier'"),
        (lambda: ContentLoss(epsilon=0), "epsilon=0"),
        (lambda: PerceptualLoss(Small(), {"first": 1.0}, "mse"), "expected one of 'l1', 'l2'"),
        (lambda: PerceptualLoss("vgg91"), "Did you mean 'vgg19'"),
        (lambda: PerceptualLoss(Small()), "no layer 'conv5_4'. There are: first, norm, activation, last"),
        (lambda: PerceptualLoss(Small(), {"frist": 1.0}), "Did you mean 'first'"),
        (lambda: PerceptualLoss(Small(), {"first": -1.0}), "from 0 up"),
        (lambda: PerceptualLoss(Small(), {}), "expected the weights of layers"),
        (lambda: PerceptualLoss(Small(), {"first": 1.0}, weights="a.pth"), "a module and weights"),
    ],
)
def test_arguments_that_are_not_allowed(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def test_images_that_do_not_fit_are_named(vgg):
    with pytest.raises(DataError, match=r"\(1, 3, 4, 4\) and a target of \(1, 3, 4, 5\)"):
        ContentLoss()(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 5))
    loss = PerceptualLoss(vgg, {"conv3_1": 1.0})
    for shape in ((1, 4, 8, 8), (1, 3, 3, 8)):
        with pytest.raises(DataError, match="4 x 4 pixels or more"):
            loss(torch.rand(shape), torch.rand(shape))
