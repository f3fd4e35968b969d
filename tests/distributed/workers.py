"""What a rank does in the tests: each function is run by ``torchrun`` and returns plain data, rank by rank."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
import torchmetrics
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from farabio_like import Callback, ConvnetTrainer, components, distributed
from farabio_like.callbacks import (
    AUC,
    SWA,
    Accuracy,
    Checkpoint,
    ConfusionMatrix,
    Dice,
    Freeze,
    FunctionMetric,
    IoU,
    LearningRateMonitor,
    PeriodicEvaluation,
    PrecisionRecallF1,
    SavePredictions,
    TorchMetric,
    Unfreeze,
    find_lr,
)
from farabio_like.components import dtensor
from farabio_like.errors import HookError


def samples(number):
    generator = torch.Generator().manual_seed(number)
    inputs = torch.randn(number, 4, dtype=torch.float64, generator=generator)
    return TensorDataset(inputs, (inputs.sum(1) > 0).long())


class Base(ConvnetTrainer):
    """Two layers in double precision on 22 samples in batches of 8: the last batch has 6."""

    number = 22

    def define_misc_attr(self):
        self._device, self._logdir, self._verbose, self._num_epochs = "cpu", None, False, 2
        self._strategy = os.environ.get("STRATEGY") or None
        for name, value in self.config.items():
            setattr(self, name, value)

    def get_trainloader(self):
        self.train_loader = DataLoader(samples(self.number), batch_size=8, shuffle=True)
        self.valid_loader = DataLoader(samples(9), batch_size=4)

    def get_testloader(self):
        self.test_loader = DataLoader(samples(7), batch_size=7)

    def build_model(self):
        self.model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.5, momentum=0.9)

    def compute_loss(self):
        self.outputs = self.model(self.inputs)
        self.batch_metrics["accuracy"] = (self.outputs.argmax(1) == self.targets).double().mean()
        return self.criterion(self.outputs, self.targets)


def weights(trainer):

    state = components.model_state(components.model_of(trainer))
    parts = state.values() if any(isinstance(value, dict) for value in state.values()) else [state]
    tensors = [dtensor.whole(tensor) for part in parts for tensor in part.values()]
    return [x for tensor in tensors for x in tensor.double().flatten().tolist()]


def trained(cls, **settings):
    torch.manual_seed(distributed.rank() if settings.pop("seeded", False) else 0)
    trainer = cls(settings)
    history = trainer.train()
    for entry in history:
        entry.pop("seconds")
    return {"weights": weights(trainer), "history": history, "steps": trainer.step}


class OneLeft(Base):
    number = 17  # the last batch has one sample


class OwnStep(Base):
    """Steps by itself, and calls parts of its model by their own names."""

    def build_model(self):
        super().build_model()
        self.model = Net()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.5)

    def training_step(self):
        self.optimizer.zero_grad()
        self.loss = nn.functional.cross_entropy(self.model.decode(self.model.encode(self.inputs)), self.targets)
        self.loss.backward()
        self.optimizer.step()

    def compute_loss(self):
        self.outputs = self.model(self.inputs)
        return self.criterion(self.outputs, self.targets)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Linear(4, 5).double(), nn.Linear(5, 2).double()

    def encode(self, x):
        return self.encoder(x).tanh()

    def decode(self, code):
        return self.head(code)

    def forward(self, x):
        return self.decode(self.encode(x))


class Pair(Base):
    """A dict of models and of optimizers."""

    def build_model(self):
        self.model = {"encoder": nn.Linear(4, 5).double(), "head": nn.Linear(5, 2).double()}
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = {name: torch.optim.SGD(part.parameters(), lr=0.5) for name, part in self.model.items()}

    def compute_loss(self):
        self.outputs = self.model["head"](self.model["encoder"](self.inputs).tanh())
        return self.criterion(self.outputs, self.targets)


class Named(Base):
    """No ``self.model``: networks under names of their own, one of them frozen."""

    def build_model(self):
        self.frozen = nn.Linear(4, 4).double().requires_grad_(False)
        self.net = nn.Linear(4, 2).double()
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.5)

    def compute_loss(self):
        self.outputs = self.net(self.frozen(self.inputs))
        return self.criterion(self.outputs, self.targets)


class Places(Base):
    """Networks in a tuple; the step takes one of them by its second name."""

    def build_model(self):
        self.nets = nn.Linear(4, 5).double(), nn.Linear(5, 2).double()
        self.named = {"encoder": self.nets[0]}
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD([p for net in self.nets for p in net.parameters()], lr=0.5)

    def compute_loss(self):
        self.outputs = self.nets[1](self.named["encoder"](self.inputs).tanh())
        return self.criterion(self.outputs, self.targets)


class Weighted(Base):
    def get_trainloader(self):
        super().get_trainloader()
        data = samples(22)
        sampler = WeightedRandomSampler(torch.rand(22, generator=torch.Generator().manual_seed(1)), 22)
        self.train_loader = DataLoader(data, batch_size=8, sampler=sampler)


class Enumerated(Base):
    """Replaces the iterator, as many trainers do."""

    def on_train_epoch_start(self):
        self.train_epoch_iter = enumerate(self.train_loader)


class Workers(Base):
    def get_trainloader(self):
        super().get_trainloader()
        self.train_loader = DataLoader(samples(22), batch_size=8, shuffle=True, num_workers=1)


class Accumulated(Base):
    """Windows of two batches, of which the last one stays half empty."""

    def define_compute_attr(self):
        self._accumulation_steps, self._clip_norm = 2, 0.5


class Spoiled(Base):
    """One sample is NaN: the rank that has it is not the only one to leave the step out."""

    def define_train_attr(self):
        self._on_nonfinite = "skip"

    def get_trainloader(self):
        super().get_trainloader()
        spoiled = samples(22)
        spoiled.tensors[0][3] = float("nan")
        self.train_loader = DataLoader(spoiled, batch_size=8)


class Frozen(Base):
    """A part learns from the second epoch on."""

    def define_train_attr(self):
        self.callbacks = [Freeze("0.*", until_epoch=1)]


class Thawed(Base):
    """A part that was frozen when the model was built learns in the second epoch."""

    def define_train_attr(self):
        self.callbacks = [Unfreeze("0.*", from_epoch=2)]

    def build_model(self):
        super().build_model()
        self.model[0].requires_grad_(False)


class Renewed(Base):
    """A layer of the model is replaced in the second epoch, with values of its own on each rank."""

    def on_train_epoch_start(self):
        if self.epoch == 2:
            head = nn.Linear(5, 2).double()
            nn.init.constant_(head.weight, distributed.rank())
            nn.init.zeros_(head.bias)
            self.model.head = head
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.5)

    def build_model(self):
        super().build_model()
        self.model = Net()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.5)


class Adversaries(Base):
    """Two networks with an optimizer each, of which one step trains one and reads both."""

    def build_model(self):
        self.model = {"generator": nn.Linear(4, 4).double(), "discriminator": nn.Linear(4, 1).double()}
        self.optimizer = {name: torch.optim.SGD(part.parameters(), lr=0.1) for name, part in self.model.items()}

    def training_step(self):
        generator, discriminator = self.model["generator"], self.model["discriminator"]
        with self.only("discriminator"):
            self.optimizer_zero_grad()
            false = discriminator(generator(self.inputs).detach())
            self.loss = (nn.functional.softplus(false) + nn.functional.softplus(-discriminator(self.inputs))).mean()
            self.loss_backward()
            self.optimizer_step()
        with self.only("generator"):
            self.optimizer_zero_grad()
            self.loss = self.compute_loss()
            self.loss_backward()
            self.optimizer_step()

    def compute_loss(self):
        return nn.functional.softplus(-self.model["discriminator"](self.model["generator"](self.inputs))).mean()


class OneModule(Base):
    """Two optimizers for the parts of one model, each stepped on its own."""

    def build_model(self):
        self.model, self.criterion = Net(), nn.CrossEntropyLoss()
        parts = {"encoder": self.model.encoder, "head": self.model.head}
        self.optimizer = {name: torch.optim.SGD(part.parameters(), lr=0.5) for name, part in parts.items()}

    def training_step(self):
        for name in self.optimizer:
            with self.only(name):
                super().training_step()


VARIANTS = (
    *(Base, OneLeft, Accumulated, OwnStep, Pair, Named, Places, Weighted, Enumerated, Workers, Spoiled, Frozen, Thawed),
    *(Renewed, Adversaries, OneModule),
)


def parity():
    shards_too = [cls for cls in VARIANTS if cls is not Renewed or os.environ.get("STRATEGY") != "fsdp"]
    found = {cls.__name__: trained(cls) for cls in shards_too}
    found["seeded"] = trained(Base, seeded=True)
    return found


class Stream(IterableDataset):
    """As many batches of 2 samples as this rank is told."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        for index in range(self.batches):
            yield samples(2 + index).tensors[0][:2], samples(2 + index).tensors[1][:2]


