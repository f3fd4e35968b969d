"""What a trainer holds, in every shape in which people keep it; and what they hang on it that is no part of a run."""

import collections
import copy
import types
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader

from farabio_like import checkpoint, components
from farabio_like.checks import trained as trained_checks
from farabio_like.components import inventory
from farabio_like.distributed import ddp, fsdp
from farabio_like.resume import attributes, capture
from farabio_like.state import rollback
from tests.odd import ODD, AnyCall, Owned, Partial, Proxy, Wrapper
from tests.trainers import INPUTS, TARGETS, Tiny

KINDS = ("modules", "optimizers", "schedulers", "loaders", "parameters", "stateful")


class Holder:
    """Has attributes, and nothing else."""

    def __init__(self, **attributes):
        vars(self).update(attributes)


def found(holder):
    """Return where each kind is that a holder has."""
    held = inventory.take(holder)
    kinds = {kind: [part.where for part in getattr(held, kind)] for kind in KINDS}
    return {kind: places for kind, places in kinds.items() if places}


def net():
    return nn.Linear(2, 2)


def optimizer():
    return SGD(net().parameters(), lr=0.1)


def scheduler():
    return StepLR(optimizer(), 1)


def loader():
    return DataLoader(range(3))


class OwnState:
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Buffer(list):
    """A list with a state of its own."""

    state_dict, load_state_dict = OwnState.state_dict, OwnState.load_state_dict


class Groups:
    """An optimizer that is none of torch's."""

    def __init__(self):
        self.param_groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": 0.1}]

    def step(self):
        pass


Pair = collections.namedtuple("Pair", "one other")
PARAMETER, LEAF = nn.Parameter(torch.zeros(2)), torch.zeros(2, requires_grad=True)
SHARED = net()

