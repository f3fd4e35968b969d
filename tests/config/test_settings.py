"""The table of the settings: what each one allows, what a message says, and that nothing tells of them elsewhere."""

import re
import typing
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest
import torch

from farabio_like import ConfigError, ConvnetTrainer, Stage
from farabio_like.config import allowed
from farabio_like.config.settings import DEFINITIONS, OF_A_STAGE, SETTINGS, Settings, check, check_value
from tests.trainers import Tiny

UNCHECKED = {"_epoch", "_next_loop", "_mode", "_model_path", "_backbone"}


class Two(IntEnum):
    TWO = 2


class Own:
    """Answers to no name that anything asks for, and equals nothing."""

    def __repr__(self):
        return "an object"


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_setting_allows_its_default_and_its_example(name):
    definition = DEFINITIONS[name]
    assert definition.allowed.problem(name, definition.default) is None
    example = definition.allowed.example
    assert example is None or definition.allowed.problem(name, example) is None


@pytest.mark.parametrize("name", [name for name in DEFINITIONS if name not in UNCHECKED])
def test_a_run_does_not_start_with_a_value_that_is_not_allowed(name):
    trainer = Tiny()
    setattr(trainer, name, Own())
    with pytest.raises(ConfigError, match=rf"^Tiny: {name} is (Own )?an object; expected "):
        trainer.train()
    assert trainer.step == 0


def test_a_trainer_has_the_settings_and_its_class_their_types_only():
    assert [name for name in SETTINGS if hasattr(ConvnetTrainer, name)] == []
    assert vars(Tiny()).keys() >= SETTINGS.keys()
    types = typing.get_type_hints(Settings)
    assert list(types) == list(SETTINGS)
    assert types.items() <= typing.get_type_hints(ConvnetTrainer).items()


def test_no_other_file_annotates_a_setting():
    found = []
    for path in Path(allowed.__file__).parents[1].rglob("*.py"):
        if path.name != "settings.py":
            found += re.findall(rf"^    ({'|'.join(SETTINGS)}): ", path.read_text(), flags=re.MULTILINE)
    assert found == []


@pytest.mark.parametrize("name", DEFINITIONS)
def test_the_meaning_is_plain_text_with_code_in_double_backquotes(name):
    meaning = DEFINITIONS[name].help
    assert meaning and not meaning.endswith(".")
    assert "`" not in re.sub(r"``[^`]+``", "", meaning)


@pytest.mark.parametrize("name", [name for name in DEFINITIONS if name != "_num_epochs"])  # every stage has it
def test_a_stage_changes_what_the_table_says(name):
    trainer = Tiny()
    trainer._stages = [Stage("only", 1, **{name.removeprefix("_"): SETTINGS[name]})]
    if DEFINITIONS[name].of_a_stage:
        trainer.train()
        assert name.removeprefix("_") in OF_A_STAGE
    else:
        with pytest.raises(ConfigError, match=f"sets '{name[1:]}', which is no setting of a stage.*has_eval"):
            trainer.train()


@pytest.mark.parametrize(
    ("kind", "good", "bad", "expected"),
    [
        (
            allowed.whole(1),
            [1, 10**9, np.int64(3), Two.TWO],
            [0, -1, 1.0, "1", True, None, torch.tensor(2), np.array(2), [1]],
            "a whole number, 1 or more",
        ),
        (
            allowed.whole(0, of="epochs", tensors=True),
            [0, torch.tensor(2), np.array(2)],
            [-1, True, None, torch.tensor(1.5), torch.tensor([1, 2]), torch.tensor(-1)],
            "a whole number of epochs, 0 or more",
        ),
        (
            allowed.whole(0, bits=32, optional=True),
            [None, 0, 2**32 - 1, np.uint32(7)],
            [-1, 2**32, 1.5],
            "None or a whole number from 0 to below 2**32",
        ),
        (
            allowed.positive(of="seconds"),
            [None, 1, 0.5, np.float32(2)],
            [0, -1.0, True, "1", float("nan"), float("inf"), torch.tensor(1.0)],
            "None or a number of seconds above 0",
        ),
        (allowed.one_of(None, "a"), [None, "a"], ["b", 0, [], np.zeros(2), torch.zeros(2)], "one of (None, 'a')"),
        (allowed.flag(), [True, False], [None, 0, 1, "True", np.True_], "True or False"),
        (allowed.yes_or_no(), [True, None, 0, np.False_], ["False", 1.0, []], "True or False"),
        (allowed.path("to be lost"), [None, "a", Path("a")], [False, 3, b"a"], "a path, or None to be lost"),
        (allowed.name_of("a metric"), [None, "loss"], ["", 3, ["loss"]], "the name of a metric"),
        (
            allowed.device(),
            ["auto", "cpu", "cuda:7", torch.device("meta")],
            ["gpu", None, 1.5, np.zeros(2)],
            "'auto', 'cpu', 'cuda', 'cuda:1', 'mps' or a torch.device",
        ),
        (
            allowed.device_numbers(),
            [None, True, [0, 1], (3,)],
            [[], "0", 2, [True], [0.0]],
            "None, True, False or a list of device numbers, [0, 1] say",
        ),
        (
            allowed.arguments("f", example={"x": 1}),
            [True, {"y": 2}],
            [None, 1, "x"],
            "True, False, or a dict of arguments of f",
        ),
        (allowed.loss_weights(), [None, "mean", {"a": 0.5}], ["sum", 1.0, [1.0], np.ones(2)], "None (the sum), 'mean'"),
        (allowed.stages(), [None, [Stage("a", 1)]], [[], "a", [Stage], {"a": 1}], "a list of Stage"),
    ],
    ids=lambda value: value.expected if isinstance(value, allowed.Allowed) else "",
)
def test_kinds_of_values(kind, good, bad, expected):
    assert [value for value in good if kind.problem("_a", value) is not None] == []
    for value in bad:
        said = kind.problem("_a", value)
        assert said.startswith("_a is ") and f"{value!r}; expected {expected}" in said


def test_a_setting_alone_and_several_of_an_object():
    check_value("_seed", 3)
    with pytest.raises(ConfigError, match=r"^_seed is -1; expected .* Write self._seed = 0\.$"):
        check_value("_seed", -1)
    holder = type("Holder", (), {**SETTINGS, "_seed": -1})()
    check(holder, ("_num_epochs", "_logdir"))
    with pytest.raises(ConfigError, match=r"^Holder: _seed is -1; expected None or a whole number from 0"):
        check(holder)


def test_the_limit_of_waiting_may_be_of_numpy():
    assert DEFINITIONS["_dist_timeout"].allowed.problem("_dist_timeout", np.float32(600)) is None
