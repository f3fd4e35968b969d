"""All eight networks: shapes, gradients, weights, and what each argument changes."""

import copy
import io

import pytest
import torch
from torch import nn

from farabio_like import ConfigError, DataError
from farabio_like.models import segmentation
from farabio_like.models.segmentation import FPNUnet, PSPnet, ResnetFPNUnet, ResnetUnet, Unet
from farabio_like.models.segmentation.unet import AttentionGate

from .nets import ALL, PLAIN, make

SIZES = [(64, 64), (65, 65), (250, 250), (33, 47)]


@pytest.mark.parametrize("in_channels", [1, 4])
@pytest.mark.parametrize("name", ALL)
def test_logits_have_the_size_of_the_image(name, in_channels):
    network = make(name, in_channels=in_channels, num_classes=2)
    network.train(in_channels == 1)  # either mode once
    for size in SIZES:
        with torch.no_grad():
            logits = network(torch.rand(1, in_channels, *size))
        assert logits.shape == (1, 2, *size)


@pytest.mark.parametrize("name", ALL)
def test_the_output_is_logits(name):
    network, image = make(name, num_classes=3).eval(), torch.rand(1, 3, 32, 32)
    *_, last = [module for module in network.head.modules() if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))]
    with torch.no_grad():
        before = network(image)
        last.bias += torch.tensor([7.0, -7.0, 0.0])
        assert torch.allclose(network(image), before + torch.tensor([7.0, -7.0, 0.0])[:, None, None], atol=1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_volumes(name):
    network = make(name, dims=3, num_channels=4, in_channels=1, deep_supervision=True)
    for size in [(16, 16, 16), (17, 31, 33)]:
        outputs = network(torch.rand(2, 1, *size))
        assert len(outputs) > 1 and all(logits.shape == (2, 1, *size) for logits in outputs)
    sum(logits.mean() for logits in outputs).backward()
    assert_gradients(network)


def test_images_of_a_pixel():
    for name in ALL:
        network = make(name).eval()
        with torch.no_grad():
            assert network(torch.rand(1, 3, 1, 1)).shape == (1, 1, 1, 1)


MILLIONS = {"Unet": 7.85, "Linknet": 7.07, "FPNUnet": 11.46, "PSPnet": 2.03}
MILLIONS |= {"ResnetUnet": 24.43, "ResnetLinknet": 21.63, "ResnetFPNUnet": 23.16, "ResnetPSPnet": 1.63}


@pytest.mark.parametrize("name", ALL)
def test_numbers_of_parameters(name):
    count = sum(parameter.numel() for parameter in getattr(segmentation, name)().parameters())
    assert round(count / 1e6, 2) == MILLIONS[name]


@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_every_parameter(name):
    network = make(name, norm="group")
    network(torch.rand(2, 3, 64, 64)).square().mean().backward()
    assert_gradients(network)


def assert_gradients(network):
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


@pytest.mark.parametrize("name", ALL)
def test_weights_are_saved_and_loaded(name):
    network, other = make(name), make(name)
    network(torch.rand(2, 3, 64, 64))  # moves the statistics
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    image = torch.rand(1, 3, 64, 64)
    expected = network.eval()(image)
    assert torch.equal(other.eval()(image), expected)
    assert torch.equal(copy.deepcopy(network)(image), expected)


@pytest.mark.parametrize("name", ALL)
def test_deep_supervision(name):
    torch.manual_seed(1)
    network, deep = make(name), make(name, deep_supervision=True)
    assert deep.load_state_dict(network.state_dict(), strict=False).unexpected_keys == []
    image = torch.rand(2, 3, 65, 50)
    logits, *further = deep(image)
    assert torch.equal(logits, network(image))
    assert len(further) == len(deep.decoder.out_channels) - 1 >= 1
    assert all(output.shape == logits.shape for output in further)
    sum(output.mean() for output in [logits, *further]).backward()
    assert_gradients(deep)
    assert torch.equal(deep.eval()(image), network.eval()(image))


def test_a_single_feature_cannot_be_supervised():
    with pytest.raises(ConfigError, match="deep_supervision=True, and PSPDecoder gives one feature"):
        PSPnet(num_blocks=1, deep_supervision=True)


@pytest.mark.parametrize("name", ALL)
def test_norms_and_upsampling(name):
    kinds = {"batch": nn.BatchNorm2d, "group": nn.GroupNorm, "instance": nn.InstanceNorm2d}
    for norm, kind in kinds.items():
        network = make(name, norm=norm)
        found = {type(module) for module in network.modules() if type(module) in kinds.values()}
        assert found == {kind}
        assert network(torch.rand(2, 3, 64, 64)).isfinite().all()


@pytest.mark.parametrize("name", ["Unet", "Linknet", "ResnetUnet", "ResnetLinknet"])
def test_upsampling_by_convolution(name):
    learned, repeated = {"upsample": "convolution"}, {"upsample": "interpolation"}
    network = make(name, decoder_params=learned, head_params=learned)
    assert sum(isinstance(m, nn.ConvTranspose2d) for m in network.modules()) >= 4
    assert network(torch.rand(2, 3, 65, 47)).shape == (2, 1, 65, 47)
    network = make(name, decoder_params=repeated, head_params=repeated)
    assert not any(isinstance(m, nn.ConvTranspose2d) for m in network.modules())


def test_complexity_of_each_part():
    network = Unet(
        num_channels=8,
        num_blocks=3,
        encoder_params={"complexity": 0},
        bridge_params={"complexity": 2, "out_channels": 24},
        decoder_params={"complexity": 3, "channels": [8, 10, 12]},
    )
    assert [len(block) for block in network.encoder.blocks] == [1, 1, 1]
    assert len(network.bridge.block) == 3
    assert [len(step.block) for step in network.decoder.steps] == [4, 4, 4]
    assert network.bridge.out_channels == [8, 16, 32, 24] and network.bridge.out_strides == [1, 2, 4, 8]
    assert network.decoder.out_channels == [8, 10, 12]
    assert network(torch.rand(2, 3, 33, 33)).shape == (2, 1, 33, 33)


def test_a_part_has_its_own_norm():
    network = ResnetUnet(arch="resnet18", norm="group", encoder_params={"norm": "batch"})
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.encoder.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.decoder.modules())


