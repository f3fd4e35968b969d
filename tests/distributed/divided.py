"""Loaders that are divided by their owner, or are not: what each rank reads of them, run by ``torchrun``."""

import json
import sys
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from farabio_like import ConvnetTrainer, DataError, distributed

N = 16


def rows():
    return TensorDataset(torch.arange(float(N))[:, None], torch.zeros(N, 1))


class Divided(ConvnetTrainer):
    def define_misc_attr(self):
        self._device, self._logdir, self._verbose, self._num_epochs = "cpu", None, False, 1
        self.seen, self.evaluated = [], []
        for name, value in self.config.items():
            setattr(self, name, value)

    def get_trainloader(self):
        self.train_loader, self.valid_loader = self.loader(), self.loader()

    def build_model(self):
        self.model = nn.Linear(1, 1, bias=False).double()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)

    def compute_loss(self):
        into = self.seen if self.loader_name == "train" else self.evaluated
        if not self._run_state.skip:
            into += self.inputs[:, 0].tolist()
        self.batch_metrics["mean"] = self.inputs.double().mean()
        return self.model(self.inputs.double()).mean()


class Keeps(Sampler):
    """Knows rank and number of ranks."""

    def __init__(self):
        self._rank, self._world_size = distributed.rank(), distributed.world_size()

    def __iter__(self):
        return iter(range(self._rank, N, self._world_size))

    def __len__(self):
        return len(range(self._rank, N, self._world_size))


