"""Bad input and misuse, kind by kind: where each is tested, and what a careless user writes besides.

`KINDS` names for every kind of mistake the tests that compare what the user is told.
"""

import ast
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from farabio_like import CheckpointError, ConfigError, DataError, HookError

from ..checks.test_checks import Steps, assert_words, refused
from ..resume.test_resume import Tensors, stopped_run
from ..trainers import INPUTS, TARGETS, Tiny

FOLDER = Path(__file__).parents[1]

KINDS = {
    "a hook that is not overridden": [
        "checks.test_checks.test_no_build_model",
        "checks.test_checks.test_no_get_trainloader",
    ],
    "a model that is no module": [
        "checks.test_checks.test_a_model_that_is_no_module",
        "integration.test_bad_inputs.test_no_model",
    ],
    "misspelt names": [
        "checks.test_checks.test_a_misspelt_hook",
        "checks.test_checks.test_a_misspelt_setting",
        "integration.test_bad_inputs.test_what_is_set_without_an_underscore",
    ],
    "a wrong signature": ["checks.test_checks.test_a_hook_with_a_wrong_signature_is_an_error_at_construction"],
    "no train loader, an empty one": [
        "checks.test_checks.test_a_train_loader_that_is_none",
        "checks.test_checks.test_loaders_without_a_batch",
        "checks.test_checks.test_a_loader_that_cannot_be_read",
        "checks.test_checks.test_a_generator_for_several_epochs",
        "data.test_loaders.test_a_loader_that_is_used_up_is_an_error_in_the_second_epoch",
        "integration.test_bad_inputs.test_an_iterator_for_several_epochs",
        "integration.test_bad_inputs.test_a_dataset_in_place_of_a_loader",
        "integration.test_bad_inputs.test_several_loaders_in_place_of_one",
    ],
    "no epochs": ["loggers.test_console.test_no_epochs_are_said_once"],
    "numbers that cannot be": [
        "checks.test_checks.test_numbers_of_epochs_and_intervals",
        "checks.test_checks.test_an_interval_of_zero",
        "callbacks.test_early_stopping.test_arguments_are_checked",
        "optim.test_steps.test_bad_settings",
    ],
    "other settings": [
        "checks.test_checks.test_other_settings",
        "test_compute.test_bad_settings",
        "integration.test_bad_inputs.test_flags_and_names",
        "integration.test_bad_inputs.test_arguments_that_torch_compile_does_not_have",
    ],
    "a monitored metric that is not there": ["checks.test_checks.test_a_monitored_metric_that_does_not_exist"],
    "a loss that cannot be minimised": ["checks.test_checks.test_a_loss_that_cannot_be_minimised"],
    "what is not finite": [
        "integration.test_lifecycle.test_a_loss_that_is_not_finite_ends_the_run_before_anything_is_saved",
        *(
            "optim.test_steps.test_a_step_that_is_not_finite_is_left_out",
            "optim.test_steps.test_an_overflow_moves_nothing_and_is_no_error",
        ),
        "integration.test_foreign.test_weights_that_are_not_finite_replace_nothing",
        "integration.test_foreign.test_weights_that_are_not_finite_are_found_without_a_run_folder",
    ],
    "an optimizer of another model": ["checks.test_checks.test_an_optimizer_of_another_model"],
    "parts that cannot be used": [
        "integration.test_bad_inputs.test_criteria_that_cannot_be_called",
        "checks.test_checks.test_something_that_is_no_optimizer",
        "integration.test_bad_inputs.test_classes_in_place_of_objects",
        "integration.test_bad_inputs.test_a_scheduler_of_another_optimizer",
        "callbacks.test_base.test_what_is_no_callback_is_named",
    ],
    "parameters without an optimizer": ["checks.test_checks.test_parameters_that_no_optimizer_has"],
    "keys of a wrapper": [
        "components.test_weights.test_weights_go_from_any_wrapper_into_any_other",
        "components.test_weights.test_files_that_others_wrote_from_inside_a_wrapper",
    ],
    "another architecture": [
        "components.test_weights.test_another_architecture_is_refused_and_the_model_unchanged",
        "checkpoint.test_files.test_weights_of_another_class_and_architecture_say_whose_they_are",
        "integration.test_bad_inputs.test_resuming_with_another_architecture",
    ],
    "another optimizer": [
        "resume.test_resume.test_another_model_or_optimizer_is_an_error",
        "integration.test_bad_inputs.test_resuming_with_an_optimizer_of_other_shapes",
    ],
    "a missing checkpoint": [
        *(
            "checkpoint.test_files.test_a_missing_file_lists_those_that_are_there",
            "resume.test_resume.test_a_path_that_is_not_there",
        ),
        "resume.test_resume.test_nothing_to_resume_starts_and_says_so",
    ],
    "a damaged checkpoint": [
        "checkpoint.test_files.test_truncated_files",
        "checkpoint.test_files.test_files_of_another_kind",
        "checkpoint.test_files.test_every_flipped_byte_is_found",
        "checkpoint.test_files.test_a_newer_format_is_refused",
        "checkpoint.test_files.test_a_malicious_file_runs_nothing",
        "resume.test_resume.test_if_no_file_is_intact_nothing_starts",
        "resume.test_resume.test_damaged_files_are_passed_over_and_named_once",
    ],
    "resumed with other settings": [
        "resume.test_resume.test_other_settings_are_listed",
        "resume.test_resume.test_a_finished_run_says_so",
        "integration.test_bad_inputs.test_resuming_with_another_number_of_processes",
    ],
    "configurations": [
        "config.test_config.test_a_missing_key_names_the_closest_and_all_there_are",
        "config.test_config.test_a_source_without_names_is_refused",
        "config.test_config.test_values_that_cannot_be_written_down_are_named",
    ],
    "batches of any kind": [
        "data.test_batches.test_containers_keep_their_types_and_every_tensor_moves",
        *(
            "data.test_batches.test_ragged_batches_reach_the_hook_as_they_are",
            "checks.test_checks.test_a_batch_with_other_keys_lists_them",
        ),
        "integration.test_bad_inputs.test_batches_that_are_none",
    ],
    "a loader without a length": ["data.test_loaders.test_a_loader_without_a_length_ends_when_it_does"],
    "a smaller last batch": ["checks.test_checks.test_batch_norm_and_a_last_batch_of_one_are_announced"],
    "folders": [
        "rundir.test_folder.test_a_file_in_its_place_is_an_error_before_the_first_step",
        "rundir.test_folder.test_a_folder_that_cannot_be_written_is_an_error_before_the_first_step",
        "rundir.test_folder.test_a_full_disk_is_an_error_before_the_first_step",
        "checkpoint.test_files.test_a_full_disk_leaves_the_old_file_and_says_how_full",
        "faults.trials.full_disk",
    ],
    "a killed worker": ["faults.trials.killed_worker"],
    "a logger's server": [
        "loggers.test_worker.test_what_cannot_be_written_is_kept_and_given_again_with_two_warnings",
        "loggers.test_visdom.test_points_are_complete_after_a_killed_server_returns",
        "loggers.test_visdom.test_points_are_complete_after_an_absent_server_comes",
        "loggers.test_visdom.test_points_are_complete_after_a_hung_server_goes_on",
        "loggers.test_visdom.test_end_of_a_run_is_bounded_while_the_server_hangs",
    ],
    "an exception of the user's": [
        "faults.test_ends.test_an_exception_in_a_hook",
        "callbacks.test_base.test_exception_in_each_event",
        "checks.test_checks.test_an_exception_of_the_users_data_comes_out_unchanged",
        "loop.test_error_notes.test_an_error_says_where_it_was_raised",
    ],
    "signals": [
        "faults.test_ends.test_a_signal_ends_a_script_after_its_step",
        "resume.test_resume.test_ctrl_c_finishes_the_step_and_a_second_one_does_not",
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_test(kind):
    for name in KINDS[kind]:
        module, _, function = name.rpartition(".")
        tree = ast.parse((FOLDER / module.replace(".", "/")).with_suffix(".py").read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        *((name, "x", ["'x'", "True or False"]) for name in ("_has_eval", "_verbose", "_evaluate_first", "_load_best")),
        ("_async_checkpoint", "yes", ["'yes'", "True or False"]),
        ("_monitor", "", ["''", "the name of a metric"]),
        ("_save_minutes", "1", ["'1'", "None or a number above 0"]),
        ("_save_steps", "3", ["'3'", "None or a whole number"]),
        ("_loggers", "tensrboard", ["'tensrboard'", "Did you mean 'tensorboard'?"]),
        ("callbacks", 42, ["self.callbacks is a int", "a list of callbacks"]),
    ],
)
def test_flags_and_names(name, value, words):
    with pytest.raises((ConfigError, HookError)) as caught:
        Tiny({name: value}).train()
    assert_words(caught, [name, *words])


def test_numbers_of_numpy_are_numbers():
    settings = {"_save_minutes": np.float32(1), "_save_steps": np.int64(2), "_eval_interval": np.int32(1)}
    assert len(Tiny({**settings, "_num_epochs": np.int64(1)}).train()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"foo": 1}, "unexpected keyword argument 'foo'"), ({"mode": "fast"}, "fast"), ({"backend": "nvcc"}, "nvcc")],
)
def test_arguments_that_torch_compile_does_not_have(arguments, said):
    with pytest.raises(ConfigError) as caught:
        Tiny({"_compile": arguments})
    assert_words(caught, [f"Tiny: _compile is {arguments}, and torch.compile says: ", said])


