"""The eight networks, small enough to be tried in many ways."""

from farabio_like.models import segmentation

FPN = {"decoder_params": {"pyramid_channels": 16}, "head_params": {"channels": 16}}
PLAIN = {"Unet": {}, "Linknet": {}, "FPNUnet": FPN, "PSPnet": {"decoder_params": {"channels": 16}}}
RESNET = {"ResnetUnet": {}, "ResnetLinknet": {}, "ResnetFPNUnet": FPN, "ResnetPSPnet": {}}
ALL = [*PLAIN, *RESNET]


def make(name, **arguments):
    """Return a network of the name, with few channels."""
    small = {"num_channels": 8, **PLAIN[name]} if name in PLAIN else {"arch": "resnet18", **RESNET[name]}
    return getattr(segmentation, name)(**{**small, **arguments})
