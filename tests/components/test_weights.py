"""Plain keys in every file, whatever wraps the model, and files of others; one object or a dict of them."""

import pytest
import torch
from torch import nn

from farabio_like import CheckpointError, components

from ..trainers import Tiny

PLAIN_KEYS = {"encoder.0.weight", "encoder.0.bias", "encoder.1.weight", "encoder.1.bias", "head.weight", "head.bias"}
PLAIN_KEYS |= {"encoder.1.running_mean", "encoder.1.running_var", "encoder.1.num_batches_tracked"}


class Net(nn.Module):
    def __init__(self, width=5):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        return self.head(self.encoder(x))


def inner_compiled(model):
    model.encoder = torch.compile(model.encoder)
    return model


def everywhere(model):
    model.encoder[0] = torch.compile(nn.DataParallel(model.encoder[0]))
    model.head = nn.DataParallel(torch.compile(model.head))
    return nn.DataParallel(torch.compile(model))


WRAPPERS = {
    "plain": lambda model: model,
    "data parallel": nn.DataParallel,
    "compiled": torch.compile,
    "compiled data parallel": lambda model: torch.compile(nn.DataParallel(model)),
    "data parallel compiled": lambda model: nn.DataParallel(torch.compile(model)),
    "a part compiled": inner_compiled,
    "everything wrapped": everywhere,
}


class Wrapped(Tiny):
    """Its configuration says how the model is wrapped, and whether there are two of them."""

    def build_model(self):
        wrap = WRAPPERS[self.config.get("wrap", "plain")]
        if self.config.get("two"):
            self.model = {"first": wrap(Net()), "second": wrap(Net(width=4))}
        else:
            self.model = wrap(Net(width=self.config.get("width", 5)))
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.SGD([p for m in components.modules_of(self) for p in m.parameters()], lr=0.1)


def randomised(trainer):
    """Give every weight and buffer of a trainer a value of its own."""
    for module in components.each(trainer.model):
        for value in module.state_dict().values():
            value.copy_(torch.rand(value.shape) * 100)
    return trainer


def weights(model):
    """Return copies of the weights by plain keys, found without the library's help."""
    parts = model.items() if isinstance(model, dict) else [("", model)]
    return {
        (name, key.replace("module.", "").replace("_orig_mod.", "")): value.clone()
        for name, module in parts
        for key, value in module.state_dict().items()
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value) and found[key].dtype == value.dtype, key


@pytest.mark.parametrize("two", [False, True], ids=["one", "dict"])
@pytest.mark.parametrize("into", WRAPPERS)
@pytest.mark.parametrize("out_of", WRAPPERS)
def test_weights_go_from_any_wrapper_into_any_other(out_of, into, two):
    saving = randomised(Wrapped({"wrap": out_of, "two": two}))
    path = saving.save_model("weights.pth")
    state = torch.load(path, weights_only=True)
    assert [set(part) for part in (state.values() if two else [state])] == [PLAIN_KEYS] * (1 + two)
    loading = Wrapped({"wrap": into, "two": two})
    loading.load_model(path)
    assert_same(weights(loading.model), weights(saving.model))


def test_a_file_loads_into_the_module_by_pytorch_alone():
    saving = randomised(Wrapped({"wrap": "everything wrapped"}))
    model = Net()
    model.load_state_dict(torch.load(saving.save_model("weights.pth"), weights_only=True))
    assert_same(weights(model), weights(saving.model))


@pytest.mark.parametrize("into", WRAPPERS)
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "inside"])
def test_files_that_others_wrote_from_inside_a_wrapper(prefix, into):
    source = randomised(Wrapped()).model
    if prefix == "inside":
        state = {key.replace("encoder.", "encoder._orig_mod."): value for key, value in source.state_dict().items()}
    else:
        state = {prefix + key: value for key, value in source.state_dict().items()}
    torch.save(state, "theirs.pth")
    loading = Wrapped({"wrap": into})
    loading.load_model("theirs.pth")
    assert_same(weights(loading.model), weights(source))


class OwnModule(nn.Module):
    """Has a part that is really named as wrappers name theirs."""

    def __init__(self):
        super().__init__()
        self.module = nn.Linear(2, 2)
        self._orig_mod = nn.Linear(2, 3)
        self.head = nn.Linear(2, 1)


class Owning(Wrapped):
    def build_model(self):
        self.model = WRAPPERS[self.config.get("wrap", "plain")](OwnModule())


@pytest.mark.parametrize("into", ["plain", "data parallel", "compiled data parallel"])
@pytest.mark.parametrize("out_of", ["plain", "data parallel", "compiled data parallel"])
def test_a_part_really_named_module_keeps_its_key(out_of, into):
    saving = randomised(Owning({"wrap": out_of}))
    path = saving.save_model("weights.pth")
    assert set(torch.load(path, weights_only=True)) == set(OwnModule().state_dict())
    loading = Owning({"wrap": into})
    loading.load_model(path)
    for name, value in components.unwrap(saving.model).state_dict().items():
        assert torch.equal(components.unwrap(loading.model).state_dict()[name], value), name


def test_keys_that_only_differ_in_a_wrappers_part_are_never_confused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))
            self.module = nn.Module()
            self.module.weight = nn.Parameter(torch.ones(2))

    model = Twice()
    prefixed = {f"module.{key}": value + 5 for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError):
        components.load_model_state(model, prefixed, "theirs.pth")
    assert model.weight.tolist() == [0, 0] and model.module.weight.tolist() == [1, 1]
    components.load_model_state(
        nn.DataParallel(model), {"weight": torch.full((2,), 3.0), "module.weight": torch.full((2,), 4.0)}, "x"
    )
    assert model.weight.tolist() == [3, 3] and model.module.weight.tolist() == [4, 4]