@pytest.mark.parametrize("name", ["_callbacks", "_metrics"])
def test_what_is_set_without_an_underscore(name):
    with pytest.warns(UserWarning) as caught:
        Tiny({name: []})
    assert str(caught[0].message) == f"Tiny sets {name}, which is no setting. Did you mean '{name[1:]}'?"


# ---------------------------------------------------------------- parts of the model


def built(**parts):
    """Return a trainer whose build_model leaves these parts; a function makes one from the trainer."""

    class Built(Steps):
        def build_model(self):
            super().build_model()
            for name, make in parts.items():
                setattr(self, name, make(self))

    return Built()


@pytest.mark.parametrize("model", [None, {}], ids=repr)
def test_no_model(model):
    trainer = built(model=lambda _: model)
    refused(HookError, trainer, "Built.build_model set no self.model", "Write self.model = MyNetwork()")
    trainer = built(net=lambda t: t.model, model=lambda _: model)
    refused(HookError, trainer, "set no self.model", "Write self.model = self.net, or override forward")


@pytest.mark.parametrize(
    ("criterion", "where", "line"),
    [
        ("mse", "'mse' in self.criterion;", "self.criterion = torch.nn.CrossEntropyLoss()"),
        ([nn.MSELoss()], "[MSELoss()] in self.criterion;", "self.criterion = torch.nn.CrossEntropyLoss()"),
        (nn.MSELoss, "MSELoss'> in self.criterion;", "self.criterion = MSELoss()"),
        ({"a": nn.MSELoss}, "MSELoss'> in self.criterion['a'];", "self.criterion['a'] = MSELoss()"),
    ],
    ids=["name", "list", "class", "dict"],
)
def test_criteria_that_cannot_be_called(criterion, where, line):
    trainer = built(criterion=lambda _: criterion)
    refused(HookError, trainer, "Built.build_model left ", where, "outputs and targets", f"Write {line}")


