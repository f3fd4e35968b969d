"""Loaders: fetched whole exactly as a DataLoader gives them; the ends of loaders and of data."""

import traceback

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from farabio_like import DataError, data

from ..trainers import Tiny

# ---------------------------------------------------------------- whole batches are the DataLoader's


def tensors(samples):
    return TensorDataset(torch.arange(samples * 6.0).reshape(samples, 2, 3), torch.arange(samples))


class OddFirst(Sampler):
    def __init__(self, length):
        self.length = length

    def __iter__(self):
        yield from (*range(1, self.length, 2), *range(0, self.length, 2))

    def __len__(self):
        return self.length


class OwnBatches:
    """A batch sampler without a length, which gives tuples and tensors of different sizes."""

    def __iter__(self):
        yield (3, 1)
        yield [0]
        yield torch.tensor([4, 4, 2]).tolist()


class FetchesMany(Dataset):
    """Reads several samples at once, as datasets on a disk do, with random numbers of their own."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return {"image": torch.rand(2) + index, "name": f"{index}.png", "label": index % 3}

    def __getitems__(self, indices):
        return [self[index] for index in indices]


def seeded():
    return torch.Generator().manual_seed(5)


def nested_subsets():
    part, _ = random_split(tensors(20), [13, 7], seeded())
    return Subset(Subset(part, [12, 0, 5, 5, 7, 1, 3]), range(6, 0, -1))


def channels_last():
    images = torch.arange(750.0).reshape(10, 5, 5, 3).permute(0, 3, 1, 2)
    return TensorDataset(images, images.contiguous(memory_format=torch.channels_last), images[:, 0, 0, 0])


def strange_layouts():
    rows = torch.arange(40.0).reshape(20, 2)
    return TensorDataset(rows[::2], rows.t().reshape(10, 4).t().t(), torch.ones(10, 1).expand(10, 4))


def many_types():
    kinds = [torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int32, torch.bool, torch.complex64]
    return TensorDataset(*(torch.arange(10).to(kind) for kind in kinds), torch.zeros(10, 0))


FETCHED = {
    "in order": lambda: DataLoader(tensors(10), batch_size=4),
    "in order, divisible": lambda: DataLoader(tensors(8), batch_size=4),
    "in order, drop_last": lambda: DataLoader(tensors(10), batch_size=4, drop_last=True),
    "in order, divisible, drop_last": lambda: DataLoader(tensors(8), batch_size=4, drop_last=True),
    "in order, generator": lambda: DataLoader(tensors(10), batch_size=4, generator=seeded()),
    "batch size 1": lambda: DataLoader(tensors(3)),
    "one batch": lambda: DataLoader(tensors(3), batch_size=50, shuffle=True),
    "drop_last drops all": lambda: DataLoader(tensors(3), batch_size=50, shuffle=True, drop_last=True),
    "one sample": lambda: DataLoader(tensors(1), batch_size=4, shuffle=True),
    "shuffled": lambda: DataLoader(tensors(10), batch_size=4, shuffle=True),
    "shuffled, divisible": lambda: DataLoader(tensors(8), batch_size=4, shuffle=True),
    "shuffled, drop_last": lambda: DataLoader(tensors(10), batch_size=4, shuffle=True, drop_last=True),
    "shuffled, batch size 1": lambda: DataLoader(tensors(7), shuffle=True),
    "shuffled, generator": lambda: DataLoader(tensors(10), batch_size=4, shuffle=True, generator=seeded()),
    "shuffled, generator, divisible": lambda: DataLoader(tensors(8), batch_size=4, shuffle=True, generator=seeded()),
    "shuffled, generator, drop_last": lambda: DataLoader(
        tensors(10), batch_size=4, shuffle=True, generator=seeded(), drop_last=True
    ),
    "shuffled, generator, divisible, drop_last": lambda: DataLoader(
        tensors(8), batch_size=4, shuffle=True, generator=seeded(), drop_last=True
    ),
    "shuffled by the default generator": lambda: DataLoader(
        tensors(10), batch_size=4, shuffle=True, generator=torch.default_generator
    ),
    "shuffled by the default generator, divisible": lambda: DataLoader(
        tensors(8), batch_size=4, shuffle=True, generator=torch.default_generator
    ),
    "sampler and loader with generators": lambda: DataLoader(
        tensors(10), batch_size=4, sampler=RandomSampler(range(10), generator=seeded()), generator=seeded()
    ),
    "with replacement": lambda: DataLoader(
        tensors(10), batch_size=4, sampler=RandomSampler(range(10), replacement=True, num_samples=37)
    ),
    "fewer samples than there are": lambda: DataLoader(
        tensors(10), batch_size=4, sampler=RandomSampler(range(10), num_samples=7, generator=seeded())
    ),
    "more samples than there are": lambda: DataLoader(
        tensors(10), batch_size=4, sampler=RandomSampler(range(10), num_samples=23, generator=seeded())
    ),
    "a sampler over fewer": lambda: DataLoader(tensors(10), batch_size=4, sampler=SequentialSampler(range(5))),
    "a random sampler over fewer": lambda: DataLoader(tensors(10), batch_size=4, sampler=RandomSampler(range(5))),
    "weighted": lambda: DataLoader(
        tensors(10), batch_size=4, sampler=WeightedRandomSampler(torch.rand(10), 9, generator=seeded())
    ),
    "subset random sampler": lambda: DataLoader(tensors(10), batch_size=4, sampler=SubsetRandomSampler([7, 3, 1])),
    "own sampler": lambda: DataLoader(tensors(10), batch_size=4, sampler=OddFirst(10)),
    "own sampler, drop_last": lambda: DataLoader(tensors(10), batch_size=4, sampler=OddFirst(10), drop_last=True),
    "own sampler with negative indices": lambda: DataLoader(tensors(10), batch_size=2, sampler=[-1, 3, -10]),
    "batch sampler": lambda: DataLoader(tensors(10), batch_sampler=BatchSampler(OddFirst(10), 4, False)),
    "batch sampler over a random one": lambda: DataLoader(
        tensors(10), batch_sampler=BatchSampler(RandomSampler(range(10), generator=seeded()), 4, True)
    ),
    "own batch sampler": lambda: DataLoader(tensors(10), batch_sampler=OwnBatches()),
    "list as batch sampler": lambda: DataLoader(tensors(10), batch_sampler=[[1, 2], [5]]),
    "subset": lambda: DataLoader(Subset(tensors(10), [7, 2, 2, 9]), batch_size=3),
    "subset, shuffled": lambda: DataLoader(Subset(tensors(10), [7, 2, 2, 9]), batch_size=3, shuffle=True),
    "subset by a tensor": lambda: DataLoader(Subset(tensors(10), torch.tensor([7, 2, 9])), batch_size=2),
    "subset by negative indices": lambda: DataLoader(Subset(tensors(10), [-1, 2, -3]), batch_size=2),
    "random_split": lambda: DataLoader(random_split(tensors(10), [7, 3], seeded())[0], batch_size=2, shuffle=True),
    "nested subsets": lambda: DataLoader(nested_subsets(), batch_size=4),
    "nested subsets, shuffled": lambda: DataLoader(nested_subsets(), batch_size=4, shuffle=True, generator=seeded()),
    "empty subset": lambda: DataLoader(Subset(tensors(10), []), batch_size=4),
    "one tensor": lambda: DataLoader(TensorDataset(torch.arange(10)), batch_size=4, shuffle=True),
    "many types": lambda: DataLoader(many_types(), batch_size=4),
    "many types, shuffled": lambda: DataLoader(many_types(), batch_size=4, shuffle=True),
    "channels last": lambda: DataLoader(channels_last(), batch_size=4),
    "channels last, shuffled": lambda: DataLoader(channels_last(), batch_size=4, shuffle=True),
    "strange layouts": lambda: DataLoader(strange_layouts(), batch_size=4),
    "strange layouts, shuffled": lambda: DataLoader(strange_layouts(), batch_size=4, shuffle=True),
    "__getitems__": lambda: DataLoader(FetchesMany(), batch_size=4),
    "__getitems__, shuffled": lambda: DataLoader(FetchesMany(), batch_size=4, shuffle=True, drop_last=True),
    "__getitems__, subset": lambda: DataLoader(Subset(FetchesMany(), [4, 2, 9]), batch_size=2, shuffle=True),
    "subset of another dataset": lambda: DataLoader(Subset([5, 6, 7, 8], [3, 1, 0]), batch_size=2, shuffle=True),
}


class PlainDataset(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.rand(2) + index, index


class NoisyTensors(TensorDataset):
    """Augments: reading its tensors by index would miss that."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image + torch.rand(()), label


