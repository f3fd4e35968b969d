"""Callbacks observe and steer a run beside the hooks. `python -m farabio_like.callbacks` lists them.

What a callback is and who hears an event is said in `base` and `dispatch`, below the trainer; those that ship stand
above it, one concept a file. They do not learn: forward, backward and step are methods of the trainer.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .base import EVENTS, Callback, CallbackOrder, FunctionCallback, Logger
from .base import on_end_test_batch as on_end_test_batch
from .base import on_end_training_batch as on_end_training_batch
from .base import on_epoch_end as on_epoch_end
from .base import on_evaluate_batch_end as on_evaluate_batch_end
from .base import on_evaluate_batch_start as on_evaluate_batch_start
from .base import on_evaluate_epoch_end as on_evaluate_epoch_end
from .base import on_evaluate_epoch_start as on_evaluate_epoch_start
from .base import on_exception as on_exception
from .base import on_stage_end as on_stage_end
from .base import on_stage_start as on_stage_start
from .base import on_start_test_batch as on_start_test_batch
from .base import on_start_training_batch as on_start_training_batch
from .base import on_test_end as on_test_end
from .base import on_test_start as on_test_start
from .base import on_train_end as on_train_end
from .base import on_train_epoch_end as on_train_epoch_end
from .base import on_train_epoch_start as on_train_epoch_start
from .base import on_train_start as on_train_start

if TYPE_CHECKING:
    from .accuracy import Accuracy
    from .auc import AUC
    from .checkpoint import Checkpoint
    from .confusion_matrix import ConfusionMatrix
    from .early_stopping import EarlyStopping
    from .ema import EMA
    from .evaluation import PeriodicEvaluation
    from .freezing import Freeze, Unfreeze
    from .function_metric import FunctionMetric
    from .gradients import GradientNorm
    from .image_quality import PSNR, SSIM
    from .learning_rate import LearningRateMonitor
    from .limits import LimitBatches, OverfitBatches, QuickCheck
    from .lr_finder import find_lr
    from .metric import MetricCallback
    from .mixing import CutMix, Mixup
    from .overlap import Dice, IoU
    from .precision_recall import PrecisionRecallF1
    from .predictions import SavePredictions
    from .profiler import Profiler
    from .swa import SWA
    from .timer import Timer
    from .torch_metric import TorchMetric
    from .transform import BatchTransform
    from .wrapper import Only

# Imported when they are used: the trainer needs the events alone.
SHIPPED = {
    "Accuracy": "accuracy",
    "AUC": "auc",
    "PrecisionRecallF1": "precision_recall",
    "ConfusionMatrix": "confusion_matrix",
    "Dice": "overlap",
    "IoU": "overlap",
    "PSNR": "image_quality",
    "SSIM": "image_quality",
    "FunctionMetric": "function_metric",
    "TorchMetric": "torch_metric",
    "Checkpoint": "checkpoint",
    "EarlyStopping": "early_stopping",
    "LearningRateMonitor": "learning_rate",
    "Timer": "timer",
    "PeriodicEvaluation": "evaluation",
    "LimitBatches": "limits",
    "OverfitBatches": "limits",
    "QuickCheck": "limits",
    "GradientNorm": "gradients",
    "Mixup": "mixing",
    "CutMix": "mixing",
    "BatchTransform": "transform",
    "EMA": "ema",
    "SWA": "swa",
    "Freeze": "freezing",
    "Unfreeze": "freezing",
    "Profiler": "profiler",
    "SavePredictions": "predictions",
    "Only": "wrapper",
}
_MODULES = {**SHIPPED, "MetricCallback": "metric", "find_lr": "lr_finder"}

__all__ = [
    "AUC",
    "EMA",
    "EVENTS",
    "PSNR",
    "SSIM",
    "SWA",
    "Accuracy",
    "BatchTransform",
    "Callback",
    "CallbackOrder",
    "Checkpoint",
    "ConfusionMatrix",
    "CutMix",
    "Dice",
    "EarlyStopping",
    "Freeze",
    "FunctionCallback",
    "FunctionMetric",
    "GradientNorm",
    "IoU",
    "LearningRateMonitor",
    "LimitBatches",
    "Logger",
    "MetricCallback",
    "Mixup",
    "Only",
    "OverfitBatches",
    "PeriodicEvaluation",
    "PrecisionRecallF1",
    "Profiler",
    "QuickCheck",
    "SavePredictions",
    "Timer",
    "TorchMetric",
    "Unfreeze",
    "find_lr",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