def test_parts_that_are_empty_are_none():
    refused(HookError, built(optimizer=lambda _: {}), "Built.build_model set no self.optimizer")
    refused(HookError, built(criterion=lambda _: {}), "Built.build_model set no self.criterion")


def test_classes_in_place_of_objects():
    trainer = built(optimizer=lambda _: torch.optim.SGD)
    refused(HookError, trainer, "Built.build_model left <class", "in self.optimizer; expected a torch.optim.Optimizer")
    trainer = built(scheduler=lambda _: torch.optim.lr_scheduler.StepLR)
    refused(HookError, trainer, "the class StepLR in self.scheduler", "self.scheduler = StepLR(self.optimizer, ...)")


def test_a_scheduler_of_another_optimizer():
    def other(trainer):
        return torch.optim.lr_scheduler.StepLR(torch.optim.SGD(trainer.model.parameters(), lr=1.0), 1)

    with pytest.warns(UserWarning, match="self.scheduler moves the learning rate of an optimizer that is no attribute"):
        built(scheduler=other).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        built(opt=lambda t: t.optimizer, scheduler=lambda t: torch.optim.lr_scheduler.StepLR(t.opt, 1)).train()


# ---------------------------------------------------------------- loaders and batches


@pytest.mark.parametrize(
    "make",
    [
        lambda: iter([(INPUTS, TARGETS)]),
        lambda: reversed([(INPUTS, TARGETS)]),
        lambda: iter(DataLoader(TensorDataset(INPUTS, TARGETS), 4)),
    ],
    ids=["list", "reversed", "DataLoader"],
)
def test_an_iterator_for_several_epochs(make):
    trainer = Steps()
    trainer.train_loader = make()
    refused(DataError, trainer, "self.train_loader is a ", "read only once", "2 epochs", "__iter__")


