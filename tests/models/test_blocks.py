import pytest
import torch
from torch import nn

from farabio_like import ConfigError
from farabio_like.models.blocks import ConvBlock, ConvUnit, Upsample, fit, make_norm

SIZES = {2: (8, 10), 3: (4, 6, 8)}


@pytest.mark.parametrize("complexity", [0, 1, 3])
def test_complexity_counts_further_units_each_with_parameters_of_its_own(complexity):
    block = ConvBlock(3, 8, complexity)
    assert [unit.convolution.in_channels for unit in block] == [3] + [8] * complexity
    assert len({parameter.data_ptr() for parameter in block.parameters()}) == 3 * (1 + complexity)
    assert [type(layer) for layer in block[0]] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]


@pytest.mark.parametrize("dims", [2, 3])
def test_a_unit_normalizes_what_it_convolves_and_keeps_the_size(dims):
    images = torch.rand(2, 3, *SIZES[dims])
    for norm in ("batch", "group", "instance"):
        unit = ConvUnit(3, 32, dims=dims, norm=norm)
        assert unit.convolution.bias is None
        before = unit.norm(unit.convolution(images))
        assert torch.equal(unit(images), before.clamp(min=0))
        assert before.mean().abs() < 1e-5 and abs(before.var(correction=0) - 1) < 1e-2
    assert ConvUnit(3, 32, dims=dims, norm=None).convolution.bias is not None


def test_the_groups_have_sixteen_channels_where_that_divides():
    assert [make_norm("group", channels).num_groups for channels in (16, 64, 512, 8, 24)] == [1, 4, 32, 1, 1]


@pytest.mark.parametrize("dims", [2, 3])
def test_upsampling(dims):
    features = torch.rand(2, 4, *SIZES[dims])
    larger = [2, 4, *(2 * length for length in SIZES[dims])]
    repeated = Upsample(4, 9, 2, dims=dims)
    assert repeated.out_channels == 4 and not list(repeated.parameters())
    expected = features
    for dim in range(2, dims + 2):
        expected = expected.repeat_interleave(2, dim)
    assert torch.equal(repeated(features), expected)

    learned = Upsample(4, 9, 2, "convolution", dims)
    assert learned.out_channels == 9
    assert list(learned(features).shape) == [2, 9, *larger[2:]]

    smooth = Upsample(4, 4, 4, dims=dims, smooth=True)
    mode = {2: "bilinear", 3: "trilinear"}[dims]
    assert torch.equal(smooth(features), nn.functional.interpolate(features, scale_factor=4, mode=mode))
    assert Upsample(4, 4, 1, dims=dims)(features) is features


def test_fit_cuts_and_repeats_at_the_far_edges():
    features = torch.arange(12.0).reshape(1, 1, 3, 4)
    assert fit(features, [3, 4]) is features
    assert fit(features, [2, 3]).tolist() == [[[[0, 1, 2], [4, 5, 6]]]]
    assert fit(features, [4, 3]).tolist() == [[[[0, 1, 2], [4, 5, 6], [8, 9, 10], [8, 9, 10]]]]
    volume = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
    assert fit(volume, [1, 2, 3]).tolist() == [[[[[0, 1, 1], [2, 3, 3]]]]]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: make_norm("bach", 8),
            "norm='bach'; expected one of 'batch', 'group', 'instance'. Did you mean 'batch'?",
        ),
        (lambda: Upsample(4, 4, 2, "nearest"), "upsample='nearest'; expected one of 'interpolation', 'convolution'."),
        (lambda: ConvUnit(3, 8, dims=4), "dims=4; expected 2 for images or 3 for volumes."),
        (lambda: ConvBlock(3, 8, -1), "complexity=-1; expected a whole number, 0 or more."),
        (lambda: ConvBlock(3, 8, True), "complexity=True; expected a whole number, 0 or more."),
    ],
)
def test_arguments_that_are_not_allowed(make, said):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value) == said
