"""Who steps a schedule is known by its own counter: the rates are those of a loop written by hand, whoever steps it."""

import functools
import warnings

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from farabio_like import Callback, ConfigError, Stage

from ..trainers import Tiny

EPOCHS, BATCHES = 4, 3


class Private:
    """A schedule of a user's own, which counts under a name of its own."""

    def __init__(self, optimizer):
        self.optimizer, self.number, self.first = optimizer, 0, optimizer.param_groups[0]["lr"]

    def step(self):
        self.number += 1
        self.optimizer.param_groups[0]["lr"] = self.first / (1 + self.number)


class Stateless:
    """One that keeps nothing at all."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        self.optimizer.param_groups[0]["lr"] *= 0.5


class Slotted(Private):
    __slots__ = ("first", "number", "optimizer")


class Around:
    """A wrapper, as libraries for several processes have it."""

    def __init__(self, optimizer):
        self.scheduler = lr_scheduler.StepLR(optimizer, 1, 0.5)

    def step(self, *arguments):
        self.scheduler.step(*arguments)


class Overriding(lr_scheduler.StepLR):
    """A class of a user's own with a step of its own."""

    def step(self, epoch=None):
        super().step(epoch)


def chained(optimizer):
    parts = [lr_scheduler.ConstantLR(optimizer, 0.5, 2), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    return lr_scheduler.ChainedScheduler(parts)


def sequential(optimizer):
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2), lr_scheduler.ExponentialLR(optimizer, 0.5)]
    return lr_scheduler.SequentialLR(optimizer, parts, [2])


KINDS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 1, 0.5),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.8**epoch),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "warm restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, step_size_up=2),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=20),
    "chained": chained,
    "sequential": sequential,
    "own class": lambda o: Overriding(o, 1, 0.5),
    "private": Private,
    "stateless": Stateless,
    "slots": Slotted,
    "wrapper": Around,
}


class Rated(Tiny):
    """Notes the rate of every step."""

    make = staticmethod(KINDS["StepLR"])

    def build_model(self):
        super().build_model()
        self._num_epochs, self.seen = self.config.get("_num_epochs", EPOCHS), []
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0)
        self.scheduler = self.make(self.optimizer)

    def compute_loss(self):
        return super().compute_loss() * 1e-3

    def optimizer_step(self):
        self.seen.append(self.optimizer.param_groups[0]["lr"])
        super().optimizer_step()


