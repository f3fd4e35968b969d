"""Networks, a package for each task: `farabio_like.models.segmentation`.

A network knows no trainer, no loss and no data: it is a ``torch.nn.Module`` like any other. What several tasks build
with is in `farabio_like.models.blocks`, and `spectral_norm` is for a discriminator of any.
"""

from .spectral import spectral_norm

__all__ = ["spectral_norm"]