class EveryOther(DataLoader):
    def __iter__(self):
        for index, batch in enumerate(super().__iter__()):
            if index % 2 == 0:
                yield batch


class Counting(IterableDataset):
    def __iter__(self):
        return iter(range(10))


class Tagged(torch.Tensor):
    """A tensor subclass, as torchvision's images are."""


def replaced():
    loader = DataLoader(tensors(10), batch_size=4)
    loader.__iter__ = lambda: iter(())
    return loader


LEFT_TO_THE_LOADER = {
    "collate_fn": lambda: DataLoader(tensors(10), batch_size=4, collate_fn=lambda samples: len(samples)),
    "workers": lambda: DataLoader(tensors(10), batch_size=4, shuffle=True, num_workers=1),
    "workers, generator": lambda: DataLoader(
        tensors(10), batch_size=4, shuffle=True, num_workers=1, generator=seeded()
    ),
    "subclassed TensorDataset": lambda: DataLoader(NoisyTensors(*tensors(10).tensors), batch_size=4, shuffle=True),
    "a class of one's own": lambda: DataLoader(PlainDataset(), batch_size=4, shuffle=True),
    "subclassed DataLoader": lambda: EveryOther(tensors(20), batch_size=4, shuffle=True),
    "no automatic batches": lambda: DataLoader(tensors(10), batch_size=None),
    "iterable dataset": lambda: DataLoader(Counting(), batch_size=4),
    "concatenated": lambda: DataLoader(ConcatDataset([tensors(3), tensors(4)]), batch_size=4, shuffle=True),
    "a list": lambda: DataLoader(list(range(10)), batch_size=4, shuffle=True),
    "tensor subclass": lambda: DataLoader(TensorDataset(torch.rand(10, 2).as_subclass(Tagged)), batch_size=4),
    "tensors with gradients": lambda: DataLoader(TensorDataset(torch.rand(10, 2, requires_grad=True)), batch_size=4),
    "the loader's own iteration replaced": replaced,
}