def test_a_bridge_below_a_resnet():
    network = ResnetFPNUnet(arch="resnet18", bridge_params={"out_channels": 64})
    assert network.decoder.out_strides == [4, 8, 16, 32, 64]
    assert network(torch.rand(2, 3, 65, 65)).shape == (2, 1, 65, 65)


@pytest.mark.parametrize("dims", [2, 3])
def test_an_attention_gate_weighs_every_place(dims):
    gate = AttentionGate(4, 6, 2, dims)
    skip, coarse = torch.rand(2, 4, *[7] * dims), torch.rand(2, 6, *[4] * dims)
    weights = gate(skip, coarse) / skip
    assert ((weights > 0) & (weights < 1)).all()
    assert torch.allclose(weights[:, :1].expand_as(weights), weights, atol=1e-6)

    # By hand, where the grids of skip and gate divide evenly and the weight is the same everywhere.
    skip, coarse = torch.full((1, 4, *[8] * dims), 0.5), torch.full((1, 6, *[4] * dims), 0.25)
    of_skip, of_gate, psi = gate.of_skip.weight.flatten(1), gate.of_gate.weight.flatten(1), gate.psi.weight.flatten(1)
    hidden = (0.5 * of_skip.sum(1) + 0.25 * of_gate.sum(1) + gate.of_gate.bias).clamp(min=0)
    expected = torch.sigmoid(psi @ hidden + gate.psi.bias).item()
    assert torch.allclose(gate(skip, coarse), 0.5 * torch.tensor(expected).expand_as(skip), atol=1e-6)


@pytest.mark.parametrize("name", ["Unet", "ResnetUnet"])
def test_attention_on_the_skips(name):
    network = make(name, attention=True, norm="group")
    assert sum(isinstance(module, AttentionGate) for module in network.modules()) == 4
    assert not any(isinstance(module, AttentionGate) for module in make(name).modules())
    logits = network(torch.rand(2, 3, 65, 47))
    assert logits.shape == (2, 1, 65, 47)
    logits.mean().backward()
    assert_gradients(network)