def uneven():
    """Ranks with 5, 3 and 0 batches of their own; and one stream that is taken in turns."""
    counts = (5, 3, 0)

    class Own(Base):
        seen = 0

        def on_train_epoch_start(self):
            self.train_epoch_iter = iter(Stream(counts[distributed.rank()]))

        def on_end_training_batch(self):
            type(self).seen += 1

    class Turns(Base):
        def get_trainloader(self):
            self.train_loader = DataLoader(Stream(5), batch_size=None)
            self.valid_loader = DataLoader(Stream(5), batch_size=None)

    own = trained(Own)
    return {"own": own, "seen": Own.seen, "turns": trained(Turns)}


def evaluation():
    """Metrics of one set of weights on sets of 1 to 20 samples."""
    found = {}
    for number in range(1, 21):

        class Sized(Base):
            def get_trainloader(self):
                super().get_trainloader()
                self.valid_loader = DataLoader(samples(number), batch_size=8)  # noqa: B023

            def compute_loss(self):
                loss = super().compute_loss()
                if self.targets[0] == 1:
                    self.batch_metrics["sometimes"] = self.targets.double().mean()
                return loss

        torch.manual_seed(3)
        trainer = Sized()
        trainer.metrics = {"f1": torchmetrics.F1Score(task="multiclass", num_classes=2)}
        trainer.callbacks = [
            AUC(),
            Accuracy(prefix="callback_"),
            Dice(),
            IoU(),
            PrecisionRecallF1(prefix="callback_"),
            ConfusionMatrix(),
            FunctionMetric("spread", lambda prediction, target: prediction.std(correction=0), per="loader"),
            TorchMetric("kappa", torchmetrics.CohenKappa(task="multiclass", num_classes=2)),
            TorchMetric(
                "correlation",  # its parts are merged by a function of its own
                torchmetrics.SpearmanCorrCoef(),
                prediction=lambda trainer: trainer.outputs[:, 1],
                target=lambda trainer: trainer.outputs[:, 0],
                loaders=("valid",),
            ),
        ]
        found[number] = {**trainer.evaluate_epoch(), "matrix": trainer.callbacks[5].matrix.tolist()}
        found[number].pop("sometimes", None)
    return found