def record(make, read):
    """Return all that two epochs over a loader give and leave, with random numbers drawn in between."""
    torch.manual_seed(3)
    loader = make()
    generators = [loader.generator, getattr(loader.sampler, "generator", None)]
    found = []
    for _ in range(2):
        for batch in read(loader):
            states = [g.get_state().tolist() for g in generators if g is not None]
            found.append((describe(batch), torch.rand(1).item(), states))
        states = [g.get_state().tolist() for g in generators if g is not None]
        found.append((torch.get_rng_state().tolist(), states))
    return found


def describe(batch):
    """Return a batch as plain data: types, dtypes, layout in memory, contents."""
    if isinstance(batch, torch.Tensor):
        content = batch.detach().to(torch.complex128).tolist()
        return type(batch), batch.dtype, batch.stride(), batch.is_contiguous(), batch.requires_grad, content
    if isinstance(batch, dict):
        return type(batch), {key: describe(part) for key, part in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch), [describe(part) for part in batch]
    return type(batch), batch


@pytest.mark.parametrize("make", FETCHED.values(), ids=FETCHED)
def test_whole_batches_are_exactly_the_loaders(make):
    assert data.fetcher(make()) is not None, "it is fetched by whole batches at all"
    assert record(make, data.read_batches) == record(make, iter)


@pytest.mark.parametrize("make", LEFT_TO_THE_LOADER.values(), ids=LEFT_TO_THE_LOADER)
def test_anything_else_is_left_to_the_loader(make):
    assert data.fetcher(make()) is None
    assert record(make, data.read_batches) == record(make, iter)


@pytest.mark.parametrize("make", [FETCHED["own batch sampler"], LEFT_TO_THE_LOADER["subclassed DataLoader"]])
def test_items_number_the_same_batches(make):
    def read(loader):
        items = list(data.Items(loader, "train"))
        assert [index for index, _ in items] == list(range(len(items)))
        return [batch for _, batch in items]

    assert len(read(make())) > 1
    torch.manual_seed(1)
    found = [describe(batch) for batch in read(make())]
    torch.manual_seed(1)
    assert found == [describe(batch) for batch in make()]


def test_pinned_memory_is_left_to_the_loader_where_there_is_any():
    loader = DataLoader(tensors(10), batch_size=4, pin_memory=True)
    assert (data.fetcher(loader) is None) == torch.accelerator.is_available()


