"""What a rank does in the tests of ``_strategy = "fsdp"``: each function returns plain data, as those of `workers`."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn
from torch.distributed.checkpoint import FileSystemWriter
from workers import Base, weights

from farabio_like import checkpoint, distributed
from farabio_like.callbacks import EMA, GradientNorm
from farabio_like.components import dtensor
from farabio_like.distributed import fsdp
from farabio_like.errors import CheckpointError, ConfigError

fsdp.SMALLEST_UNIT = 100


class Rich(Base):
    """Two units and a rest, tied weights, batch norm; accumulation, clipping, an average of the weights."""

    def define_train_attr(self):
        self._accumulation_steps, self._clip_norm = int(os.environ.get("WINDOW", 2)), 0.5
        self.callbacks = [EMA(decay=0.8), GradientNorm()]

    def build_model(self):
        first, last = nn.Linear(12, 12), nn.Linear(12, 12)
        last.weight = first.weight
        self.model = nn.Sequential(
            *(nn.Linear(4, 12), first, nn.Sequential(nn.Linear(12, 12), nn.Tanh())),
            *(nn.Sequential(nn.Linear(12, 12), nn.Tanh()), last, nn.Linear(12, 2)),
        ).double()
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, 0.5)

    def on_end_training_batch(self):
        if self.config.get("saves") and self.step == 4:  # amid an epoch, and amid two batches that make one step
            self.save_checkpoint("half.ckpt")


def found(trainer):
    history = [{key: value for key, value in entry.items() if key != "seconds"} for entry in trainer.history]
    averages = trainer.callbacks[0].model_state(trainer)
    average = [x for tensor in averages.values() for x in dtensor.whole(tensor).flatten().tolist()]
    return {"weights": weights(trainer), "average": average, "history": history}


def saving():
    torch.manual_seed(0)
    trainer = Rich({"saves": True, "_num_epochs": 3, "_logdir": "runs"})
    if fsdp.are_in(trainer):
        units = [type(part).__name__.startswith("FSDP") for part in trainer.model]
        assert units == [False, False, True, True, False, False]  # tied weights, and small ones, are the rest's
        assert trainer.model[1].weight is trainer.model[4].weight
    trainer.train()
    if fsdp.are_in(trainer):
        (state,) = [trainer.optimizer.state[p]["exp_avg"] for p in trainer.model[2].parameters() if p.dim() == 2]
        assert dtensor.local(state).numel() * 2 == state.numel() == 144  # half of it on each of two ranks
    trainer.save_model("whole.pth")
    return found(trainer)


def resuming():
    torch.manual_seed(1)
    trainer = Rich({"_num_epochs": 3})
    trainer.train(resume="half.ckpt")
    return found(trainer)


def killed():
    """Train as `saving` does; the first time a rank dies in its third save, before or after the shards are written."""
    if distributed.restarts() == 0:
        where, name = (checkpoint, "save") if os.environ["KILL"] == "rank 0" else (FileSystemWriter, "write_data")
        if os.environ["KILL"] == f"rank {distributed.rank()}":
            die_in_third_call(where, name)
    torch.manual_seed(0)
    trainer = Rich({"_num_epochs": 3, "_logdir": "runs", "_save_steps": 2})
    trainer.train()
    return {**found(trainer), "restarts": distributed.restarts()}


def die_in_third_call(owner, name):
    function, calls = getattr(owner, name), []

    def dying(*args, **kwargs):
        calls.append(name)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(owner, name, dying)


def skipping():
    """A sample that is NaN, on the last rank: no rank makes the step."""

    class Spoilt(Base):
        def take_batch(self, item):
            super().take_batch(item)
            if self.step == 2 and self.loader_name == "train" and distributed.rank() == distributed.world_size() - 1:
                self.inputs = self.inputs * float("nan")

    torch.manual_seed(0)
    trainer = Spoilt({"_on_nonfinite": "skip"})
    trainer.train()
    return weights(trainer)


def mixed():
    """Half precision with its scaler."""
    torch.manual_seed(0)
    trainer = Single({"_precision": "fp16"})
    return [trainer.train()[-1]["train"]["loss"], trainer._run_state.moved]


class Single(Base):
    def build_model(self):
        super().build_model()
        self.model.float()

    def take_batch(self, item):
        super().take_batch(item)
        self.inputs = self.inputs.float()


def refused():
    """Return what each of the models gets to hear that cannot be in shards."""

    class Scalar(Base):
        def build_model(self):
            super().build_model()
            self.model.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))

    class Kinds(Base):
        def build_model(self):
            super().build_model()
            self.model[0].float()

    class Vector(Base):
        def build_model(self):
            super().build_model()
            self.optimizer = torch.optim.LBFGS(self.model.parameters())

    class Replaced(Base):
        def on_train_epoch_start(self):
            self.model[2] = nn.Linear(5, 2).double()

    said = []
    for build in (Scalar, Kinds, Vector, lambda: Replaced().train()):
        try:
            build()
        except ConfigError as error:
            said.append(str(error))
    return said


def full():
    """Save where nothing can be written; all ranks are told, and nothing is left."""
    trainer = Rich({"_num_epochs": 1})
    trainer.train()
    write = FileSystemWriter.write_data

    def fails(*args):
        if distributed.rank() == distributed.world_size() - 1:
            raise OSError(28, "No space left on device")
        return write(*args)

    FileSystemWriter.write_data = fails
    try:
        trainer.save_checkpoint("full.ckpt")
    except CheckpointError as error:
        return [str(error), sorted(path.name for path in Path().iterdir())]
    finally:
        FileSystemWriter.write_data = write


def loading():
    torch.manual_seed(2)
    trainer = Rich()
    trainer.load_model("whole.pth")
    exported = weights(trainer)
    trainer.load_model("runs/Rich/1/checkpoints/last.ckpt")
    return exported, weights(trainer), trainer.test()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    results = {name: globals()[name]() for name in sys.argv[2:]}
    (folder / f"rank{distributed.rank()}.json").write_text(json.dumps(results))
