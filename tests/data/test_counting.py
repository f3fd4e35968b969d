"""The number of samples of a batch, of every form: means and accumulated steps are those of a hand-written loop."""

import dataclasses
import itertools
import warnings
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, IterableDataset, default_collate

from farabio_like import ConvnetTrainer, data

# Sample i has the value i; the images have as many channels as most have boxes.
SAMPLES = [(torch.full((3, 8 + i, 8), float(i)), {"boxes": torch.full((3 if i else 1, 4), float(i))}) for i in range(7)]
SAME = [(torch.full((3, 8, 8), float(i)), {"boxes": torch.full((3, 4), float(i))}) for i in range(7)]
ROWS = [(torch.full((5, 2), float(i)), torch.tensor(float(i))) for i in range(7)]


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))


class Values(ConvnetTrainer):
    """Its loss is linear in the samples' values, so that one step over all of them moves the weight by their mean."""

    def define_misc_attr(self):
        self._device, self._logdir, self._verbose, self._num_epochs = "cpu", None, False, 1
        self._accumulation_steps = 2
        self.sizes = []

    def get_trainloader(self):
        self.train_loader = self.valid_loader = self.source

    def build_model(self):
        self.model = Scale()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0)

    def compute_loss(self):
        values = type(self).values(self.batch)
        self.sizes.append((len(values), self.batch_size_of(self.batch)))
        self.batch_metrics["mean"] = values.mean()
        return (self.model.weight * values).mean()


def made(loader, values, kind=Values):
    """Return a trainer of this kind on a loader; `values` returns those of the samples of a batch."""
    return type(kind.__name__, (kind,), {"source": loader, "values": staticmethod(values)})()


def firsts(parts):
    return torch.stack([part.flatten()[0] for part in parts])


class Sample(NamedTuple):
    image: torch.Tensor
    boxes: torch.Tensor


@dataclasses.dataclass
class Detections:
    images: list
    targets: list


class Images:
    """A batch of a class of its own, as torch's page on memory pinning shows it."""

    def __init__(self, samples):
        self.images, self.targets = zip(*samples, strict=True)


class Graphs:
    def __init__(self, samples):
        self.num_graphs = len(samples)
        self.x = torch.cat([image[0] for image, _ in samples])
        self.edge_index = torch.zeros(2, 99)
        self.y = firsts(image for image, _ in samples)


class Opaque:
    __slots__ = ("values",)

    def __init__(self, values):
        self.values = values


def zipped(samples):
    return tuple(zip(*samples, strict=True))


def text(samples):
    rows = [row.flatten() for row, _ in samples]
    offsets = torch.tensor([0, *map(len, rows[:-1])]).cumsum(0)
    return torch.stack([y for _, y in samples]), torch.cat(rows).long(), offsets


def time_first(samples):
    return torch.stack([row for row, _ in samples], 1), torch.stack([y for _, y in samples])


def time_first_twice(samples):
    rows = torch.stack([row for row, _ in samples], 1)
    return rows, rows[..., 0].clone()


FORMS = {
    "tuples of images and targets": (SAMPLES, zipped, lambda batch: firsts(batch[0])),
    "as many boxes as channels": (SAME, zipped, lambda batch: firsts(batch[0])),
    "a list of samples": (SAMPLES, list, lambda batch: firsts(image for image, _ in batch)),
    "a list of images": ([image for image, _ in SAMPLES], list, firsts),
    "a list of images of one shape": ([image for image, _ in SAME], list, firsts),
    "a list of dicts": (
        [{"image": image, **target} for image, target in SAMPLES],
        list,
        lambda batch: firsts(one["image"] for one in batch),
    ),
    "a list of named tuples": (
        [Sample(image, target["boxes"]) for image, target in SAMPLES],
        list,
        lambda batch: firsts(one.image for one in batch),
    ),
    "a dict of lists": (SAMPLES, lambda s: dict(zip(("x", "y"), zipped(s), strict=True)), lambda b: firsts(b["x"])),
    "a dataclass of lists": (SAMPLES, lambda s: Detections(*map(list, zipped(s))), lambda b: firsts(b.images)),
    "an object of lists": (SAMPLES, Images, lambda batch: firsts(batch.images)),
    "graphs": (SAMPLES, Graphs, lambda batch: batch.y),
    "an object that tells nothing": (ROWS, lambda s: Opaque(firsts(y for _, y in s)), lambda batch: batch.values),
    "images and a tensor of targets": (
        SAME,
        lambda s: (tuple(image for image, _ in s), firsts(image for image, _ in s)),
        lambda batch: batch[1],
    ),
    "time first": (ROWS, time_first, lambda batch: batch[1]),
    "time first, also in the targets": (ROWS, time_first_twice, lambda batch: batch[1][0]),
    "text in one tensor with offsets": (ROWS, text, lambda batch: batch[0]),
    "text first": (ROWS, lambda s: text(s)[::-1], lambda batch: batch[2]),
    "a packed sequence": (
        ROWS,
        lambda s: (pack_sequence([row for row, _ in s], enforce_sorted=False), firsts(y for _, y in s)),
        lambda batch: batch[1],
    ),
    "two inputs, two targets": (
        [((row, row), (y, y)) for row, y in ROWS],
        default_collate,
        lambda batch: batch[1][0],
    ),
    "nested as it comes": (
        [((row, row), (y, y)) for row, y in ROWS],
        lambda s: default_collate(s),
        lambda batch: batch[1][0],
    ),
    "with a tensor of class weights": (
        ROWS,
        lambda s: (*default_collate(s), torch.ones(10)),
        lambda batch: batch[1],
    ),
    "strings": (
        ["0", "11", "222", "3333"] * 2,
        default_collate,
        lambda batch: torch.tensor([float(b[0]) for b in batch]),
    ),
    "one sample is left over": (SAMPLES[:5], zipped, lambda batch: firsts(batch[0])),
}