def test_an_index_beyond_the_data_is_the_loaders_error():
    for make in (
        lambda: DataLoader(tensors(5), batch_size=4, sampler=SequentialSampler(range(10))),
        lambda: DataLoader(Subset(tensors(5), [0, 1, 2, 7]), batch_size=2),
        lambda: DataLoader(tensors(5), batch_size=4, sampler=[0, 1, 9]),
    ):
        with pytest.raises(IndexError):
            list(make())
        with pytest.raises(IndexError):
            list(data.Items(make(), "train"))


def test_a_batch_is_no_view_of_the_dataset():
    dataset = tensors(8)
    for _, batch in data.Items(DataLoader(dataset, batch_size=4), "train"):
        batch[0].fill_(-1)
    assert (dataset.tensors[0] >= 0).all()


def test_tensors_exchanged_between_epochs_are_the_ones_that_are_read():
    dataset = tensors(4)
    loader = DataLoader(dataset, batch_size=4)
    list(data.Items(loader, "train"))
    dataset.tensors = tuple(tensor + 100 for tensor in dataset.tensors)
    ((_, batch),) = data.Items(loader, "train")
    assert batch[1].tolist() == [100, 101, 102, 103]


# ---------------------------------------------------------------- the ends of loaders


def test_items_are_lazy_and_have_the_loaders_length():
    class Touchy:
        def __len__(self):
            return 7

        def __iter__(self):
            raise AssertionError("iterated")

    items = data.Items(Touchy(), "train")
    assert len(items) == 7
    with pytest.raises(AssertionError, match="iterated"):
        next(iter(items))
    with pytest.raises(TypeError):
        len(data.Items((batch for batch in ()), "train"))


