"""Networks that make an image larger, `RRDBNet` and `SRResNet`, and one that judges the result, `VGGDiscriminator`.

Losses, metrics, data and trainers stand elsewhere.
"""

from .discriminator import VGGDiscriminator
from .rrdbnet import RRDBNet
from .srresnet import SRResNet

__all__ = ["RRDBNet", "SRResNet", "VGGDiscriminator"]
