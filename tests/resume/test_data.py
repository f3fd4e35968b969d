"""A run goes on with the samples that it had: the split, and the samples of an epoch that are left."""

import signal
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from farabio_like import ConvnetTrainer, DataError

N = 40
ROWS = torch.arange(float(N)).unsqueeze(1)


SEEN = weakref.WeakKeyDictionary()


class Files(Dataset):
    """A data set as people write it: names in a list, loaded one by one."""

    def __init__(self, numbers):
        self.files = [f"{int(number)}.png" for number in numbers]
        self.opened = 0

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        self.opened += 1
        return torch.tensor([float(self.files[index][:-4])])


class Transformed(Dataset):
    def __init__(self, inside):
        self.inside = inside

    def __len__(self):
        return len(self.inside)

    def __getitem__(self, index):
        return self.inside[index] + 0


class Silent(Dataset):
    """Tells nothing of its samples but how many there are."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor([float(index)])


class Run(ConvnetTrainer):
    """Notes the samples of each loader."""

    def define_misc_attr(self):
        self._device, self._num_epochs, self._save_steps = "cpu", 3, 1
        for name, value in self.config.items():
            setattr(self, name, value)

    @property
    def seen(self):
        """What this process has read: no attribute, which a checkpoint would bring along."""
        return SEEN.setdefault(self, {"train": [], "valid": [], "test": []})

    def get_trainloader(self):
        self.train_loader, self.valid_loader, self.test_loader = type(self).split()

    def build_model(self):
        self.model = nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-6)

    def compute_loss(self):
        self.seen[self.loader_name] += (
            self.batch[0].flatten().tolist() if isinstance(self.batch, list) else (self.batch.flatten().tolist())
        )
        rows = self.batch[0] if isinstance(self.batch, list) else self.batch
        return self.model(rows).mean()

    def on_end_training_batch(self):
        if self.step == self.config.get("stop"):
            signal.raise_signal(signal.SIGINT)  # the step is saved


def run_of(split, **methods):
    return type("Run", (Run,), {"split": staticmethod(split), **methods})


def stopped(kind, folder, step=4, **settings):
    np.random.seed(None)
    torch.seed()
    with pytest.raises(KeyboardInterrupt):
        first = kind({"_logdir": str(folder), "stop": step, **settings})
        first.train()
    np.random.seed(None)
    torch.seed()
    return first, kind({"_logdir": str(folder), **settings})


def loaders(parts, **more):
    return [DataLoader(part, 10, **more) for part in parts]


def permuted():
    order = np.random.permutation(N)
    return order[:24], order[24:32], order[32:]


SPLITS = {
    "random_split": lambda: loaders(random_split(TensorDataset(ROWS), [24, 8, 8]), shuffle=True),
    "arrays of indices": lambda: loaders(Subset(TensorDataset(ROWS), part) for part in permuted()),
    "lists of indices": lambda: loaders(Subset(ROWS, part.tolist()) for part in permuted()),
    "tensors of indices": lambda: loaders(Subset(TensorDataset(ROWS), torch.tensor(part)) for part in permuted()),
    "samplers": lambda: [DataLoader(ROWS, 10, sampler=SubsetRandomSampler(part.tolist())) for part in permuted()],
    "a split of a split": lambda: nested(),
    "with a transform": lambda: loaders(Transformed(Subset(Files(range(N)), part)) for part in permuted()),
    "of files": lambda: loaders(Subset(Files(range(N)), part) for part in permuted()),
    "workers": lambda: loaders((Subset(ROWS, part.tolist()) for part in permuted()), num_workers=1),
    "two sets": lambda: loaders(
        ConcatDataset([Subset(ROWS[:20], part[part < 20]), Subset(ROWS[20:], part[part >= 20] - 20)])
        for part in [np.random.permutation(N)] * 3
    ),
}


def nested():
    rest, test = random_split(TensorDataset(ROWS), [32, 8])
    return loaders([*random_split(rest, [24, 8]), test])


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_a_split_by_indices_gets_its_indices_back(split, tmp_path, capsys):
    first, second = stopped(run_of(split), tmp_path)
    capsys.readouterr()
    second.train(resume=True)
    assert "split was drawn anew" in capsys.readouterr().out
    tested = second.test()
    assert "loss" in tested
    if split is not SPLITS["two sets"]:
        trained = set(first.seen["train"]) | set(second.seen["train"])
        assert len(trained) == 24
        assert not trained & (set(second.seen["valid"]) | set(second.seen["test"]))
    third = type(first)({"_logdir": str(tmp_path), "_num_epochs": 4})
    third.train(resume=second.run_dir)
    assert set(third.seen["train"]) == set(second.seen["train"])


OTHERS = {
    "arrays": lambda: loaders(TensorDataset(ROWS[part]) for part in permuted()),
    "lists": lambda: loaders([ROWS[i] for i in part] for part in permuted()),
    "files": lambda: loaders(Files(part) for part in permuted()),
    "files inside": lambda: loaders(Transformed(Files(part)) for part in permuted()),
    "lists of batches": lambda: [[ROWS[part]] for part in permuted()],
    "weights of another split": lambda: weighted(),
    "only the test": lambda: loaders([Files(range(24)), Files(range(24, 32)), Files(permuted()[2])]),
}


def weighted():
    parts = random_split(TensorDataset(ROWS), [24, 8, 8])
    sampler = WeightedRandomSampler(ROWS[list(parts[0].indices), 0] + 1, 24)
    return DataLoader(parts[0], 10, sampler=sampler), *loaders(parts[1:])


@pytest.mark.parametrize("split", OTHERS.values(), ids=OTHERS)
def test_another_split_is_an_error_before_the_first_step(split, tmp_path, capsys):
    _, second = stopped(run_of(split), tmp_path, step=1)
    with pytest.raises(DataError, match="other samples than when .* was written.*not the same ones"):
        second.train(resume=True)
    assert second.seen["train"] == [] and second.step == 0
    capsys.readouterr()
    second.train(resume=True, other_data=True)
    assert second.step and "has other samples" in capsys.readouterr().out


def test_data_that_were_added_are_an_error_unless_it_is_said(tmp_path, capsys):
    for make in (Files, lambda numbers: Silent(len(numbers)), lambda numbers: Subset(ROWS, list(numbers))):
        lengths = iter([20, 30, 30])
        kind = run_of(lambda: loaders([make(range(next(lengths))), make(range(5)), make(range(5))]))  # noqa: B023
        folder = tmp_path / str(make)[-12:-1].replace("/", "")
        _, second = stopped(kind, folder, step=1)
        if make is Files or "Silent" in str(make(range(1))):
            with pytest.raises(DataError, match="it had 20, and has 30"):
                second.train(resume=True)
        second.train(resume=True, other_data=True)
        assert len(set(second.seen["train"])) == 30


SAME = {
    "in order": lambda: loaders([Files(range(24)), Files(range(24, 32)), Files(range(32, N))]),
    "in another order": lambda: loaders(
        Files(np.random.permutation(part)) for part in (range(24), range(24, 32), range(32, N))
    ),
    "by a generator": lambda: loaders(random_split(ROWS, [24, 8, 8], torch.Generator().manual_seed(0))),
    "silent": lambda: loaders([Silent(24), Silent(8), Silent(8)]),
    "arrays": lambda: loaders([TensorDataset(ROWS[:24]), TensorDataset(ROWS[24:32]), TensorDataset(ROWS[32:])]),
}


@pytest.mark.parametrize("split", SAME.values(), ids=SAME)
def test_of_the_same_samples_nothing_is_said(split, tmp_path, capsys):
    _, second = stopped(run_of(split), tmp_path)
    capsys.readouterr()
    second.train(resume=True)
    said = capsys.readouterr().out
    assert "other samples" not in said and "drawn anew" not in said


def test_no_sample_is_loaded_to_tell_them(tmp_path):
    kind = run_of(SAME["in order"])
    _, second = stopped(kind, tmp_path, step=3)
    second.train(resume=True)
    # What the first run has counted in its data set goes on, as in a run without a stop: three epochs of 24.
    assert second.train_loader.dataset.opened == 24 * 3 and second.test_loader.dataset.opened == 0


def test_loaders_that_hooks_set_are_left_to_them(tmp_path):
    def on_train_epoch_start(self):
        if self.epoch == 2:
            self.train_loader = DataLoader(Files(range(16)), 10)
            self.train_epoch_iter = enumerate(self.train_loader)

    kind = run_of(SAME["in order"], on_train_epoch_start=on_train_epoch_start)
    _, second = stopped(kind, tmp_path, step=4)
    second.train(resume=True)
    assert second.epoch == 3


# ---------------------------------------------------------------- another batch size in the middle of an epoch


def sizes(size):
    return {
        "in order": lambda: DataLoader(TensorDataset(ROWS), size),
        "shuffled": lambda: DataLoader(TensorDataset(ROWS), size, shuffle=True),
        "a data set": lambda: DataLoader(Files(range(N)), size, shuffle=True),
        "several at once": lambda: DataLoader(Subset(Files(range(N)), range(N)), size, shuffle=True),
        "workers": lambda: DataLoader(Files(range(N)), size, shuffle=True, num_workers=1),
        "a collate function": lambda: DataLoader(Files(range(N)), size, shuffle=True, collate_fn=torch.stack),
        "drop_last": lambda: DataLoader(TensorDataset(ROWS), size, shuffle=True, drop_last=True),
    }


@pytest.mark.parametrize("name", sizes(1))
@pytest.mark.parametrize(("before", "after", "seed"), [(8, 5, 0), (5, 8, None), (4, 40, 0)])
def test_what_is_left_of_an_epoch_is_counted_in_samples(name, before, after, seed, tmp_path):
    settings = {"_has_eval": False, "_num_epochs": 2, "_logdir": str(tmp_path), "_seed": seed}
    whole = run_of(lambda: (sizes(before)[name](), None, None))
    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        first = whole({**settings, "stop": 2})
        first.train()
    second = run_of(lambda: (sizes(after)[name](), None, None))({**settings})
    second.train(resume=True)
    left = N - 2 * before
    if name == "drop_last":
        left -= N % after
    assert len(set(first.seen["train"])) == 2 * before
    epoch = first.seen["train"] + second.seen["train"][:left]
    assert len(epoch) == len(set(epoch)), "none comes twice"
    assert len(second.seen["train"]) == left + (N - N % after if name == "drop_last" else N)
    assert len(set(second.seen["train"][left:])) == len(second.seen["train"][left:])
    if name != "drop_last" and seed == 0:
        alone = whole({**settings, "_logdir": None})
        alone.train()
        assert epoch == alone.seen["train"][:N], "in the order that the epoch had"


def test_batches_of_three_sizes_in_one_epoch(tmp_path):
    settings = {"_has_eval": False, "_num_epochs": 1, "_logdir": str(tmp_path), "_seed": 0}
    seen = []
    for size, stop in ((8, 2), (3, 4), (5, 6), (4, 0)):
        trainer = run_of(lambda: (DataLoader(Files(range(N)), size, shuffle=True), None, None))  # noqa: B023
        trainer = trainer({**settings, "stop": stop})
        if stop:
            with pytest.raises(KeyboardInterrupt):
                trainer.train(resume=True)
        else:
            trainer.train(resume=True)
        seen += trainer.seen["train"]
    assert sorted(seen) == ROWS.flatten().tolist()
