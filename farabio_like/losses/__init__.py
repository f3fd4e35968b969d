"""Losses: of segmentation, each as a module and as a function; of GANs; of images. Metrics are callbacks.

Those of segmentation and of GANs take logits. A file has one kind of loss; `segmentation` has what its losses share.
"""

from .adversarial import AdversarialLoss, gradient_penalty, r1_penalty
from .cldice import ClDiceLoss, cldice_loss
from .combined import DiceBCELoss, DiceCELoss, dice_bce_loss, dice_ce_loss
from .content import ContentLoss
from .cross_entropy import SoftBCELoss, SoftCELoss, soft_bce_loss, soft_ce_loss
from .focal import FocalLoss, focal_loss
from .lovasz import LovaszLoss, lovasz_loss
from .mcc import MCCLoss, mcc_loss
from .overlap import (
    DiceLoss,
    FocalTverskyLoss,
    GeneralizedDiceLoss,
    JaccardLoss,
    TverskyLoss,
    dice_loss,
    focal_tversky_loss,
    generalized_dice_loss,
    jaccard_loss,
    tversky_loss,
)
from .perceptual import PerceptualLoss

__all__ = [
    "AdversarialLoss",
    "ClDiceLoss",
    "ContentLoss",
    "DiceBCELoss",
    "DiceCELoss",
    "DiceLoss",
    "FocalLoss",
    "FocalTverskyLoss",
    "GeneralizedDiceLoss",
    "JaccardLoss",
    "LovaszLoss",
    "MCCLoss",
    "PerceptualLoss",
    "SoftBCELoss",
    "SoftCELoss",
    "TverskyLoss",
    "cldice_loss",
    "dice_bce_loss",
    "dice_ce_loss",
    "dice_loss",
    "focal_loss",
    "focal_tversky_loss",
    "generalized_dice_loss",
    "gradient_penalty",
    "jaccard_loss",
    "lovasz_loss",
    "mcc_loss",
    "r1_penalty",
    "soft_bce_loss",
    "soft_ce_loss",
    "tversky_loss",
]
