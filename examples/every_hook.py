"""Every hook, in the order in which a run calls it.

    python examples/every_hook.py

Overrides every hook to print its name and arguments, indented by depth, then does what the hook does by
default. One epoch of two batches, an evaluation and a test.
"""

import torch
from torch import nn

from farabio_like import ConvnetTrainer


class EveryHook(ConvnetTrainer):
    depth = 0

    def define_train_attr(self):
        self._num_epochs = 1

    def define_log_attr(self):
        self._logdir, self._verbose = None, False

    def get_trainloader(self):
        self.train_loader = [(torch.ones(4, 3), torch.zeros(4, 1)), (torch.ones(2, 3), torch.zeros(2, 1))]
        self.valid_loader = self.train_loader

    def get_testloader(self):
        self.test_loader = self.train_loader

    def build_model(self):
        self.model = nn.Linear(3, 1)
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)


HOOKS = [
    *("default_attr", "init_attr", "define_data_attr", "define_model_attr", "define_train_attr", "define_test_attr"),
    *("define_log_attr", "define_compute_attr", "define_misc_attr", "get_trainloader", "get_testloader", "build_model"),
    *("train", "on_train_start", "start_logger", "train_loop", "train_epoch", "on_train_epoch_start", "train_batch"),
    *("on_start_training_batch", "training_step", "optimizer_zero_grad", "compute_loss", "forward", "loss_backward"),
    *("optimizer_step", "on_end_training_batch", "on_train_epoch_end", "evaluate_epoch", "on_evaluate_epoch_start"),
    *("on_evaluate_batch_start", "evaluate_batch", "on_evaluate_batch_end", "on_evaluate_epoch_end", "on_epoch_end"),
    *("on_train_end", "test", "load_model", "on_test_start", "test_loop", "on_start_test_batch", "test_step"),
    *("on_end_test_batch", "on_test_end"),
]


def printing(name, body):
    def hook(self, *args):
        shown = f"item {args[0][0]}" if args else ""
        print("  " * self.depth + f"{name}({shown})")
        self.depth += 1
        result = body(self, *args)
        self.depth -= 1
        return result

    return hook


for name in HOOKS:
    setattr(EveryHook, name, printing(name, getattr(EveryHook, name)))

if __name__ == "__main__":
    trainer = EveryHook()
    trainer.train()
    trainer.test()