class Asks(Sampler):
    """Asks for the rank when it is read."""

    def __iter__(self):
        half = -(-N // distributed.world_size())
        return iter((torch.randperm(half) + half * distributed.rank()).tolist())

    def __len__(self):
        return -(-N // distributed.world_size())


class Overlaps(Asks):
    """Gives each rank its half, and two samples to both."""

    def __iter__(self):
        yield from (0, 8)
        yield from range(1, 8) if distributed.rank() == 0 else range(9, N)

    def __len__(self):
        return 9


class OddFirst(Sampler):
    """Knows of no ranks."""

    def __iter__(self):
        yield from (*range(1, N, 2), *range(0, N, 2))

    def __len__(self):
        return N


class Stream(IterableDataset):
    divides = False

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        rank, ranks = (distributed.rank(), distributed.world_size()) if self.divides else (0, 1)
        for i in range(rank * workers + worker, N, ranks * workers):
            yield torch.tensor([float(i)]), torch.zeros(1)


class DividedStream(Stream):
    divides = True


class KnowsRank(Stream):
    """As data sets that are made with the number of their process."""

    def __init__(self):
        self.rank, self.world_size = distributed.rank(), distributed.world_size()

    def __len__(self):
        return N

    def __iter__(self):
        for i in range(self.rank, N, self.world_size):
            yield torch.tensor([float(i)]), torch.zeros(1)


class Batches:
    """No DataLoader."""

    def __iter__(self):
        for i in range(2 * distributed.rank(), N, 2 * distributed.world_size()):
            yield torch.tensor([[float(i)], [i + 1.0]]), torch.zeros(2, 1)


def by_turns():
    every = [[i, i + 1] for i in range(0, N, 2)]
    return every[distributed.rank() :: distributed.world_size()]


def own_indices():
    return list(range(distributed.rank(), N, distributed.world_size()))


def mine():
    return torch.Generator().manual_seed(distributed.rank())


class Files(Dataset):
    """A data set as people write it, with a list of names."""

    def __init__(self, numbers):
        self.files = [f"{number}.png" for number in numbers]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return torch.tensor([float(self.files[index][:-4])]), torch.zeros(1)


LOADERS = {
    "a DistributedSampler": lambda: DataLoader(rows(), 2, sampler=DistributedSampler(rows(), shuffle=False)),
    "in a batch sampler": lambda: DataLoader(
        rows(), batch_sampler=BatchSampler(DistributedSampler(rows(), seed=3), 2, drop_last=False)
    ),
    "a sampler that knows its rank": lambda: DataLoader(rows(), 2, sampler=Keeps()),
    "in a batch sampler, knows its rank": lambda: DataLoader(rows(), batch_sampler=BatchSampler(Keeps(), 2, False)),
    "a sampler that asks for its rank": lambda: DataLoader(rows(), 2, sampler=Asks()),
    "a list of batches of indices": lambda: DataLoader(rows(), batch_sampler=by_turns()),
    "a list of indices": lambda: DataLoader(rows(), 2, sampler=own_indices()),
    "SubsetRandomSampler of own indices": lambda: DataLoader(rows(), 2, sampler=SubsetRandomSampler(own_indices())),
    "a stream that divides": lambda: DataLoader(DividedStream(), 2),
    "a stream that divides, with workers": lambda: DataLoader(DividedStream(), 2, num_workers=2),
    "a stream that knows its rank": lambda: DataLoader(KnowsRank(), 2),
    "an iterable that divides": Batches,
    "a sampler without ranks": lambda: DataLoader(rows(), 4, sampler=OddFirst()),
    "a sampler without ranks, workers": lambda: DataLoader(rows(), 4, sampler=OddFirst(), num_workers=2),
    "a weighted sampler": lambda: DataLoader(rows(), 4, sampler=WeightedRandomSampler([1.0] * N, N, replacement=False)),
    "a stream": lambda: DataLoader(Stream(), 2),
    "a stream with workers": lambda: DataLoader(Stream(), 2, num_workers=2),
    "a list of batches": lambda: [(torch.tensor([[i], [i + 1.0]]), torch.zeros(2, 1)) for i in range(0, N, 2)],
    "a subset of its own": lambda: DataLoader(Subset(rows(), own_indices()), 2),
    "files of its own": lambda: DataLoader(Files(own_indices()), 2),
    "files": lambda: DataLoader(Files(range(N)), 2),
    "a list of batches of its own": lambda: list(Batches()),
    "a data set of its own": lambda: DataLoader([rows()[i] for i in own_indices()], 2),
    "a split of its own": lambda: DataLoader(random_split(rows(), [12, 4], mine())[0], 2),
    "a split of its own, of files": lambda: DataLoader(Files(torch.randperm(N, generator=mine())[:12].tolist()), 2),
    "samples of both": lambda: DataLoader(rows(), 2, sampler=Overlaps()),
    "samples of both, left alone": lambda: DataLoader(rows(), 2, sampler=Overlaps()),
    "undivided, as asked": lambda: DataLoader(rows(), 4),
}
SETTINGS = {
    "samples of both, left alone": {"_shard_loaders": {"train": False, "valid": False}},
    "undivided, as asked": {"_shard_loaders": False},
}


class Noisy(Dataset):
    """Its samples have a random number each."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.tensor([float(index), torch.rand(()).item()]), torch.zeros(1)


class Drawn(Divided):
    """A rare sample is drawn many times; each has numbers of its own, the same on any number of ranks."""

    def compute_loss(self):
        self.seen += [] if self._run_state.skip else self.inputs.tolist()
        return self.model(self.inputs[:, :1].double()).mean()


def drawn(workers):
    torch.manual_seed(0)
    sampler = WeightedRandomSampler([1.0] * 9 + [30.0], 24, generator=torch.Generator().manual_seed(1))
    trainer = Drawn({"_seed": 0, "_has_eval": False, "_num_epochs": 2, "workers": workers})
    trainer.train_loader = distributed.loaders.shard_loader(
        DataLoader(Noisy(), 5, sampler=sampler, num_workers=workers)
    )
    trainer.train()
    return sorted(row for seen in distributed.gather_objects(trainer.seen) for row in seen)


class Skips(Divided):
    """Skips the second batch; on one rank alone where that is asked."""

    loader = staticmethod(lambda: DataLoader(rows(), 4))

    def build_model(self):
        super().build_model()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def on_start_training_batch(self, item):
        super().on_start_training_batch(item)
        if item[0] == 1:
            self._next_loop = not self.alone or distributed.rank() == 1


def skipped(alone):
    torch.manual_seed(0)
    trainer = Skips({"alone": alone, "_dist_timeout": 60, "_accumulation_steps": 2, "_num_epochs": 2})
    trainer.train()
    weights = [parameter.item() for parameter in trainer.model.parameters()]
    return {"weights": weights, "mean": trainer.history[-1]["train"]["mean"]}


def read(name):
    kind = type("Divided", (Divided,), {"loader": staticmethod(LOADERS[name])})
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            trainer = kind(SETTINGS.get(name))
        except DataError as error:
            return str(error)
        entry = trainer.train()[-1]
    return {
        "train": sorted(x for seen in distributed.gather_objects(trainer.seen) for x in seen),
        "valid": sorted(x for seen in distributed.gather_objects(trainer.evaluated) for x in seen),
        "mean": entry["valid"]["mean"],
        "said": [str(one.message) for one in said],
    }


if __name__ == "__main__":
    Drawn.loader = staticmethod(lambda: None)
    if sys.argv[2:] == ["alone"]:
        skipped(alone=True)
    results = {"skipped": skipped(alone=False)}
    for case in sys.argv[2:] or LOADERS:
        results[case] = read(case)
    results["drawn"] = [drawn(workers) for workers in (0, 2)]
    Path(sys.argv[1], f"rank{distributed.rank()}.json").write_text(json.dumps(results))
