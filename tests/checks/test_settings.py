"""Settings that do not go together."""

import pytest
import torch

from farabio_like import ConfigError, Stage
from farabio_like.checks.settings import check_settings
from tests.trainers import Tiny


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"_clip_norm": 1.0, "_clip_value": 2.0}, "_clip_norm is 1.0 and _clip_value is 2.0; gradients are clipped by"),
        ({"_compile": True, "_data_parallel": True}, "_compile and _data_parallel are both set"),
        ({"_strategy": "fsdp", "_async_checkpoint": True}, "_async_checkpoint and _strategy = 'fsdp' do not go toget"),
        ({"_strategy": "fsdp", "_channels_last": True}, "_channels_last and _strategy = 'fsdp' do not go together"),
        ({"_strategy": "fsdp", "_compile": {}}, "_compile and _strategy = 'fsdp' do not go together"),
        ({"_load_best": True, "_logdir": None}, "_load_best needs the run folder, and _logdir is None"),
        ({"_loggers": "csv", "_logdir": None}, "_loggers is 'csv', which writes into the run folder"),
        ({"_loggers": ["visdom", "csv"], "_logdir": None}, r"_loggers\[1\] is 'csv', which writes into the run folder"),
        ({"_stages": [Stage("a", 1, precision="bf16")]}, r"Stage\('a'\) sets 'precision', which is no setting of a st"),
    ],
    ids=str,
)
def test_two_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ConfigError, match=f"^Tiny: {message}"):
        Tiny(settings)


def test_a_plateau_per_step():
    trainer = Tiny({"_scheduler_step": "step"})
    trainer.scheduler = {"a": torch.optim.lr_scheduler.ReduceLROnPlateau(trainer.optimizer)}
    with pytest.raises(ConfigError, match=r"^Tiny: self.scheduler\['a'\] is a ReduceLROnPlateau, which moves per epo"):
        trainer.train()


def test_copies_of_the_model_in_each_of_several_processes(monkeypatch):
    trainer = Tiny()
    trainer._data_parallel = True
    check_settings(trainer)
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="^Tiny: _data_parallel is set, and torchrun has started 2 processes"):
        check_settings(trainer)


def test_loggers_that_start_logger_names_are_checked_too():
    class Late(Tiny):
        def start_logger(self):
            self._loggers = "csv"

    with pytest.raises(
        ConfigError, match=r"^Late: _loggers is 'csv'.* Write self._loggers = CSVLogger\('metrics.csv'\)"
    ):
        Late({"_logdir": None}).train()