class Failing(Dataset):
    """Raises `error` for its sixth sample; as a whole batch, too, where asked for."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index == 5:
            raise self.error("sample 5")
        return torch.tensor(float(index))


class FailingTogether(Failing):
    def __getitems__(self, indices):
        return [self[index] for index in indices]


class Sequence:
    """Batches by index, without __iter__: Python takes an IndexError or StopIteration for the end."""

    def __init__(self, error):
        self.samples = Failing(error)

    def __len__(self):
        return 5

    def __getitem__(self, index):
        if index >= 5:
            raise IndexError
        return torch.stack([self.samples[2 * index], self.samples[2 * index + 1]])


class Iterator(Sequence):
    def __iter__(self):
        return (self[index] for index in range(5))


ERRORS = [StopIteration, IndexError, KeyError]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("dataset", [Failing, FailingTogether], ids=lambda kind: kind.__name__)
def test_what_a_dataset_raises_is_never_the_end_of_an_epoch(dataset, workers, error):
    loader = DataLoader(dataset(error), batch_size=2, num_workers=workers)
    read = []
    with pytest.raises(Exception) as caught:  # noqa: PT011
        for index, _ in data.Items(loader, "valid"):
            read.append(index)
    assert read == [0, 1]
    if error is StopIteration and not (dataset is FailingTogether and workers == 0):
        assert caught.type is DataError
        assert "the valid loader ended after 2 of 5 batches" in str(caught.value)
        assert "StopIteration" in str(caught.value)
        assert isinstance(caught.value.__cause__, StopIteration)
    elif error is StopIteration:
        assert caught.type is RuntimeError and "StopIteration" in str(caught.value)
    else:
        assert caught.type is error and "sample 5" in str(caught.value)
    for raised in (caught.value, caught.value.__cause__):
        if raised is not None:
            traceback.clear_frames(raised.__traceback__)  # they hold the loader's iterator, and so its workers


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("kind", [Sequence, Iterator])
def test_what_a_sequence_raises_is_never_the_end_of_an_epoch(kind, error):
    read = []
    with pytest.raises((DataError, RuntimeError, IndexError, KeyError)):
        for index, _ in data.Items(kind(error), "train"):
            read.append(index)
    assert read == [0, 1]


def test_a_sequence_that_ends_where_its_length_says_is_no_error():
    class Fine(Sequence):
        def __getitem__(self, index):
            if index >= 5:
                raise IndexError
            return index

    assert list(data.Items(Fine(None), "train")) == [(index, index) for index in range(5)]


@pytest.mark.parametrize("error", ERRORS)
def test_a_run_ends_with_what_its_dataset_raised(error):
    trainer = Tiny()
    trainer.train_loader = DataLoader(Failing(error), batch_size=2)
    trainer.compute_loss = lambda: trainer.model(trainer.inputs[:1].expand(1, 3)).sum()
    expected = DataError if error is StopIteration else error
    with pytest.raises(expected):
        trainer.train()
    assert trainer.step == 2 and trainer.history == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sampler_may_give_fewer_samples_than_its_length(workers):
    class Generous(OddFirst):
        def __iter__(self):
            return iter([4, 2, 0])

    for dataset in (tensors(10), PlainDataset()):
        loader = DataLoader(dataset, batch_size=2, sampler=Generous(10), num_workers=workers)
        assert len(loader) == 5
        assert len(list(data.Items(loader, "train"))) == 2


def test_a_loader_without_a_length_ends_when_it_does():
    class Stream:
        def __iter__(self):
            yield from ((torch.ones(2, 3), torch.ones(2, 1)) for _ in range(3))

    trainer = Tiny({"_num_epochs": 2})
    trainer.train_loader = Stream()
    trainer.valid_loader = DataLoader(Counting(), batch_size=4)
    trainer.evaluate_batch = lambda item: trainer.batch_metrics.update(value=item[1].float().mean())
    history = trainer.train()
    assert trainer.step == 6
    assert [entry["valid"] for entry in history] == [{"value": 4.5}] * 2
    assert data.length_of(Stream()) is None and data.length_of(DataLoader(Counting())) is None


def test_a_loader_that_is_used_up_is_an_error_in_the_second_epoch():
    class Once:
        def __init__(self):
            self.batches = iter([(torch.ones(2, 3), torch.ones(2, 1))])

        def __iter__(self):
            return self.batches

    trainer = Tiny({"_num_epochs": 2})
    trainer.train_loader = Once()
    with pytest.raises(DataError, match="the train loader gave no batch. It is a Once.*can be read only once"):
        trainer.train()
    assert len(trainer.history) == 1


def test_a_length_that_is_an_estimate_is_not_held_against_the_loader():
    class Estimated(Counting):
        def __len__(self):
            return 100

    class Short:
        def __len__(self):
            return 100

        def __iter__(self):
            return iter([1, 2])

    assert len(list(data.Items(DataLoader(Estimated(), batch_size=4), "train"))) == 3
    assert len(list(data.Items(Short(), "train"))) == 2


@pytest.mark.parametrize("shuffle", [False, True])
def test_what_is_fetched_ahead_is_fetched_anew_where_the_dataset_is_written_to(shuffle):
    def batches(read):
        inputs, targets = torch.arange(100.0).reshape(50, 2), torch.arange(50)
        loader = DataLoader(TensorDataset(inputs, targets), batch_size=4, shuffle=shuffle)
        torch.manual_seed(0)
        for number, batch in enumerate(read(loader)):
            yield [part.clone() for part in batch]
            if number % 3 == 1:
                inputs += 1
            targets[number] = -1

    pairs = zip(batches(iter), batches(data.read_batches), strict=True)
    assert all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


def test_batches_of_one_gather_are_written_to_one_by_one():
    weight = torch.ones(2, requires_grad=True)
    loader = DataLoader(TensorDataset(torch.ones(16, 2)), batch_size=4)
    first, second = [batch for (batch,) in data.read_batches(loader)][:2]
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr(), "they come from one gather"
    loss = (first * weight).sum()
    second.zero_()  # autograd must not take it for a write to the first one
    loss.backward()
    assert weight.grad.tolist() == [4, 4] and first.sum() == 8


def test_tensors_of_inference_mode_are_fetched_batch_by_batch():
    with torch.inference_mode():
        inputs = torch.arange(12.0)
    found = [batch.tolist() for (batch,) in data.read_batches(DataLoader(TensorDataset(inputs), batch_size=5))]
    assert found == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]


@pytest.mark.parametrize("shuffle", [False, True])
def test_what_numpy_writes_into_the_dataset_is_seen_by_the_next_batch(shuffle):
    def batches(read):
        array = np.arange(40.0)
        loader = DataLoader(TensorDataset(torch.from_numpy(array)), batch_size=4, shuffle=shuffle)
        torch.manual_seed(0)
        for (batch,) in read(loader):
            yield batch.tolist()
            array += 1

    assert list(batches(iter)) == list(batches(data.read_batches))