@pytest.mark.parametrize("into", WRAPPERS)
def test_another_architecture_is_refused_and_the_model_unchanged(into):
    path = randomised(Wrapped({"width": 6})).save_model("weights.pth")
    state = torch.load(path, weights_only=True)
    del state["head.bias"]
    state["tail.weight"] = torch.zeros(1)
    torch.save(state, path)
    loading = Wrapped({"wrap": into})
    before = weights(loading.model)
    with pytest.raises(CheckpointError) as caught:
        loading.load_model(path)
    message = str(caught.value)
    assert "weights.pth does not fit Net" in message
    assert "1 missing: head.bias" in message
    assert "1 unexpected: tail.weight" in message
    assert "7 mismatched: encoder.0.weight: (6, 3) in the file, (5, 3) in the model" in message
    assert message.count("in the file") == 5 and ", ..." in message, "the first five of seven"
    assert "The model in memory is unchanged." in message
    assert_same(weights(loading.model), before)


def test_shapes_alone_that_differ_are_refused():
    state = components.model_state(Net())
    state["head.weight"] = torch.zeros(1, 6)
    with pytest.raises(CheckpointError, match=r"1 mismatched: head\.weight: \(1, 6\) in the file, \(1, 5\)"):
        components.load_model_state(Net(), state, "weights.pth")


def test_one_of_two_models_that_does_not_fit_leaves_both_unchanged():
    state = components.model_state(randomised(Wrapped({"two": True})).model)
    del state["second"]["head.bias"]
    loading = Wrapped({"two": True})
    before = weights(loading.model)
    with pytest.raises(CheckpointError, match="does not fit Net 'second'"):
        components.load_model_state(loading.model, state, "weights.pth")
    assert_same(weights(loading.model), before)


@pytest.mark.parametrize(
    ("saved", "loading", "words"),
    [
        ({"two": True}, {}, ["the models ['first', 'second']", "one Net"]),
        ({}, {"two": True}, ["the weights of one model", "the models ['first', 'second']"]),
    ],
)
def test_one_model_and_a_dict_of_them_do_not_fit_each_other(saved, loading, words):
    path = Wrapped(saved).save_model("weights.pth")
    with pytest.raises(CheckpointError) as caught:
        Wrapped(loading).load_model(path)
    assert all(word in str(caught.value) for word in words)


def test_dicts_with_other_names_do_not_fit():
    with pytest.raises(CheckpointError, match=r"models \['a'\].*has \['b'\]"):
        components.load_model_state({"b": nn.Linear(1, 1)}, {"a": nn.Linear(1, 1).state_dict()}, "weights.pth")


def test_names_of_models_need_not_be_strings():
    source, target = {0: nn.Linear(1, 1), 1: nn.Linear(1, 2)}, {0: nn.Linear(1, 1), 1: nn.Linear(1, 2)}
    components.load_model_state(target, components.model_state(source), "weights.pth")
    assert torch.equal(source[1].weight, target[1].weight)


def test_a_lazy_module_takes_its_shape_from_the_file():
    source, lazy = nn.Linear(3, 2), nn.LazyLinear(2)
    components.load_model_state(lazy, source.state_dict(), "weights.pth")
    assert torch.equal(lazy.weight, source.weight)


def test_state_that_is_no_tensor_goes_along():
    class Counting(nn.Linear):
        count = 0

        def get_extra_state(self):
            return {"count": self.count}

        def set_extra_state(self, state):
            self.count = state["count"]

    source, target = nn.DataParallel(Counting(1, 1)), Counting(1, 1)
    source.module.count = 4
    components.load_model_state(target, components.model_state(source), "weights.pth")
    assert target.count == 4


def test_networks_under_names_of_their_own_are_saved_by_these_names():
    class Gan(Wrapped):
        def build_model(self):
            self.generator, self.critic = nn.Linear(2, 3), nn.DataParallel(nn.Linear(3, 1))
            self.features = nn.Linear(3, 3).requires_grad_(False)

    saving, loading = randomised(Gan()), Gan()
    state = torch.load(saving.save_model("weights.pth"), weights_only=True)
    assert {name: set(part) for name, part in state.items()} == {
        "generator": {"weight", "bias"},
        "critic": {"weight", "bias"},
    }
    loading.load_model("weights.pth")
    assert torch.equal(loading.generator.weight, saving.generator.weight)
    assert torch.equal(loading.critic.module.weight, saving.critic.module.weight)


def test_the_saved_state_is_what_it_was_not_what_it_becomes():
    trainer = randomised(Wrapped())
    path, before = trainer.save_model("weights.pth"), weights(trainer.model)
    randomised(trainer)
    trainer.load_model(path)
    assert_same(weights(trainer.model), before)


def test_each_and_named():
    assert components.each(None) == () and list(components.named(None, "optimizer")) == []
    assert components.each(5) == (5,) and list(components.named(5, "optimizer")) == [("optimizer", 5)]
    assert components.each({"a": 1, "b": 2}) == (1, 2)
    assert list(components.named({"a": 1}, "self.model")) == [("self.model['a']", 1)]


@pytest.mark.parametrize("wrap", ["data parallel", "compiled", "compiled data parallel"])
def test_unwrap_finds_the_module_inside(wrap):
    model = Net()
    assert components.unwrap(WRAPPERS[wrap](model)) is model