# What is held, and where each kind of it is found.
SHAPES = {
    "module": ({"net": net()}, {"modules": ["net"], "stateful": ["net"]}),
    "list of modules": (
        {"nets": [net(), None, net()]},
        {"modules": ["nets[0]", "nets[2]"], "stateful": ["nets[0]", "nets[2]"]},
    ),
    "tuple of modules": ({"nets": (net(), 3)}, {"modules": ["nets[0]"], "stateful": ["nets[0]"]}),
    "named tuple": (
        {"nets": Pair(net(), optimizer())},
        {"modules": ["nets[0]"], "optimizers": ["nets[1]"], "stateful": ["nets[0]", "nets[1]"]},
    ),
    "dict of modules": (
        {"nets": {"g": net(), 3: net(), "values": net()}},
        dict.fromkeys(("modules", "stateful"), ["nets['g']", "nets[3]", "nets['values']"]),
    ),
    "read-only mapping": (
        {"nets": types.MappingProxyType({"g": net()})},
        {"modules": ["nets['g']"], "stateful": ["nets['g']"]},
    ),
    "one module under two names": (
        {"net": SHARED, "nets": {"a": SHARED}},
        dict.fromkeys(("modules", "stateful"), ["net", "nets['a']"]),
    ),
    "proxy of a module": (
        {"net": SHARED, "again": weakref.proxy(SHARED), "wrapt": Proxy(SHARED)},
        dict.fromkeys(("modules", "stateful"), ["net", "again", "wrapt"]),
    ),
    "module that holds its owner": ({"net": Owned(None)}, {"modules": ["net"], "stateful": ["net"]}),
    "list that torch knows": ({"nets": nn.ModuleList([net()])}, {"modules": ["nets"], "stateful": ["nets"]}),
    "list in a list": ({"nets": [[net()]]}, {}),
    "optimizers": (
        {"one": optimizer(), "listed": [optimizer()], "tupled": (optimizer(),), "named": {"g": optimizer()}},
        dict.fromkeys(("optimizers", "stateful"), ["one", "listed[0]", "tupled[0]", "named['g']"]),
    ),
    "optimizer in a wrapper": (
        {"optimizer": Wrapper(optimizer())},
        dict.fromkeys(("optimizers", "stateful"), ["optimizer"]),
    ),
    "optimizer of another kind": ({"one": Groups(), "many": [Groups()]}, {"optimizers": ["one", "many[0]"]}),
    "schedulers": (
        {"one": scheduler(), "listed": [scheduler()], "named": {"g": scheduler()}},
        dict.fromkeys(("schedulers", "stateful"), ["one", "listed[0]", "named['g']"]),
    ),
    "scheduler of another kind": ({"scheduler": [print], "other": print}, {"schedulers": ["scheduler[0]"]}),
    "criterion that learns": (
        {"criterion": nn.PReLU(), "optimizer": optimizer()},
        {"modules": ["criterion"], "optimizers": ["optimizer"], "stateful": ["criterion", "optimizer"]},
    ),
    "loaders": (
        {"one": loader(), "listed": [loader()], "tupled": (loader(),), "named": {"train": loader()}},
        {"loaders": ["one", "listed[0]", "tupled[0]", "named['train']"]},
    ),
    "parameters": (
        {"one": PARAMETER, "leaf": LEAF, "made": LEAF * 2, "data": torch.zeros(2), "inputs": LEAF, "outputs": LEAF},
        {"parameters": ["one", "leaf"]},
    ),
    "parameters in containers": (
        {"named": {"p": PARAMETER, "q": torch.zeros(1)}, "listed": [LEAF, torch.zeros(1)], "tupled": (PARAMETER,)},
        {"parameters": ["named['p']", "listed[0]", "tupled[0]"]},
    ),
    "parameter without a shape": ({"lazy": nn.UninitializedParameter()}, {}),
    "state of its own": (
        {"own": OwnState(), "listed": [OwnState()], "buffer": Buffer([OwnState()]), "cls": OwnState},
        {"stateful": ["own", "listed[0]", "buffer", "buffer[0]"]},
    ),
    "long list": (
        {"data": [Path("a")] * 200 + [(1, 2), 3, {}], "nets": [Groups()] * 200 + [SHARED]},
        {"modules": ["nets[200]"], "stateful": ["nets[200]"]},
    ),
    "plain data": ({"a": 1, "b": [1, {"x": 2}], "c": {}, "d": None, "e": (), "f": torch.Size([1])}, {}),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_each_kind_is_found_in_every_shape(shape):
    held, expected = SHAPES[shape]
    assert found(Holder(**held)) == expected


@pytest.mark.parametrize("name", ODD)
def test_nothing_is_found_in_what_only_answers(name):
    trainer = Tiny()
    before = found(trainer)
    trainer.odd = ODD[name](trainer)
    assert found(trainer) == before
    if type(trainer.odd) in (AnyCall, Partial):
        assert trainer.odd.sent == []  # no server was called


def test_what_is_behind_a_proxy_is_what_is_held():
    net, opt = nn.Linear(1, 1), optimizer()
    held = inventory.take(Holder(net=weakref.proxy(net), opt=Proxy(opt)))
    assert held.modules[0].value is net and held.optimizers[0].value is opt


def test_the_two_ways_in_which_a_part_is_named():
    (part,) = inventory.take(Holder(nets={"g": SHARED})).modules
    assert (part.where, part.dotted, part.attribute, part.keys) == ("nets['g']", "nets.g", "nets", ("g",))
    assert part.value is SHARED


# ---------------------------------------------------------------- who asks it


class Several(Tiny):
    """No model: networks in a list, a tuple and a dict, one of them twice, one frozen; a parameter of its own."""

    def build_model(self):
        torch.manual_seed(0)
        self.first, self.frozen = nn.Linear(3, 3), nn.Linear(3, 3).requires_grad_(False)
        self.listed, self.tupled = [nn.Linear(3, 3)], (nn.Linear(3, 2),)
        self.nets = {"again": self.first, "last": nn.Linear(2, 1)}
        self.bias = {"b": nn.Parameter(torch.zeros(1))}
        self.factor = torch.ones((), requires_grad=True)
        self.criterion = nn.MSELoss()
        modules = components.modules_of(self)
        parameters = [*(p for module in modules for p in module.parameters()), self.bias["b"], self.factor]
        self.optimizer = {"one": SGD(parameters, lr=0.05, momentum=0.9)}
        self.scheduler = {"one": StepLR(self.optimizer["one"], 1, 0.5)}

    def forward(self):
        hidden = self.listed[0](self.frozen(self.first(self.inputs)))
        return self.nets["last"](self.tupled[0](hidden)) * self.factor + self.bias["b"]


def test_networks_under_names_of_their_own():
    trainer = Several()
    names = ["first", "listed.0", "tupled.0", "nets.again", "nets.last"]
    assert list(components.model_of(trainer)) == names
    assert [id(m) for m in components.modules_of(trainer)] == [
        id(m) for m in (trainer.first, trainer.listed[0], trainer.tupled[0], trainer.nets["last"])
    ]
    evaluated = components.modules_to_evaluate(trainer)
    assert len(evaluated) == 6 and trainer.frozen in evaluated and trainer.criterion in evaluated
    assert list(inventory.take(trainer).named_parameters()) == [
        *("bias.b", "factor", "first.weight", "first.bias", "frozen.weight", "frozen.bias", "listed.0.weight"),
        *("listed.0.bias", "tupled.0.weight", "tupled.0.bias", "nets.again.weight", "nets.again.bias"),
        *("nets.last.weight", "nets.last.bias"),
    ]


def test_the_number_of_parameters_counts_each_once(capsys):
    Several({"_verbose": True}).train()
    assert "Several: 35 parameters on cpu" in capsys.readouterr().out


def test_the_parts_of_a_checkpoint_have_the_names_of_always():
    class Named(Several):
        def build_model(self):
            super().build_model()
            self.model = nn.ModuleList([self.first, self.listed[0], self.tupled[0], self.nets["last"]])
            self.own, self.criterion = OwnState(), {"a": nn.PReLU(), "b": nn.MSELoss()}
            self.more = [scheduler(), {}, OwnState]

        def compute_loss(self):
            return sum(part(self.forward(), self.targets) for part in (self.criterion["b"],))

    trainer = Named()
    trainer.train()
    trainer.metrics = OwnState()  # is measured, and stored with what was
    held = inventory.take(trainer)
    names = ["optimizer['one']", "scheduler['one']", "criterion['a']", "own", "more[0]"]
    assert list(attributes.components_of(trainer, held)) == names
    saved = capture.capture_run(trainer)
    assert list(saved["run"]["components"]) == names
    assert saved["run"]["components"]["more[0]"]["class"] == "StepLR"


def test_loaders_come_in_the_order_in_which_their_generators_are_stored():
    trainer = Tiny()
    one, two = loader(), loader()
    trainer.pair, trainer.again, trainer.more = (one, trainer.train_loader), one, {"a": two}
    usual = (trainer.train_loader, trainer.valid_loader, trainer.test_loader)
    assert attributes.loaders(trainer, inventory.take(trainer)) == (*usual, one, one, two)


def test_steps_that_leave_no_trace_give_back_all_that_is_held():
    trainer = Several()
    trainer.other = StepLR(trainer.optimizer["one"], 1, 0.5)
    trainer.scheduler["two"] = lambda: None  # has no state to give back
    trainer.train_step((INPUTS, TARGETS))

    def everything():
        states = [m.state_dict() for m in components.modules_to_evaluate(trainer)]
        parts = [trainer.optimizer["one"], trainer.scheduler["one"], trainer.other]
        bare = [trainer.bias["b"].detach(), trainer.factor.detach()]
        return copy.deepcopy([*states, *(part.state_dict() for part in parts), *bare])

    before = everything()
    with rollback.without_trace(trainer):
        trainer.train_step((INPUTS, TARGETS))
        trainer.scheduler["one"].step()
        trainer.other.step()
    torch.testing.assert_close(everything(), before, rtol=0, atol=0)


def test_optimizers_learn_of_parameters_in_shards():
    trainer = Several()
    old = trainer.first.weight
    trainer.wrapped, trainer.groups = [Wrapper(SGD([old], lr=0.1))], Groups()
    trainer.groups.param_groups[0]["params"].append(old)
    trainer.odd = ODD["list of odd things"](trainer)
    new = nn.Parameter(torch.ones(3, 3))
    trainer.train_step((INPUTS, TARGETS))
    fsdp._replace(trainer, {id(old): new})
    assert trainer.optimizer["one"].param_groups[0]["params"][0] is new
    assert new in trainer.optimizer["one"].state and old not in trainer.optimizer["one"].state
    assert trainer.wrapped[0].param_groups[0]["params"] == [new]
    assert trainer.groups.param_groups[0]["params"][1] is new


def test_a_wrapped_module_takes_every_place_of_the_module():
    """What `replicate` does between the ranks; that it does so under ``torchrun`` is tested among the ranks."""
    trainer, wrapper = Several(), nn.Identity()
    trainer.pair, trainer.proxy = Pair(trainer.first, 1), weakref.proxy(trainer.first)
    first = trainer.first
    for part in inventory.take(trainer).modules:
        if part.value is first:
            ddp._put(vars(trainer), part, wrapper)
    assert trainer.first is trainer.nets["again"] is trainer.pair.one is wrapper
    assert type(trainer.pair) is Pair and trainer.pair.other == 1
    assert type(trainer.proxy) is weakref.CallableProxyType


def test_an_optimizer_of_bare_parameters_trains_something():
    trainer = Several()
    trainer.model = nn.ModuleDict({"a": trainer.first})
    trainer.optimizer = SGD([trainer.bias["b"], trainer.factor], lr=0.1)
    trained_checks.check_optimizers(trainer)
    with pytest.warns(UserWarning, match="trainable parameters are in no optimizer.*: a.weight, a.bias"):
        trained_checks.check_parameters(trainer)


# ---------------------------------------------------------------- a run with such objects


def trained(trainer, **options):
    """Train with random numbers that do not depend on what was built before."""
    torch.manual_seed(1)
    trainer.train(**options)
    return trainer


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


class Stopped(Tiny):
    """Like `Tiny`, with dropout and momentum; may be stopped within an epoch."""

    odd_things: dict = {}

    def build_model(self):
        super().build_model()
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.optimizer = SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.scheduler = StepLR(self.optimizer, 1, 0.5)
        for number, make in enumerate(self.odd_things.values()):
            setattr(self, f"odd{number}", make(self))
        if self.odd_things:
            self.own = Owned(self)
            self.proxy = weakref.proxy(self.model)

    def on_end_training_batch(self):
        if self.step == self.config.get("stop_at"):
            raise InterruptedError


class Odd(Stopped):
    odd_things = ODD


def test_a_run_with_them_trains_saves_resumes_and_tests(capsys):
    settings = {"_logdir": "runs", "_save_steps": 1, "_verbose": True, "_use_tqdm": False}
    whole = trained(Stopped())
    with pytest.raises(InterruptedError):
        trained(Odd({**settings, "stop_at": 5}))
    resumed = trained(Odd(settings), resume=True)
    assert resumed.step == whole.step == 6
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())
    assert resumed.history[-1]["valid"] == whole.history[-1]["valid"]
    assert resumed.test()["loss"] == resumed.history[0]["valid"]["loss"]  # of the best epoch
    saved = checkpoint.read(resumed.run_dir / "checkpoints" / "last.ckpt")["run"]
    assert set(saved["components"]) == {"optimizer", "scheduler"}
    printed = capsys.readouterr()
    assert "another error" not in printed.err and printed.out.count("not in the checkpoints") == 2  # of iterators