class Stopper(Base):
    """One rank asks to end the run: in a batch, at the end of the training pass, at the end of the epoch."""

    def on_train_epoch_end(self):
        if self.config.get("when") == "pass" and distributed.rank() == distributed.world_size() - 1:
            self.exit_trainer()

    def on_epoch_end(self):
        if self.config.get("when") == "epoch" and distributed.rank() == distributed.world_size() - 1:
            self.stop_train()

    def on_end_training_batch(self):
        if self.config.get("when") == "everywhere" and self.step == 2:
            self.stop_train()
        if self.config.get("when") == "batch" and self.step == 2 and distributed.rank() == 0:
            self.stop_train()


def stopping():
    found = {}
    for when in ("pass", "epoch", "everywhere", "batch"):
        torch.manual_seed(0)
        trainer = Stopper({"when": when, "_num_epochs": 5})
        trainer.train()
        found[when] = [trainer.step, len(trainer.history), weights(trainer)]
    return found


def files():
    """One run folder, one printed table; the weights are those of one process, and load in one."""
    torch.manual_seed(0)
    trainer = Base({"_logdir": "runs", "_verbose": True})
    trainer.callbacks = [SavePredictions(("valid", "test")), LearningRateMonitor()]
    trainer.train()
    trainer.save_model("kept.pth")
    result = trainer.test()
    print("the script's own line")
    return {
        "test": result,
        "folder": os.path.relpath(trainer.run_dir),
        "predictions": len(list(trainer.predict(trainer.test_loader))),
    }


