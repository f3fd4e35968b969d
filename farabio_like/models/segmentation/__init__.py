"""Networks that give every pixel a class: `Unet`, `Linknet`, `FPNUnet`, `PSPnet`, and each with a ResNet as encoder.

Each is an encoder, a bridge, a decoder and a head; users subclass the parts. Losses and trainers stand elsewhere.
"""

from .bridges import ConvBridge, IdentityBridge
from .encoders import BackboneEncoder, PlainEncoder, ResnetEncoder
from .fpn import FPNDecoder, FPNHead, FPNUnet, ResnetFPNUnet
from .heads import ConvHead, UpsampleHead
from .linknet import Linknet, LinknetDecoder, ResnetLinknet
from .network import SegmentationNet
from .parts import BridgeSpec, DecoderSpec, EncoderSpec, HeadSpec
from .pspnet import PSPDecoder, PSPnet, ResnetPSPnet
from .unet import ResnetUnet, Unet, UnetDecoder

__all__ = [
    "BackboneEncoder",
    "BridgeSpec",
    "ConvBridge",
    "ConvHead",
    "DecoderSpec",
    "EncoderSpec",
    "FPNDecoder",
    "FPNHead",
    "FPNUnet",
    "HeadSpec",
    "IdentityBridge",
    "Linknet",
    "LinknetDecoder",
    "PSPDecoder",
    "PSPnet",
    "PlainEncoder",
    "ResnetEncoder",
    "ResnetFPNUnet",
    "ResnetLinknet",
    "ResnetPSPnet",
    "ResnetUnet",
    "SegmentationNet",
    "Unet",
    "UnetDecoder",
    "UpsampleHead",
]