@pytest.mark.parametrize("name", ODD)
def test_each_of_them_alone_is_saved_with_the_run_and_does_no_harm(name):
    class One(Stopped):
        odd_things = {name: ODD[name]}  # noqa: RUF012

    trainer = One({"_num_epochs": 1})
    trainer.train()
    trainer.save_checkpoint("one.ckpt")
    resumed = One({"_num_epochs": 2})
    resumed.train(resume="one.ckpt")
    assert resumed.step == 6 and resumed.test()["loss"] > 0


def test_a_class_may_have_them_too():
    odd = {f"odd{number}": make(Tiny()) for number, make in enumerate(ODD.values())}
    trainer = type("Shared", (Stopped,), odd)()
    trainer.train()
    trainer.save_checkpoint("shared.ckpt")
    assert trainer.step == 6


def test_the_places_of_the_contract_may_hold_wrappers():
    class Wrapped(Stopped):
        def build_model(self):
            super().build_model()
            self.optimizer = Wrapper(self.optimizer)
            self.scheduler = Wrapper(self.scheduler)

    whole, half = trained(Stopped()), trained(Wrapped({"_num_epochs": 1}))
    half.save_checkpoint("half.ckpt")
    resumed = trained(Wrapped(), resume="half.ckpt")
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())
    assert set(checkpoint.read(Path("half.ckpt"))["run"]["components"]) == {"optimizer", "scheduler"}


def test_gradients_that_wait_come_back_to_parameters_of_every_shape():
    class Gathers(Several):
        def training_step(self):
            self.loss = self.compute_loss()
            self.loss.backward()
            if self.step % 2 == 0:
                self.optimizer["one"].step()
                self.optimizer["one"].zero_grad()

        def on_end_training_batch(self):
            if self.step == self.config.get("stop_at"):
                raise InterruptedError

    whole = Gathers()
    whole.train()
    with pytest.raises(InterruptedError):
        Gathers({"_logdir": "runs", "_save_steps": 1, "stop_at": 4}).train()
    resumed = Gathers({"_logdir": "runs"})
    resumed.train(resume=True)
    expected = inventory.take(whole).named_parameters()
    for name, value in inventory.take(resumed).named_parameters().items():
        assert torch.equal(value, expected[name]), name