class Kept(Accumulated):
    """Saves after the first batch of a window of two."""

    def on_end_training_batch(self):
        if self.step == 4:
            self.save_checkpoint("window.ckpt")


def window():
    """Going on from amid a window of accumulated batches."""
    whole = trained(Kept)
    resumed = Accumulated()
    resumed.train(resume="window.ckpt")
    return {"whole": whole["weights"], "resumed": weights(resumed)}


def onward():
    """Going on from amid an epoch, with a save after every step that is left of it."""
    resumed = Accumulated({"_logdir": "runs", "_save_steps": 1})
    resumed.train(resume="window.ckpt")
    return weights(resumed)


class Measured(Base):
    """Has a metric object and a metric callback, and saves amid its second epoch."""

    def define_train_attr(self):
        self.callbacks = [Accuracy(prefix="all_")]
        self.metrics = {"torchmetrics": torchmetrics.Accuracy("multiclass", num_classes=2)}

    def on_end_training_batch(self):
        if self.step == 5 and not self._verbose:
            self.save_checkpoint("measured.ckpt")


def measured():
    return trained(Measured)["history"]


class Nested(Base):
    """Evaluates within the epoch, on its own loader and on further ones, also within an evaluation."""

    def define_train_attr(self):
        self.night = DataLoader(samples(7), batch_size=3)
        self.metrics = {"torchmetrics": torchmetrics.Accuracy("multiclass", num_classes=2)}
        self.callbacks = [Accuracy(prefix="all_"), PeriodicEvaluation(self.night, "night", every_steps=2)]

    def on_end_training_batch(self):
        if self.step % 2:
            self.evaluate_epoch()

    def on_evaluate_epoch_end(self):
        if self.valid_loader is not self.night:
            self.loader_metrics["late"] = self.evaluate_loader(self.night)["loss"]


def nested():
    found = trained(Nested, _logdir="runs")
    best = torch.load("runs/Nested/1/checkpoints/best.ckpt", weights_only=True)
    return {**found, "best": [best["step"], best["run"]["best"]]}


def measured_on():
    """Going on from there, on as many ranks as there are now."""
    return Measured({"_verbose": True}).train(resume="measured.ckpt")[-1]["train"]


def rates():
    """A learning rate test, which all ranks have to leave after the same step."""
    torch.manual_seed(0)
    found = find_lr(Base(), min_lr=0.1, max_lr=1e4, num_steps=30)
    gathered = find_lr(Base({"_accumulation_steps": 2}), min_lr=0.01, max_lr=10.0, num_steps=12)
    return {
        "losses": [float(loss) for loss in found.losses],
        "suggestion": found.suggestion,
        "gathered": [float(loss) for loss in gathered.losses],
    }


def again():
    """One trainer, used for everything twice; its loaders are no ``DataLoader``."""

    class Listed(Base):
        def get_trainloader(self):
            batches = list(DataLoader(samples(16), batch_size=4))
            self.train_loader, self.valid_loader = batches, list(DataLoader(samples(9), batch_size=4))

    torch.manual_seed(0)
    trainer = Listed({"_num_epochs": 1})
    trainer.train()
    trainer.train()
    evaluated = trainer.evaluate_epoch()
    predicted = torch.cat(list(trainer.predict(trainer.valid_loader)))
    stepped = trainer.train_step(samples(8).tensors)
    return {
        "history": len(trainer.history),
        "by hand": nn.functional.cross_entropy(predicted, samples(9).tensors[1]).item(),
        "evaluated": evaluated["loss"],
        "weights": weights(trainer),
        "prediction": stepped["prediction"].flatten().tolist(),
    }