def test_a_dataset_in_place_of_a_loader():
    trainer = Steps({"_num_epochs": 1})
    trainer.valid_loader = TensorDataset(INPUTS, TARGETS)
    with pytest.warns(UserWarning) as caught:
        trainer.train()
    assert "self.valid_loader is a dataset (TensorDataset), whose samples are taken for batches" in str(
        caught[0].message
    )
    assert caught[0].filename == __file__


@pytest.mark.parametrize("name", ["train", "valid", "test"])
@pytest.mark.parametrize("several", [lambda one: {"a": one}, lambda one: [one, one]])
def test_several_loaders_in_place_of_one(name, several):
    class Several(Tiny):
        def get_testloader(self):
            super().get_testloader()
            self.loaders = several(self.train_loader)
            setattr(self, f"{name}_loader", self.loaders)

    with pytest.raises(DataError) as caught:
        Several().test() if name == "test" else Several().train()
    assert_words(caught, [f"Several: self.{name}_loader is a ", f"Write self.{name}_loader = loaders["])

    class Chooses(Several):
        def on_train_epoch_start(self):
            self.train_epoch_iter = enumerate(DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=4))

        def on_evaluate_epoch_start(self):
            self.valid_epoch_iter = enumerate([(INPUTS, TARGETS)])

        def on_test_start(self):
            self.test_loop_iter = enumerate([(INPUTS, TARGETS)])

    trainer = Chooses()
    assert trainer.train()[-1]["valid"] and trainer.test()


@pytest.mark.parametrize("batch", [None, "path.png", 3])
def test_batches_that_are_none(batch):
    trainer = Steps()
    trainer.train_loader = [batch]
    refused(DataError, trainer, f"self.inputs cannot be taken from the batch, a {type(batch).__name__}")


# ---------------------------------------------------------------- going on with something else


class Grows(Tensors):
    """A model and an optimizer whose sizes the configuration says."""

    def define_train_attr(self):
        self.width, self.order = self.config.get("width", 8), self.config.get("order", 1)

    def build_model(self):
        super().build_model()
        self.model = nn.Sequential(nn.Linear(3, self.width), nn.Dropout(0.5), nn.Linear(self.width, 1))
        self.optimizer = torch.optim.SGD([*self.model.parameters()][:: self.order], lr=0.01, momentum=0.9)
        self.scheduler = None


def test_resuming_with_another_architecture():
    stopped_run(Grows, 6)
    trainer = Grows({"_logdir": "stopped", "width": 9})
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    with pytest.raises(CheckpointError) as caught:
        trainer.train(resume=True)
    file = Path("stopped/Grows/1/checkpoints/last.ckpt")
    assert_words(
        caught,
        [
            f"{file}, written by Grows and read by Grows, does not fit Sequential",
            "3 mismatched: 0.weight: (8, 3) in the file, (9, 3) in the model",
            "The model in memory is unchanged.",
        ],
    )
    assert all(map(torch.equal, before, trainer.model.parameters()))


def test_resuming_with_an_optimizer_of_other_shapes():
    stopped_run(Grows, 6)
    with pytest.raises(CheckpointError) as caught:
        Grows({"_logdir": "stopped", "order": -1}).train(resume=True)
    assert_words(caught, ["last.ckpt: of self.optimizer, parameter 0 had the shape (8, 3), now it has (1,)"])


def test_resuming_with_another_number_of_processes(capsys, monkeypatch):
    stopped_run(Grows, 6)
    path = Path("stopped/Grows/1/checkpoints/last.ckpt")
    saved = torch.load(path, weights_only=True)
    saved["run"]["made_with"]["number of processes"] = 2
    torch.save(saved, path)
    Grows({"_logdir": "stopped", "_verbose": True}).train(resume=True)
    assert "number of processes was 2, is 1" in capsys.readouterr().out
