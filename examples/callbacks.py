"""Callbacks on handwritten digits: what a run can be observed and steered by.

    python examples/callbacks.py

Finds a learning rate, then trains with early stopping, the two best epochs kept, F1 per class, a confusion
matrix, and a moving average of the weights that is evaluated in their place. At the end the printed F1 is
compared with scikit-learn's on the same predictions.
"""

import torch
from digits import Digits
from sklearn.metrics import f1_score

from farabio_like import plots
from farabio_like.callbacks import (
    EMA,
    Checkpoint,
    ConfusionMatrix,
    EarlyStopping,
    PrecisionRecallF1,
    SavePredictions,
    find_lr,
)


class ObservedDigits(Digits):
    def define_train_attr(self):
        self._num_epochs = 30
        self._monitor = "f1"
        self.callbacks = [
            PrecisionRecallF1(num_classes=10, loaders=("valid", "test")),
            ConfusionMatrix(num_classes=10),
            EMA(decay=0.95),
            EarlyStopping(monitor="f1", patience=4),
            Checkpoint(monitor="f1", top_k=2),
            SavePredictions(),
        ]


if __name__ == "__main__":
    torch.manual_seed(0)
    trainer = ObservedDigits()
    found = find_lr(trainer, min_lr=1e-5, max_lr=1.0)
    print(f"learning rate where the loss falls fastest: {found.suggestion:.1e}")

    trainer.train()
    plots.save(found.figure(), trainer.run_dir / "plots" / "lr_finder.png")
    result = trainer.test()
    print("files:", *sorted(str(path.relative_to(trainer.run_dir)) for path in trainer.run_dir.rglob("*.[cp][kn]*")))

    saved = torch.load(trainer.run_dir / "predictions" / "test.pt", weights_only=True)
    for digit, f1 in enumerate(result["f1_per_class"]):
        print(f"F1 of {digit}: {f1:.4f}")
    theirs = f1_score(saved["targets"], saved["predictions"].argmax(1), average="macro")
    print(f"macro F1 {result['f1']:.6f}, scikit-learn's {theirs:.6f}")
    assert abs(result["f1"] - theirs) < 1e-6