@pytest.mark.parametrize("name", ["Unet", "ResnetUnet"])
def test_a_frozen_encoder_stays_as_it_is(name):
    network = make(name)
    network.freeze_encoder()
    network.train()
    before = {key: value.clone() for key, value in network.encoder.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1)
    network(torch.rand(2, 3, 32, 32)).mean().backward()
    optimizer.step()
    assert all(torch.equal(before[key], value) for key, value in network.encoder.state_dict().items())
    assert not any(module.training for module in network.encoder.modules())
    assert all(module.training for module in network.decoder.modules())
    assert any(parameter.grad is not None for parameter in network.decoder.parameters())

    network.unfreeze_encoder()
    assert all(module.training for module in network.modules())
    network.eval()
    network.freeze_encoder()
    network.unfreeze_encoder()
    assert not any(module.training for module in network.modules())
    network.train()
    network(torch.rand(2, 3, 32, 32)).mean().backward()
    assert all(parameter.grad is not None for parameter in network.encoder.parameters())


def test_a_unet_learns_four_images_by_heart():
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    centres = [(14, 16, 8), (30, 20, 11), (20, 33, 6), (33, 31, 9)]
    masks = torch.stack([((rows - y) ** 2 + (columns - x) ** 2 < r**2).float() for y, x, r in centres])[:, None]
    images = 0.5 * masks + torch.rand(4, 1, 48, 48)
    network = Unet(in_channels=1, num_channels=8, num_blocks=3)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)

    def dice(shares):
        return 2 * (shares * masks).sum() / (shares.sum() + masks.sum())

    for _ in range(60):
        loss = 1 - dice(network(images).sigmoid())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert dice((network(images) > 0).float()) > 0.98
    with torch.no_grad():
        assert dice((network.eval()(images) > 0).float()) > 0.98


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"decoder_params": {"complexty": 2}},
            "decoder_params has 'complexty', which UnetDecoder does not take. Did you mean 'complexity'? There are: "
            "channels, upsample, complexity, norm, attention.",
        ),
        ({"encoder_params": {"in_channels": 1}}, "encoder_params has 'in_channels', which PlainEncoder does not take."),
        ({"num_classes": 0}, "num_classes=0; expected a whole number, 1 or more."),
        ({"in_channels": 2.0}, "in_channels=2.0; expected a whole number, 1 or more."),
        ({"num_blocks": 0}, "num_blocks=0; expected a whole number, 1 or more."),
        ({"dims": 1}, "dims=1; expected 2 for images or 3 for volumes."),
        ({"norm": "layer"}, "norm='layer'; expected one of 'batch', 'group', 'instance'."),
        ({"decoder_params": {"channels": [8]}}, "UnetDecoder of 5 features with channels=[8]; expected two features"),
    ],
)
def test_arguments_that_are_not_allowed(arguments, said):
    with pytest.raises(ConfigError) as caught:
        Unet(**arguments)
    assert said in str(caught.value)


def test_a_pyramid_without_a_level():
    with pytest.raises(ConfigError, match="FPNDecoder with finest_stride=64, and no feature of .* is as coarse"):
        FPNUnet(decoder_params={"finest_stride": 64})


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (torch.rand(3, 64, 64), "Unet got an image of shape (3, 64, 64); expected (N, C, H, W). Write image[None]"),
        (torch.rand(2, 3, 8, 8, 8), "Unet got an image of shape (2, 3, 8, 8, 8); expected (N, C, H, W)."),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "Unet got an image of torch.uint8; expected floating point"),
    ],
)
def test_images_that_are_none(image, said):
    with pytest.raises(DataError) as caught:
        make("Unet")(image)
    assert said in str(caught.value)


def test_the_public_names():
    assert sorted(segmentation.__all__) == segmentation.__all__
    assert all(hasattr(segmentation, name) for name in segmentation.__all__)
