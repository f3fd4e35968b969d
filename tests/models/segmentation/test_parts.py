"""Parts of one's own, bolted into a network."""

import pytest
import torch
from torch import nn
from torchvision.models import convnext_tiny, densenet121, mobilenet_v3_small
from torchvision.models.feature_extraction import create_feature_extractor

from farabio_like import ConfigError, DataError
from farabio_like.models.segmentation import (
    BackboneEncoder,
    ConvHead,
    DecoderSpec,
    EncoderSpec,
    FPNDecoder,
    FPNHead,
    HeadSpec,
    IdentityBridge,
    LinknetDecoder,
    PlainEncoder,
    PSPDecoder,
    SegmentationNet,
    UnetDecoder,
    UpsampleHead,
)

DECODERS = {UnetDecoder: UpsampleHead, LinknetDecoder: ConvHead, FPNDecoder: FPNHead, PSPDecoder: ConvHead}


class OwnEncoder(EncoderSpec):
    def __init__(self, told=(4, 6)):
        super().__init__(out_channels=told, out_strides=[1, 3])
        self.fine = nn.Conv2d(3, 4, 3, padding=1)
        self.coarse = nn.Conv2d(4, 6, 3, stride=3)

    def forward(self, image):
        fine = self.fine(image)
        return [fine, self.coarse(fine)]


class OwnDecoder(DecoderSpec):
    def __init__(self, in_channels, in_strides):
        super().__init__([sum(in_channels)], in_strides[:1])

    def forward(self, features):
        size = features[0].shape[2:]
        return [torch.cat([nn.functional.interpolate(feature, size) for feature in features], 1)]


class OwnHead(HeadSpec):
    def __init__(self, in_channels, num_classes):
        super().__init__(num_classes)
        self.classify = nn.Conv2d(in_channels[0], num_classes, 1)

    def forward(self, features):
        return self.classify(features[0])


def composed(encoder, decoder=UnetDecoder, head=UpsampleHead, num_classes=2):
    bridge = IdentityBridge(encoder.out_channels, encoder.out_strides)
    decoder = decoder(bridge.out_channels, bridge.out_strides)
    return SegmentationNet(encoder, bridge, decoder, head(decoder.out_channels, decoder.out_strides, num_classes))


@pytest.mark.parametrize("decoder", DECODERS)
def test_an_encoder_of_ones_own(decoder):
    encoder = OwnEncoder()
    if decoder is FPNDecoder:  # whose head doubles the size, and the stride here is 3
        with pytest.raises(ConfigError, match="doubled up to a factor of 3; expected a power of two"):
            composed(encoder, decoder, FPNHead)
        return
    network = composed(encoder, decoder, DECODERS[decoder])
    for size in [(33, 33), (34, 47)]:
        assert network(torch.rand(2, 3, *size)).shape == (2, 2, *size)


def test_a_decoder_and_a_head_of_ones_own():
    encoder = PlainEncoder(num_channels=4, num_blocks=3)
    decoder = OwnDecoder(encoder.out_channels, encoder.out_strides)
    bridge = IdentityBridge(encoder.out_channels, encoder.out_strides)
    network = SegmentationNet(encoder, bridge, decoder, OwnHead(decoder.out_channels, 3))
    image = torch.rand(2, 3, 33, 47)
    fine, middle, coarse = encoder.eval()(image)
    network.eval()
    stacked = torch.cat([fine, *(nn.functional.interpolate(f, (33, 47)) for f in (middle, coarse))], 1)
    assert torch.equal(network(image), network.head.classify(stacked))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("backbone", "nodes", "channels", "strides"),
    [
        (
            mobilenet_v3_small,
            ["features.0", "features.1", "features.3", "features.8", "features.12"],
            [16, 16, 24, 48, 576],
            [2, 4, 8, 16, 32],
        ),
    ],
)
def test_a_backbone_of_torchvision(backbone, nodes, channels, strides, decoder):
    encoder = BackboneEncoder(create_feature_extractor(backbone(), return_nodes=nodes))
    assert encoder.out_channels == channels and encoder.out_strides == strides
    network = composed(encoder, decoder, DECODERS[decoder])
    assert network.encoder.backbone.training
    for size in [(64, 64), (65, 47)]:
        assert network(torch.rand(2, 3, *size)).shape == (2, 2, *size)


@pytest.mark.parametrize(
    ("backbone", "nodes", "strides"),
    [
        (convnext_tiny, ["features.1", "features.3", "features.5", "features.7"], [4, 8, 16, 32]),
        (densenet121, ["features.relu0", "features.denseblock1", "features.denseblock2"], [2, 4, 8]),
    ],
)
def test_backbones_that_round_sizes_down(backbone, nodes, strides):
    encoder = BackboneEncoder(create_feature_extractor(backbone(), return_nodes=nodes))
    assert encoder.out_strides == strides
    network = composed(encoder).eval()
    with torch.no_grad():
        for size in [(64, 64), (95, 65)]:
            assert network(torch.rand(1, 3, *size)).shape == (1, 2, *size)


