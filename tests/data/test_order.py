"""Random numbers of samples by their place in the order of the epoch; workers that stay; streams nobody divides."""

import os
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    WeightedRandomSampler,
    default_collate,
    random_split,
)

from farabio_like import ConvnetTrainer


class Noisy(Dataset):
    """Sample i with numbers of all three generators, and the process that drew them."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.tensor(
            [float(index), torch.rand(()).item(), random.random(), np.random.rand(), float(os.getpid())]
        )


class Fetches(Noisy):
    """Loads several at once, as data sets of tables do."""

    def __getitems__(self, indices):
        return [Noisy.__getitem__(self, index) for index in indices]


class Calm(Dataset):
    """Draws nothing, and notes how it was asked."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.zeros(5)

    def __getitems__(self, indices):
        self.asked.append(list(indices))
        return [self[index] for index in indices]


class Reads(ConvnetTrainer):
    def define_misc_attr(self):
        self._device, self._logdir, self._verbose, self._seed, self._num_epochs = "cpu", None, False, 0, 3
        self.rows, self.pids = [], []
        for name, value in self.config.items():
            setattr(self, name, value)

    def get_trainloader(self):
        self.train_loader = type(self).loader()

    def build_model(self):
        self.model = nn.Linear(1, 1)

    def training_step(self):
        self.loss = torch.zeros(())
        self.rows += self.batch[:, :4].tolist()
        self.pids += self.batch[:, 4].tolist()


def read(make, **settings):
    trainer = type("Reads", (Reads,), {"loader": staticmethod(make)})(settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.train()
    return trainer


def rare():
    return WeightedRandomSampler([1.0] * 11 + [30.0], 30)


LOADERS = {
    "shuffled": lambda **more: DataLoader(Noisy(), 5, shuffle=True, **more),
    "in order": lambda **more: DataLoader(Noisy(), 5, **more),
    "oversampled": lambda **more: DataLoader(Noisy(), 5, sampler=rare(), **more),
    "with replacement": lambda **more: DataLoader(
        Noisy(), 5, sampler=RandomSampler(range(12), replacement=True, num_samples=25), **more
    ),
    "one sample again and again": lambda **more: DataLoader(Noisy(), 5, sampler=[7] * 20, **more),
    "twice in a batch": lambda **more: DataLoader(Noisy(), batch_sampler=[[3, 3, 3], [3, 4], [4, 4, 3]], **more),
    "batch sampler": lambda **more: DataLoader(Noisy(), batch_sampler=BatchSampler(rare(), 7, False), **more),
    "a split": lambda **more: DataLoader(random_split(Noisy(), [9, 3])[0], 4, shuffle=True, **more),
    "several at once": lambda **more: DataLoader(Fetches(), 5, sampler=rare(), **more),
    "a split, several at once": lambda **more: DataLoader(random_split(Fetches(), [9, 3])[0], 4, **more),
    "a collate function": lambda **more: DataLoader(Noisy(), 5, sampler=rare(), collate_fn=torch.stack, **more),
}


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
def test_each_time_a_sample_is_drawn_it_has_numbers_of_its_own_for_any_number_of_workers(make):
    alone = read(make).rows
    assert len({tuple(row[1:]) for row in alone}) == len({tuple(row) for row in alone}) == len(alone)
    assert read(lambda: make(num_workers=2)).rows == alone
    assert read(lambda: make(num_workers=2, persistent_workers=True)).rows == alone


def test_the_size_of_a_batch_changes_no_sample():
    one = read(lambda: DataLoader(Noisy(), 5, shuffle=True)).rows
    assert read(lambda: DataLoader(Noisy(), 3, shuffle=True)).rows == one
    assert read(lambda: DataLoader(Fetches(), 4, shuffle=True)).rows == one


def test_without_automatic_batches():
    for workers in (0, 2):
        kinds = [lambda: DataLoader(Noisy(), batch_size=None, sampler=[3, 3, 4], num_workers=workers)]  # noqa: B023
        for make in kinds:
            trainer = type("Single", (Reads,), {"loader": staticmethod(make), "training_step": _note})({})
            trainer.train()
            assert len({row[1] for row in trainer.rows}) == 9


def _note(self):
    self.loss = torch.zeros(())
    self.rows.append(self.batch.tolist())


def test_what_draws_nothing_is_fetched_at_once():
    made = []

    def make():
        made.append(Calm())
        return DataLoader(made[-1], 5, collate_fn=lambda samples: default_collate(samples))

    read(make, _num_epochs=1)
    assert made[0].asked == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]


@pytest.mark.parametrize("collate", [default_collate, torch.stack], ids=["default", "own"])
@pytest.mark.parametrize("seed", [None, 0])
def test_workers_that_stay_stay(collate, seed):
    def make(stay):
        return DataLoader(Noisy(), 3, num_workers=2, persistent_workers=stay, shuffle=True, collate_fn=collate)

    assert len(set(read(lambda: make(True), _seed=seed).pids)) == 2
    assert len(set(read(lambda: make(False), _seed=seed).pids)) == 6


