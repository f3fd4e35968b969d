"""Live curves, images and a confusion matrix on a visdom server.

    python -m farabio_like.loggers.visdom --fetch     (in another terminal; --fetch the first time only)
    python examples/live.py

Trains the network of digits.py, and shows at http://127.0.0.1:8097, in the environment LiveDigits_<number>: every
metric, the running loss every 10 steps, what the network mistook last, and which digit it took for which. Without a
server it says so, trains all the same, and leaves the table metrics.csv in the run folder.
"""

import os
import socket

import torch
from digits import Digits

from farabio_like.callbacks import ConfusionMatrix
from farabio_like.loggers.visdom import VisdomLogger


class LiveDigits(Digits):
    def define_log_attr(self):
        self._loggers = ["csv"]
        self._log_interval = 10
        if self.config.get("visdom", True):
            self._loggers.append(VisdomLogger(port=self.config.get("visdom_port")))

    def define_misc_attr(self):
        self.callbacks = [ConfusionMatrix(num_classes=10, loaders=("valid",))]

    def on_train_start(self):
        self.loggers.images("some inputs", self.train_loader.dataset[:32][0])

    def on_evaluate_epoch_start(self):
        self.mistaken = []

    def on_evaluate_batch_end(self):
        self.mistaken.append(self.inputs[self.outputs.argmax(1) != self.targets])

    def on_evaluate_epoch_end(self):
        mistaken = torch.cat(self.mistaken)
        if len(mistaken):
            self.loggers.images("mistaken digits", mistaken[:32])


def is_there(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    port = int(os.environ.get("VISDOM_PORT", 8097))
    there = is_there(port)
    if there:
        print(f"look at http://127.0.0.1:{port}")
    else:
        print("no visdom server; for live curves start one: python -m farabio_like.loggers.visdom")
    torch.manual_seed(0)
    trainer = LiveDigits({"visdom": there, "visdom_port": port})
    trainer.train()
    print(f"table: {trainer.run_dir / 'metrics.csv'}")