def trained(loader, values, **settings):
    """Train one epoch, without a warning, and check that each batch was counted as it should be."""
    trainer = made(loader, values)
    vars(trainer).update(settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entry = trainer.train()[-1]
    assert [own for own, _ in trainer.sizes] == [counted for _, counted in trainer.sizes]
    return trainer, entry


@pytest.mark.parametrize(("samples", "collate", "values"), FORMS.values(), ids=FORMS)
def test_means_and_windows_weigh_by_samples(samples, collate, values):
    loader = DataLoader(samples, batch_size=4, collate_fn=collate)
    trainer, entry = trained(loader, values)
    every = torch.cat([values(batch) for batch in loader])
    for part in ("train", "valid"):
        assert entry[part]["mean"] == pytest.approx(every.mean().item())
    assert trainer.model.weight.item() == pytest.approx(-every.mean().item())


class Stream(IterableDataset):
    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        yield from SAMPLES if worker is None else SAMPLES[worker.id :: worker.num_workers]


LOADERS = {
    "batch sampler": lambda: DataLoader(SAMPLES, batch_sampler=[[0, 1, 2, 3], [4], [5, 6]], collate_fn=zipped),
    "drop_last": lambda: DataLoader(SAMPLES, 2, drop_last=True, collate_fn=zipped),
    "stream": lambda: DataLoader(Stream(), 4, collate_fn=zipped),
    "stream with workers": lambda: DataLoader(Stream(), 3, collate_fn=zipped, num_workers=2),
    "workers": lambda: DataLoader(SAMPLES, 4, shuffle=True, collate_fn=zipped, num_workers=2),
    "workers that stay": lambda: DataLoader(
        SAMPLES, 4, collate_fn=zipped, num_workers=2, persistent_workers=True, shuffle=True
    ),
    "a list": lambda: [zipped(SAMPLES[:4]), zipped(SAMPLES[4:])],
    "a generator's": lambda: Batches(),
}


class Batches:
    def __iter__(self):
        yield zipped(SAMPLES[:4])
        yield zipped(SAMPLES[4:])


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("seed", [None, 0])
def test_every_loader_tells_or_the_batch_does(make, seed):
    loader = make()
    trainer, entry = trained(loader, lambda batch: firsts(batch[0]), _num_epochs=2, _seed=seed)
    every = torch.cat([firsts(images) for images, _ in make()])
    assert entry["train"]["mean"] == pytest.approx(every.mean().item())
    assert entry["valid"]["mean"] == pytest.approx(every.mean().item())


WRAPPED = {
    "enumerate": lambda trainer: enumerate(trainer.train_loader),
    "islice": lambda trainer: itertools.islice(trainer.train_epoch_iter, 2),
    "reversed": lambda trainer: reversed(list(trainer.train_epoch_iter)),
    "filter": lambda trainer: (item for item in trainer.train_epoch_iter if item[0] == 1),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_items_of_the_users_own(wrap):
    class Wrapped(Values):
        def on_train_epoch_start(self):
            self.train_epoch_iter = wrap(self)

    trainer = made(DataLoader(SAME, 4, collate_fn=zipped), lambda batch: firsts(batch[0]), Wrapped)
    trainer._has_eval = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.train()
    assert {own for own, _ in trainer.sizes} <= {4, 3}
    assert [own for own, _ in trainer.sizes] == [counted for _, counted in trainer.sizes]


def test_samples_that_the_collate_function_leaves_out_do_not_count():
    def without_odd(samples):
        return default_collate([sample for sample in samples if sample[1] % 2 == 0])

    loader = DataLoader(ROWS, 4, collate_fn=without_odd)
    _, entry = trained(loader, lambda batch: batch[1])
    assert entry["train"]["mean"] == pytest.approx((0 + 2 + 4 + 6) / 4)


def test_chunks_count_as_many_as_are_in_them():
    chunks = [(torch.zeros(n, 1), torch.full((n, 1), float(n))) for n in (5, 1, 3)]
    loader = DataLoader(chunks, collate_fn=lambda samples: samples[0])
    _, entry = trained(loader, lambda batch: batch[1][:, 0])
    assert entry["train"]["mean"] == pytest.approx((25 + 1 + 9) / 9)


def guessed(loader, values):
    trainer = made(loader, values)
    trainer._num_epochs = 2
    with pytest.warns(UserWarning, match="batch_size_of") as said:
        trainer.train()
    assert len(said) == 1, "once"
    return trainer, str(said[0].message)


def test_what_stays_a_guess_is_said_once():
    batches = [(torch.zeros(6, n), torch.full((n,), float(n))) for n in (4, 3)]  # time first, and no loader knows
    trainer, said = guessed(batches, lambda batch: batch[1])
    assert "(6, 4)" in said and "4 is assumed" in said and "train" in said
    assert [own for own, _ in trainer.sizes] == [counted for _, counted in trainer.sizes]


@pytest.mark.parametrize(
    "batch",
    [
        (torch.zeros(5, 2), torch.zeros(5), torch.zeros(10)),
        {"x": torch.zeros(5, 2), "edge_index": torch.zeros(2, 9), "y": torch.zeros(3)},
        Opaque(torch.zeros(3)),
        ([torch.zeros(5, 2), torch.zeros(5, 1)], [torch.zeros(5), torch.zeros(5)]),
        [torch.zeros(3, 8 + i, 8) for i in range(4)],
    ],
    ids=["one more", "graph", "opaque", "nested", "images"],
)
def test_parts_that_do_not_agree_are_a_guess(batch):
    guessed([batch], lambda batch: torch.zeros(1))


def test_a_count_of_the_users_own_wins_and_nothing_is_said():
    class Tokens(Values):
        def batch_size_of(self, batch):
            return len(batch[1])

    tokens = [torch.full((n,), float(n)) for n in (3, 1, 2, 9, 4)]
    loader = DataLoader(tokens, 2, collate_fn=lambda samples: (torch.tensor(len(samples)), torch.cat(samples)))
    trainer = made(loader, lambda batch: batch[1], Tokens)
    trainer._accumulation_steps = 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entry = trainer.train()[-1]
    assert entry["train"]["mean"] == pytest.approx(torch.cat(tokens).mean().item())
    assert trainer.model.weight.item() == pytest.approx(-torch.cat(tokens).mean().item())


def test_a_batch_within_another_ones_pass_is_counted_by_itself():
    seen = []

    class Nested(Values):
        def on_end_training_batch(self):
            other = DataLoader(SAME[:3], 3, collate_fn=zipped)
            self.evaluate_loader(other)
            seen.append(self.batch_size_of(self.batch))

    trainer = made(DataLoader(SAME, 4, collate_fn=zipped), lambda batch: firsts(batch[0]), Nested)
    trainer._has_eval = False
    trainer.train()
    assert seen == [4, 3]
    assert [own for own, _ in trainer.sizes] == [counted for _, counted in trainer.sizes]


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        ((torch.zeros(4, 2), torch.zeros(4)), [4]),
        ((torch.zeros(4, 2), torch.zeros(3)), []),
        ((torch.zeros(4, 2), ["a"] * 10), [4]),
        ((torch.zeros(4, 2), [], None), [4]),
        ({"images": [torch.zeros(3, 8, 8)] * 2, "targets": [{"n": 1}] * 2}, [2]),
        ([torch.zeros(2, 3), torch.zeros(1, 3), torch.zeros(3, 3)], [3]),
        ([torch.zeros(4), torch.zeros(4), torch.zeros(4)], [4]),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 9, 8)], [3]),
        ([torch.zeros(3, 8 + i, 8) for i in range(4)], [3, 4]),
        ([{"a": torch.zeros(3)}, {"a": torch.zeros(5)}], [2]),
        (torch.nested.nested_tensor([torch.zeros(2), torch.zeros(5)], layout=torch.jagged), [2]),
        ((1, 2), None),
        (5, None),
    ],
    ids=lambda value: str(value).replace("\n", "")[:30],
)
def test_what_the_parts_of_a_batch_allow(batch, found):
    assert data.counting.readings(batch) == found