def test_workers_that_stay_serve_a_pass_within_another_one():
    def make():
        return DataLoader(Noisy(), 3, num_workers=2, persistent_workers=True)

    class Nested(Reads):
        loader = staticmethod(make)

        def training_step(self):
            super().training_step()
            if self.step == 2:
                self.evaluate_loader(self.train_loader)

        def evaluate_batch(self, item):
            self.loss = torch.zeros(())

    trainer = Nested({"_num_epochs": 2})
    trainer.train()
    assert trainer.rows == read(make, _num_epochs=2).rows


@pytest.mark.parametrize("more", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}], ids=str)
@pytest.mark.parametrize("stop", [2, 4, 6])
def test_a_run_goes_on_with_the_numbers_of_one_that_never_stopped(tmp_path, more, stop):
    class Stopped(Reads):
        loader = staticmethod(lambda: LOADERS["oversampled"](**more))

        def on_end_training_batch(self):
            if self.step == self.config.stop:
                raise KeyboardInterrupt

    whole = Stopped({"stop": 0, "_num_epochs": 2})
    whole.train()
    settings = {"_logdir": str(tmp_path), "_num_epochs": 2, "_save_steps": 1}
    with pytest.raises(KeyboardInterrupt):
        Stopped({**settings, "stop": stop}).train()
    trainer = Stopped({**settings, "stop": 0})
    trainer.train(resume=True)
    assert trainer.rows == whole.rows


# ---------------------------------------------------------------- streams


class Whole(IterableDataset):
    """Every worker reads all of it."""

    def __len__(self):
        return 8

    def __iter__(self):
        for i in range(8):
            yield torch.full((5,), float(i))


class Shuffled(Whole):
    def __iter__(self):
        for i in torch.randperm(8).tolist():
            yield torch.full((5,), float(i))


class AsksInVain(Whole):
    def __iter__(self):
        self.name = f"worker {torch.utils.data.get_worker_info().id}"
        yield from super().__iter__()


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.zeros(5)


class Divides(Whole):
    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for i in range(first, 8, step):
            yield torch.full((5,), float(i))


class Ranged(IterableDataset):
    """Divided by the loader's ``worker_init_fn``, as in torch's own example."""

    start, end = 0, 8

    def __iter__(self):
        return iter([torch.full((5,), float(i)) for i in range(self.start, self.end)])


def divide(number):
    info = torch.utils.data.get_worker_info()
    info.dataset.start, info.dataset.end = 4 * number, 4 * number + 4


def only_seed(number):
    random.seed(number)


WHOLE = {
    "plain": lambda: DataLoader(Whole(), 4, num_workers=2),
    "shuffled": lambda: DataLoader(Shuffled(), 4, num_workers=2),
    "workers that stay": lambda: DataLoader(Whole(), 4, num_workers=2, persistent_workers=True),
    "asks in vain": lambda: DataLoader(AsksInVain(), 4, num_workers=2),
    "a start that divides nothing": lambda: DataLoader(Whole(), 4, num_workers=2, worker_init_fn=only_seed),
    "no automatic batches": lambda: DataLoader(Whole(), None, num_workers=2),
    "a collate function": lambda: DataLoader(Whole(), 4, num_workers=2, collate_fn=torch.stack),
}


def streamed(make, **settings):
    class Streams(Reads):
        loader = staticmethod(make)

        def training_step(self):
            self.rows += self.batch.reshape(-1, 5)[:, 0].tolist()
            if self.step == 40:
                self.stop_train()

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer = Streams({"_seed": None, "_num_epochs": 2, **settings})
        trainer.train()
    return trainer, [str(one.message) for one in said if "worker" in str(one.message)]


@pytest.mark.parametrize("make", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("seed", [None, 0])
def test_a_stream_that_every_worker_reads_whole_is_said_once(make, seed):
    trainer, said = streamed(make, _seed=seed)
    assert len(trainer.rows) == 2 * 16  # it is read as torch reads it
    own = [one for one in said if "nothing divides it" in one]
    assert len(own) == 1 and "2 workers" in own[0] and "8 samples comes 2 times" in own[0]


def test_a_stream_without_end_and_length():
    _, said = streamed(lambda: DataLoader(Endless(), 4, num_workers=2), _num_epochs=1)
    assert len(said) == 1 and "each of its samples comes 2 times" in said[0]


DIVIDED = {
    "divides itself": lambda: DataLoader(Divides(), 2, num_workers=2),
    "divided by the start": lambda: DataLoader(Ranged(), 2, num_workers=2, worker_init_fn=divide),
    "one worker": lambda: DataLoader(Whole(), 4, num_workers=1),
    "no workers": lambda: DataLoader(Whole(), 4),
    "workers that stay": lambda: DataLoader(Divides(), 2, num_workers=2, persistent_workers=True),
}


@pytest.mark.parametrize("make", DIVIDED.values(), ids=DIVIDED)
def test_of_a_stream_that_is_divided_nothing_is_said(make):
    trainer, said = streamed(make)
    assert sorted(trainer.rows) == sorted([float(i) for i in range(8)] * 2) and said == []