class Backbone(nn.Module):
    """Gives means over squares of so many pixels."""

    def __init__(self, *sides):
        super().__init__()
        self.sides = sides
        self.norm = nn.BatchNorm2d(3)

    def forward(self, image):
        return [nn.functional.avg_pool2d(self.norm(image), side) for side in self.sides]


def test_a_backbone_is_measured_without_a_trace():
    backbone = Backbone(1, 4).train()
    backbone.norm.eval()
    encoder = BackboneEncoder(backbone)
    assert encoder.out_channels == [3, 3] and encoder.out_strides == [1, 4]
    assert backbone.training and not backbone.norm.training and backbone.norm.num_batches_tracked == 0
    assert len(encoder(torch.rand(2, 3, 8, 8))) == 2


@pytest.mark.parametrize("sides", [(4, 2), (2, 3), (2, 5)])
def test_strides_that_do_not_rise_by_whole_factors(sides):
    with pytest.raises(
        ConfigError, match=r"BackboneEncoder has out_strides=\[., .\]; expected the finest feature first"
    ):
        BackboneEncoder(Backbone(*sides))


def test_a_backbone_whose_channels_come_last():
    backbone = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(3, 96, 1), Permute())
    with pytest.raises(
        ConfigError, match=r"Sequential gives features of the shapes \[\(1, 32, 32, 96\)\] for an image"
    ):
        BackboneEncoder(backbone)


class Permute(nn.Module):
    def forward(self, features):
        return [features.permute(0, 2, 3, 1)]


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_backbone_with_equal_strides(decoder):
    encoder = BackboneEncoder(Backbone(2, 4, 4))
    assert encoder.out_strides == [2, 4, 4]
    assert composed(encoder, decoder, DECODERS[decoder])(torch.rand(2, 3, 33, 47)).shape == (2, 2, 33, 47)
    encoder = BackboneEncoder(Backbone(4, 4))
    if decoder is not FPNDecoder:
        assert composed(encoder, decoder, DECODERS[decoder])(torch.rand(2, 3, 33, 47)).shape == (2, 2, 33, 47)
        return
    with pytest.raises(
        ConfigError, match=r"FPNHead of levels of the strides \[4, 4\]; expected one level of the smallest"
    ):
        composed(encoder, decoder, DECODERS[decoder])


def test_parts_that_do_not_tell_what_they_give():
    with pytest.raises(
        ConfigError, match=r"OwnEncoder has out_channels=\(4, 6, 8\) and out_strides=\[1, 3\]; expected"
    ):
        OwnEncoder(told=(4, 6, 8))
    network = composed(OwnEncoder(told=(4, 8)))
    with pytest.raises(DataError, match="OwnEncoder gave as number 1 a feature of shape .*expected 8 channels and the"):
        network(torch.rand(2, 3, 32, 32))
    encoder = OwnEncoder()
    encoder.out_strides = [1, 2]
    with pytest.raises(
        DataError, match=r"OwnEncoder gave .* image of 32 x 33 pixels; expected 6 channels and the stri"
    ):
        composed(encoder)(torch.rand(2, 3, 32, 33))
    encoder = OwnEncoder()
    encoder.forward = lambda image: [image]
    with pytest.raises(DataError, match=r"OwnEncoder gave 1 features; expected 2, one for each of its out_channels="):
        composed(encoder)(torch.rand(2, 3, 32, 33))


def test_the_head_of_a_pyramid_adds_all_levels_at_the_finest_size():
    head = FPNHead([8, 8, 8], [2, 4, 16], num_classes=3, channels=6).eval()
    levels = [torch.rand(2, 8, side, side) for side in (32, 16, 4)]

    def enlarged(features, factor):
        return nn.functional.interpolate(features, scale_factor=factor, mode="bilinear")

    middle, (first, _, second, _, third) = head.coarser[0][0], head.coarser[1]
    coarse = third(enlarged(second(enlarged(first(levels[2]), 2)), 2))
    merged = head.finest(levels[0]) + enlarged(middle(levels[1]), 2) + enlarged(coarse, 2)
    expected = enlarged(head.logits.layers[0](merged), 2)
    assert torch.allclose(head(levels), expected, atol=1e-5)


def test_a_head_that_stays_too_small():
    encoder = PlainEncoder(num_channels=4, num_blocks=2)
    bridge = IdentityBridge(encoder.out_channels, encoder.out_strides)
    decoder = PSPDecoder(encoder.out_channels, encoder.out_strides, channels=8)
    network = SegmentationNet(encoder, bridge, decoder, OwnHead(decoder.out_channels, 1))
    with pytest.raises(DataError, match=r"OwnHead gave .* \(2, 1, 16, 16\), of an image of 32 x 32 pixels"):
        network(torch.rand(2, 3, 32, 32))