def averaged():
    """Batch statistics of averaged weights, for which each rank reads its own part of the samples."""

    class Averaged(Base):
        def define_train_attr(self):
            self.callbacks = [SWA(2)]

        def build_model(self):
            super().build_model()
            self.model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).double()
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    return trained(Averaged)["weights"]


def drifting():
    """A part of the model that is called by itself gets no averaged gradients."""

    class Drifting(OwnStep):
        def training_step(self):
            self.optimizer.zero_grad()
            self.loss = self.criterion(self.model.head(self.model.encoder(self.inputs).tanh()), self.targets)
            self.loss.backward()
            self.optimizer.step()

    try:
        Drifting().train()
    except HookError as error:
        return str(error)


class Watched(Base):
    """Keeps the epoch with the highest loss, the first one."""

    def define_train_attr(self):
        self.callbacks = [Checkpoint("loss", top_k=1, mode="max"), AUC()]


def failing():
    class Failing(Watched):
        def on_end_training_batch(self):
            if self.step == 5 and distributed.rank() == 1:
                raise ValueError("the second rank's own mistake")

    Failing({"_num_epochs": 1000, "_logdir": "runs"}).train()


def recovered():
    """Goes on from the file that the first rank left behind."""
    trainer = Watched({"_num_epochs": 4, "_logdir": "further"})
    history = trainer.train(resume="runs/Failing/1/checkpoints/crash.ckpt")
    return {"epochs": len(history), "steps": trainer.step, "weights": weights(trainer)}


def poisoned():
    """One rank has a NaN in the last batch."""

    class Poisoned(Base):
        def get_trainloader(self):
            super().get_trainloader()
            spoiled = samples(22)
            spoiled.tensors[0][21] = float("nan")
            self.train_loader = DataLoader(spoiled, batch_size=8)

    Poisoned({"_logdir": "runs"}).train()


def terminated():
    """SIGTERM comes to one rank alone."""

    class Terminated(Base):
        def on_end_training_batch(self):
            if self.step == 5 and distributed.rank() == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    Terminated({"_num_epochs": 1000, "_logdir": "runs"}).train()


def preempted():
    """SIGTERM comes to torchrun, which sends it to all ranks."""

    class Preempted(Base):
        def on_end_training_batch(self):
            if self.step == 5 and distributed.is_main():
                os.kill(os.getppid(), signal.SIGTERM)

    Preempted({"_num_epochs": 100_000, "_logdir": "runs"}).train()


def surprised():
    """SIGTERM comes to one rank alone, while it gathers what to save at the end of an epoch."""

    class Signalled(Callback):
        def state_dict(self):
            if len(trainer.history) == 2 and distributed.rank() == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return {}

    trainer = Base({"_num_epochs": 1000, "_logdir": "runs"})
    trainer.callbacks = [Signalled()]
    trainer.train()


def surprised_main():
    """SIGTERM comes to the first rank alone, while it writes the line of an epoch."""

    class Scheduler(torch.optim.lr_scheduler.LambdaLR):
        def step(self, *arguments):
            super().step(*arguments)
            if self.last_epoch == 2 and distributed.is_main():
                os.kill(os.getpid(), signal.SIGTERM)

    class Scheduled(Base):
        def build_model(self):
            super().build_model()
            self.scheduler = Scheduler(self.optimizer, lambda epoch: 1)

    Scheduled({"_num_epochs": 1000, "_logdir": "runs", "_save_epoch": 5}).train()


def missing():
    class Missing(Base):
        def get_testloader(self):
            self.test_loader = DataLoader(samples(7), batch_size=7)

    trainer = Missing()
    try:
        trainer.load_model("nowhere.pth")
    except FileNotFoundError as error:
        return str(error)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = {name: globals()[name]() for name in sys.argv[2:]}
    (folder / f"rank{os.environ.get('RANK', 0)}.json").write_text(json.dumps(found))
