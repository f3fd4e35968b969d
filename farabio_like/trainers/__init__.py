"""Ready-made trainers of classification, segmentation, GANs and super-resolution, and `cross_validate` for any trainer.

Each is a `ConvnetTrainer` of which every part can be given or overridden. Networks, losses, metrics and inference
stand in packages of their own, and know nothing of these.
"""

from .classification import ClassificationTrainer
from .cross_validation import Ensemble, cross_validate
from .gan import GanTrainer
from .segmentation import SegmentationTrainer
from .super_resolution import SuperResolutionTrainer

__all__ = [
    "ClassificationTrainer",
    "Ensemble",
    "GanTrainer",
    "SegmentationTrainer",
    "SuperResolutionTrainer",
    "cross_validate",
]
