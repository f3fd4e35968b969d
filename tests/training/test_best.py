"""The best epoch: which one it is, and its weights at the end."""

import torch

from tests.trainers import Tiny


def test_the_best_weights_at_the_end():
    class Worsens(Tiny):
        def training_step(self):
            with torch.no_grad():
                self.model.weight.fill_(self.epoch)

        def evaluate_batch(self, item):
            self.batch_metrics["score"] = -float(self.epoch)

    for load_best, weight in ((True, 1.0), (False, 3.0)):
        trainer = Worsens({"_load_best": load_best, "_monitor": "score", "_logdir": "runs", "_num_epochs": 3})
        trainer.train()
        assert trainer.model.weight.unique().tolist() == [weight]
        saved = torch.load(trainer.run_dir / "model.pth", weights_only=True)
        assert saved["weight"].unique().tolist() == [weight]
