"""Networks of super-resolution: sizes, parameters, initial weights, gradients."""

import pytest
import torch
from torch import nn

from farabio_like import ConfigError, DataError
from farabio_like.models.superresolution import RRDBNet, SRResNet, VGGDiscriminator

SMALL = {RRDBNet: {"blocks": 1, "features": 8, "growth": 4}, SRResNet: {"blocks": 1, "features": 8}}
NETWORKS = pytest.mark.parametrize("network", list(SMALL))


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_they_have_the_parameters_of_the_papers():
    with torch.device("meta"):
        assert parameters(RRDBNet()) == 16_697_987
        assert parameters(RRDBNet(blocks=16)) == 11_662_019
        assert parameters(SRResNet()) == 1_517_571
        assert 30.3e6 < parameters(VGGDiscriminator()) < 30.4e6


@NETWORKS
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (5, 8), (7, 3)])
def test_every_scale_is_what_it_says_for_any_size(network, scale, size):
    model = network(scale, **SMALL[network])
    assert model.scale == scale
    assert model(torch.rand(2, 3, *size)).shape == (2, 3, size[0] * scale, size[1] * scale)


@NETWORKS
def test_the_residuals_begin_small(network):
    models = []
    for scale in (1.0, 0.1):
        torch.manual_seed(0)
        models.append(network(init_scale=scale, **SMALL[network]))
    large, small = (model.blocks for model in models)
    for one, other in zip(large.modules(), small.modules(), strict=True):
        if isinstance(one, nn.Conv2d):
            assert torch.allclose(other.weight, 0.1 * one.weight) and not other.bias.any()
            fan_in = one.weight[0].numel()
            assert one.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.2)


@NETWORKS
def test_residual_scale_multiplies_every_residual(network):
    features = torch.randn(1, 8, 5, 5)
    found = []
    for scale in (1.0, 0.5):
        torch.manual_seed(0)
        block = network(residual_scale=scale, init_scale=1.0, **SMALL[network]).blocks[0]
        one = block[0] if network is RRDBNet else block
        found.append(one(features) - features)
    assert torch.allclose(found[1], 0.5 * found[0], atol=1e-6)


def test_srresnet_begins_near_the_enlarged_image():
    images = torch.rand(1, 3, 9, 7)
    enlarged = nn.functional.interpolate(images, scale_factor=4, mode="bilinear")
    assert (SRResNet()(images) - enlarged).abs().max() < 0.1


@NETWORKS
def test_outputs_are_not_clamped_and_every_weight_learns(network):
    model = network(2, **SMALL[network])
    outputs = model(100 * torch.randn(1, 3, 8, 8))
    assert outputs.min() < 0 and outputs.max() > 1
    outputs.square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@NETWORKS
def test_one_channel(network):
    assert network(2, channels=1, **SMALL[network])(torch.rand(1, 1, 4, 4)).shape == (1, 1, 8, 8)


@pytest.mark.parametrize("size", [(16, 16), (128, 96), (33, 1)])
def test_the_discriminator_takes_any_size(size):
    model = VGGDiscriminator(features=4, hidden=8)
    logits = model(torch.rand(2, 3, *size))
    assert logits.shape == (2, 1)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_discriminator_halves_four_times_and_has_the_norm_that_is_asked_for():
    model = VGGDiscriminator(features=4, hidden=8)
    assert model.features(torch.rand(2, 3, 64, 32)).shape == (2, 32, 4, 2)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in model.features) == 7
    assert not any("Norm" in type(m).__name__ for m in VGGDiscriminator(features=4, hidden=8, norm=None).modules())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RRDBNet(scale=5), "scale=5; expected one of 2, 3, 4, 8."),
        (lambda: SRResNet(scale=2.5), "scale=2.5; expected one of 2, 3, 4, 8."),
        (lambda: RRDBNet(blocks=0), "blocks=0; expected a whole number, 1 or more."),
        (lambda: SRResNet(residual_scale=-1), "residual_scale=-1; expected a number above 0."),
        (lambda: RRDBNet(init_scale="0.1"), "init_scale='0.1'; expected a number above 0."),
        (lambda: VGGDiscriminator(norm="bach"), "norm='bach'; expected one of"),
    ],
)
def test_arguments_that_are_not_allowed(make, said):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(said)


def test_images_of_another_shape_are_named():
    for model in (SRResNet(2, **SMALL[SRResNet]), VGGDiscriminator(features=4, hidden=8)):
        with pytest.raises(DataError, match=r"shape \(1, 1, 8, 8\); expected N x 3 x height x width"):
            model(torch.rand(1, 1, 8, 8))


@NETWORKS
def test_weights_of_another_scale_are_not_loaded(network):
    model = network(2, residual_scale=0.3, **SMALL[network])
    same = network(2, residual_scale=0.3, **SMALL[network])
    same.load_state_dict(model.state_dict())
    assert torch.equal(same(torch.ones(1, 3, 4, 4)), model(torch.ones(1, 3, 4, 4)))
    with pytest.raises(
        RuntimeError, match=r"scale=2, residual_scale=0\.3; this network has scale=2, residual_scale=0\.5"
    ):
        network(2, residual_scale=0.5, **SMALL[network]).load_state_dict(model.state_dict())
    if network is RRDBNet:  # the parameters would fit
        with pytest.raises(RuntimeError, match=r"those of scale=2, .* this network has scale=3"):
            network(3, residual_scale=0.3, **SMALL[network]).load_state_dict(model.state_dict())
    other = {name: value for name, value in model.state_dict().items() if name != "settings"}
    same.load_state_dict(other)
    model.half()
    assert model.settings.tolist() == [2, 300_000]