def by_hand(make, after_epoch=None, after_batch=None, epochs=EPOCHS):
    """Return the rate of every step of a loop written by hand."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, seen = make(optimizer), []
    for epoch in range(1, epochs + 1):
        for batch in range(BATCHES):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if after_batch is not None:
                after_batch(scheduler, epoch, batch)
        if after_epoch is not None:
            after_epoch(scheduler, epoch)
    return seen


def always(scheduler, epoch):
    scheduler.step()


def rates(kind, make=None, **settings):
    trainer = type("Made", (kind,), {"make": staticmethod(make)})(settings) if make is not None else kind(settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.train()
    return trainer.seen


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_stepped_once_an_epoch_by_the_base(name):
    assert rates(Rated, KINDS[name]) == by_hand(KINDS[name], always)


class Helper(Rated):
    def on_epoch_end(self):
        step_all(self)


def step_all(trainer):
    trainer.scheduler.step()


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_known_to_be_stepped_by_hand(name):
    assert rates(Helper, KINDS[name]) == by_hand(KINDS[name], always)


# ---------------------------------------------------------------- the ways in which a subclass steps


def decorated(method):
    @functools.wraps(method)
    def wrapper(self):
        method(self)
        vars(self)["scheduler"].step()

    return wrapper


class Decorated(Rated):
    @decorated
    def on_epoch_end(self):
        pass


class InTheText(Rated):
    def on_epoch_end(self):
        self.scheduler.step()


class Aliased(Rated):
    def on_epoch_end(self):
        schedule = self.scheduler
        getattr(schedule, "step")()  # noqa: B009


class ByCallback(Rated):
    class Steps(Callback):
        def on_epoch_end(self, trainer):
            trainer.scheduler.step()

    def build_model(self):
        super().build_model()
        self.callbacks = [self.Steps()]


class OnTheInstance(Rated):
    def build_model(self):
        super().build_model()
        self.on_epoch_end = functools.partial(step_all, self)


class AfterTheBatches(Rated):
    def on_train_epoch_end(self):
        step_all(self)


class InTheEvaluation(Rated):
    def on_evaluate_epoch_end(self):
        step_all(self)


class InALoopOfItsOwn(Rated):
    def train_epoch(self):
        super().train_epoch()
        self.scheduler.step()


class Inherited(Helper):
    def on_epoch_end(self):
        super().on_epoch_end()


@pytest.mark.parametrize(
    "kind",
    [
        *(Decorated, InTheText, Aliased, ByCallback, OnTheInstance, AfterTheBatches, InTheEvaluation, InALoopOfItsOwn),
        Inherited,
    ],
)
def test_it_is_seen_however_a_subclass_steps(kind):
    assert rates(kind) == by_hand(KINDS["StepLR"], always)


class BeforeTheEpoch(Rated):
    def on_train_epoch_start(self):
        step_all(self)


def test_it_is_seen_before_the_batches_too():
    with pytest.warns(UserWarning, match="before `optimizer.step"):  # torch's own
        trainer = BeforeTheEpoch()
        trainer.train()
    assert trainer.seen == [rate for epoch in range(1, 5) for rate in [0.5**epoch] * BATCHES]


class PerBatch(Rated):
    def on_end_training_batch(self):
        step_all(self)


class InTheStep(Rated):
    def training_step(self):
        super().training_step()
        step_all(self)


class Fractions(Rated):
    def on_end_training_batch(self):
        self.scheduler.step(self.epoch - 1 + (self.step % BATCHES) / BATCHES)


@pytest.mark.parametrize("kind", [PerBatch, InTheStep])
def test_steps_per_batch(kind):
    assert rates(kind) == by_hand(KINDS["StepLR"], after_batch=lambda scheduler, *_: scheduler.step())


def test_steps_by_fractions_of_an_epoch():
    def step(scheduler, epoch, batch):
        scheduler.step(epoch - 1 + ((BATCHES * (epoch - 1) + batch + 1) % BATCHES) / BATCHES)

    restarts = KINDS["warm restarts"]
    assert rates(Fractions, restarts) == by_hand(restarts, after_batch=step)


def test_a_plateau_that_is_stepped_by_hand_and_by_the_base():
    class Hand(Rated):
        def on_epoch_end(self):
            for scheduler in (self.scheduler,):
                scheduler.step(1.0)

    class Base(Rated):
        def evaluate_batch(self, item):
            self.batch_metrics["loss"] = 1.0

    def plateau(optimizer):
        return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)

    expected = by_hand(plateau, lambda scheduler, _: scheduler.step(1.0))
    assert rates(Hand, plateau) == rates(Base, plateau) == expected


# ---------------------------------------------------------------- several


class Two(Rated):
    def build_model(self):
        super().build_model()
        self.optimizer = {
            "weight": torch.optim.SGD([self.model.weight], lr=1.0),
            "bias": torch.optim.SGD([self.model.bias], lr=1.0),
        }
        self.scheduler = {name: KINDS["StepLR"](part) for name, part in self.optimizer.items()}

    def optimizer_step(self):
        self.seen.append(tuple(self.get_lr().values()))
        Tiny.optimizer_step(self)


class TwoByHand(Two):
    def on_epoch_end(self):
        for scheduler in self.scheduler.values():
            scheduler.step()


class OneByHand(Two):
    def on_end_training_batch(self):
        self.scheduler["bias"].step()


def test_a_dict_of_schedules():
    epochs, batches = by_hand(KINDS["StepLR"], always), [0.5**step for step in range(EPOCHS * BATCHES)]
    assert rates(Two) == rates(TwoByHand) == list(zip(epochs, epochs, strict=True))
    assert rates(OneByHand) == list(zip(epochs, batches, strict=True))


def test_schedules_in_a_list_are_the_subclass_own():
    class Listed(Rated):
        make = staticmethod(lambda optimizer: [KINDS["StepLR"](optimizer)])

    class Steps(Listed):
        @decorated_list
        def on_epoch_end(self):
            pass

    assert rates(Steps) == by_hand(KINDS["StepLR"], always)
    with pytest.warns(UserWarning, match="^Listed: self.scheduler is a list, which nothing steps") as caught:
        Listed().train()
    assert len(caught) == 1


def decorated_list(method):
    def wrapper(self):
        for scheduler in vars(self)["scheduler"]:
            scheduler.step()

    return wrapper


# ---------------------------------------------------------------- other objects with a step


class Noise:
    """The schedule of a diffusion, which has nothing to do with the learning rate."""

    def step(self, predicted, time, sample):
        return sample - 0.1 * predicted


class Diffusion(Rated):
    def build_model(self):
        super().build_model()
        self.noise_scheduler, self.schedulers = Noise(), {"noise": Noise()}

    def on_epoch_end(self):
        sample = self.noise_scheduler.step(torch.zeros(1), 0, torch.zeros(1))
        self.schedulers["noise"].step(sample, 0, sample)


def test_another_object_with_a_step():
    assert rates(Diffusion) == by_hand(KINDS["StepLR"], always)


def test_the_noise_of_a_diffusion_beside_the_rate(capsys):
    class Both(Rated):
        def build_model(self):
            super().build_model()
            self.scheduler = {"lr": self.scheduler, "noise": Noise()}

        def on_epoch_end(self):
            self.scheduler["noise"].step(torch.zeros(1), 0, torch.zeros(1))

    assert rates(Both) == by_hand(KINDS["StepLR"], always)
    rates(Both, _verbose=True)
    said = [line for line in capsys.readouterr().out.splitlines() if "self.scheduler" in line]
    assert said == ["self.scheduler['noise'] is left to your code: step() of Noise takes arguments"]


def test_a_step_with_arguments_is_left_to_the_subclass(capsys):
    class Alone(Rated):
        make = staticmethod(lambda optimizer: Noise())

    assert rates(Alone, _verbose=True) == [1.0] * EPOCHS * BATCHES
    assert "self.scheduler is left to your code: step() of Noise takes arguments" in capsys.readouterr().out


# ---------------------------------------------------------------- now and then


class UntilTheSecond(Rated):
    def on_epoch_end(self):
        if self.epoch <= 2:
            step_all(self)


class EverySecond(Rated):
    def on_epoch_end(self):
        if self.epoch % 2 == 0:
            self.scheduler.step()


class FromTheThird(Rated):
    """In no text of its own."""

    def on_epoch_end(self):
        if self.epoch > 2:
            step_all(self)


def test_one_that_was_stepped_by_hand_once_is_left_alone():
    expected = by_hand(KINDS["StepLR"], lambda scheduler, epoch: scheduler.step() if epoch <= 2 else None)
    assert rates(UntilTheSecond) == expected


def test_one_that_a_method_steps_later_is_waited_for(capsys):
    expected = by_hand(KINDS["StepLR"], lambda scheduler, epoch: scheduler.step() if epoch % 2 == 0 else None)
    assert rates(EverySecond, _verbose=True) == expected
    said = capsys.readouterr().out
    assert said.count("self.scheduler was not stepped in an epoch: a method of EverySecond has the call") == 1


def test_one_that_nothing_shows_before_is_an_error_that_names_the_setting():
    with pytest.raises(ConfigError, match=r"FromTheThird: .* steps self.scheduler.*epoch 3.*_scheduler_step = None"):
        FromTheThird().train()
    expected = by_hand(KINDS["StepLR"], lambda scheduler, epoch: scheduler.step() if epoch > 2 else None)
    assert rates(FromTheThird, _scheduler_step=None) == expected


def test_the_base_steps_none_if_it_is_told_so():
    assert rates(Rated, _scheduler_step=None) == [1.0] * EPOCHS * BATCHES


def test_a_stage_may_say_who_steps():
    class Staged(Rated):
        def on_epoch_end(self):
            if self.stage.name == "hand" and self.epoch == EPOCHS - 1:
                step_all(self)

    stages = [Stage("base", 2), Stage("hand", 2, scheduler_step=None)]
    assert rates(Staged, _stages=stages) == [1.0] * 3 + [0.5] * 3 + [0.25] * 3 + [0.125] * 3


# ---------------------------------------------------------------- replaced and set back


def test_a_schedule_that_a_hook_makes():
    class Anew(Rated):
        def renew(self):
            self.optimizer.param_groups[0] |= {"lr": 1.0, "initial_lr": 1.0}
            self.scheduler = KINDS["StepLR"](self.optimizer)

    class AtTheStart(Anew):
        def on_train_epoch_start(self):
            if self.epoch == 3:
                self.renew()

    class AtTheEnd(Anew):
        def on_epoch_end(self):
            if self.epoch == 2:
                self.renew()

    expected = [1.0] * 3 + [0.5] * 3 + [1.0] * 3 + [0.5] * 3
    assert rates(AtTheStart) == rates(AtTheEnd) == expected


def test_a_schedule_that_a_hook_sets_back_is_still_stepped():
    class Back(Rated):
        def on_train_epoch_start(self):
            if self.epoch == 1:
                self.kept = self.scheduler.state_dict()
            if self.epoch == 3:
                self.scheduler.load_state_dict(self.kept)
                self.set_lr(1.0)

    assert rates(Back) == [1.0] * 3 + [0.5] * 3 + [1.0] * 3 + [0.5] * 3


def test_a_step_between_two_runs_is_none_of_an_epoch():
    trainer = Rated({"_num_epochs": 2})
    trainer.train()
    trainer.scheduler.step()
    trainer.train()
    assert trainer.seen == [1.0] * 3 + [0.5] * 3 + [0.125] * 3 + [0.0625] * 3


# ---------------------------------------------------------------- going on


class Stops(UntilTheSecond):
    """Steps by hand in the first two epochs, and is killed after so many steps."""

    stop_after = None

    def on_end_training_batch(self):
        if self.step == self.stop_after:
            raise SystemExit

    def on_evaluate_epoch_start(self):
        if self.stop_after == "evaluation" and self.epoch == 3:
            raise SystemExit


class StopsBase(Stops):
    def on_epoch_end(self):
        pass


class StopsPerBatch(Stops):
    def on_epoch_end(self):
        pass

    def on_start_training_batch(self, item):
        super().on_start_training_batch(item)
        if self.epoch == 2:
            step_all(self)


@pytest.mark.parametrize("kind", [Stops, StopsBase, StopsPerBatch])
@pytest.mark.parametrize("make", ["StepLR", "private", "chained"])
@pytest.mark.parametrize("stop_after", [5, 8])
def test_who_steps_is_known_in_a_run_that_goes_on(kind, make, stop_after):
    if kind is StopsPerBatch:
        kind = type("Told", (StopsPerBatch,), {"define_misc_attr": none_by_the_base})
    made = type("Made", (kind,), {"make": staticmethod(KINDS[make])})
    whole = made()
    whole.train()
    settings = {"_logdir": "runs"}
    stopped = made(settings)
    stopped.stop_after = stop_after
    with pytest.raises(SystemExit):
        stopped.train()
    resumed = made(settings)
    resumed.train(resume=True)
    assert resumed.seen == whole.seen
    assert resumed.get_lr() == whole.get_lr()


def none_by_the_base(self):
    Rated.define_misc_attr(self)
    self._scheduler_step = None
