"""The settings of a trainer and their defaults."""

from __future__ import annotations

from typing import Any

#: The settings and their defaults. A subclass changes them in a ``define_*_attr`` method (or as class attributes).
SETTINGS: dict[str, Any] = {
    "_num_epochs": 10,  # number of the last epoch
    "_start_epoch": 1,  # number of the first epoch
    "_epoch": 1,  # the current one; `epoch` reads it
    "_has_eval": True,  # evaluate ...
    "_eval_interval": 1,  # ... every so many epochs
    "_save_epoch": 1,  # write checkpoints/last.ckpt every so many epochs
    "_save_steps": None,  # ... and every so many steps
    "_save_minutes": None,  # ... and after the first step after so many minutes
    "_async_checkpoint": False,  # write checkpoints in a thread, while the run goes on
    "_data_parallel": None,  # True or a list of CUDA devices: torch.nn.DataParallel
    "_device": "auto",  # "auto", "cpu", "cuda:1", "mps", ...
    "_precision": "fp32",  # or "bf16", "fp16": torch.autocast
    "_accumulation_steps": 1,  # batches per step of the optimizers
    "_clip_norm": None,  # largest norm of the gradients of an optimizer ...
    "_clip_value": None,  # ... or largest absolute value of an element
    "_compile": False,  # True, or a dict of arguments: torch.compile
    "_channels_last": False,  # models and images in torch.channels_last
    "_prefetch": False,  # on a GPU: copy the next batch while this one is worked on
    "_deterministic": False,  # train() and test() with deterministic algorithms only
    "_seed": None,  # of Python, NumPy and torch, set by the constructor
    "_next_loop": False,  # set in on_evaluate_batch_start: skip this batch
    "_mode": "train",  # for a subclass's own use
    "_model_path": None,  # weights that test() loads when this process has trained none
    "_backbone": False,  # for a subclass's own use
    "_loggers": None,  # a name ("csv", "tensorboard", "visdom", ...), a Logger, or a list of them
    "_log_interval": None,  # record the running loss every so many steps; None: epochs only
    "_use_tqdm": None,  # True, False, or None: a bar where stderr is a terminal
    "_verbose": True,  # print the table on the terminal
    "_logdir": "runs",  # folder of the run folders; None writes nothing
    "_monitor": None,  # name of the metric that decides which epoch is best; None: the loss
    "_monitor_mode": None,  # "min", "max", or None: by the metric's name
    "_stages": None,  # list of Stage; None: the run is one stage
    "_scheduler_step": "epoch",  # or "step": when self.scheduler moves
    "_loss_weights": None,  # for a dict of criteria: None (sum), "mean", or {name: weight}
    "_evaluate_first": False,  # evaluate once before the first step
    "_load_best": False,  # end with the best epoch's weights in memory
    "_strategy": None,  # under torchrun: "ddp", which None is too, or "fsdp": the model in shards
    "_dist_timeout": None,  # seconds after which a rank gives up waiting for another one; None: PyTorch's own limit
    "_sync_batchnorm": False,  # batch norm over the batches of all ranks; on CUDA
    "_on_nonfinite": "raise",  # or "warn", "skip": what a NaN or infinite training loss gets
}
