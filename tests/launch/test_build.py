"""A trainer from a configuration: what is built, and every mistake with its file and line before anything is."""

import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from farabio_like import ConfigError
from farabio_like.callbacks import EMA
from farabio_like.launch import build, rebuild
from farabio_like.launch.build import plan_of
from farabio_like.rundir import reader
from farabio_like.trainers import ClassificationTrainer

TRAINER = """
import torch
from torch import nn
from farabio_like import ConvnetTrainer

BUILT = []

class Net(nn.Module):
    def __init__(self, width: int, depth: int = 1, act: type = nn.ReLU, bias=True):
        super().__init__()
        BUILT.append(self)
        self.layers = nn.Sequential(nn.Linear(3, width), act(), nn.Linear(width, 1, bias=bias))

    def forward(self, x):
        return self.layers(x)

class Line(ConvnetTrainer):
    def define_train_attr(self):
        self._num_epochs, self._verbose, self._logdir = 5, False, None

    def get_trainloader(self):
        x = torch.arange(24.0).reshape(8, 3) / 24
        self.train_loader = self.valid_loader = [(x, x.sum(1, keepdim=True))]

class Whole(Line):
    def build_model(self):
        self.model = Net(2)
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.5)

class Demanding(Whole):
    def __init__(self, config=None, *, width):
        super().__init__(config)

NOT_A_TRAINER = 3
"""
CONFIG = """
trainer: line.py:Line
settings:
  num_epochs: 2
  seed: 3
config:
  lr: 1e-3
model:
  class: line.Net
  width: 4
  act: torch.nn.Tanh
criterion:
  class: torch.nn.MSELoss
optimizer:
  class: torch.optim.SGD
  lr: ${config.lr}
  momentum: 0.9
scheduler:
  class: torch.optim.lr_scheduler.StepLR
  step_size: 1
callbacks:
  - class: farabio_like.callbacks.EMA
    decay: 0.5
"""


@pytest.fixture(autouse=True)
def files(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("line.py").write_text(TRAINER)
    Path("c.yml").write_text(CONFIG)


def write(text):
    Path("c.yml").write_text(textwrap.dedent(text))


def refused(*overrides, **arguments):
    with pytest.raises(ConfigError) as caught:
        build("c.yml", overrides=overrides, **arguments)
    return str(caught.value)


def test_all_parts():
    trainer = build("c.yml")
    assert type(trainer).__name__ == "Line" and trainer._num_epochs == 2 and trainer._seed == 3
    assert trainer.config.lr == 0.001 and isinstance(trainer.criterion, nn.MSELoss)
    assert trainer.model.layers[0].out_features == 4 and isinstance(trainer.model.layers[1], nn.Tanh)
    group = trainer.optimizer.param_groups[0]
    assert [id(p) for p in group["params"]] == [id(p) for p in trainer.model.parameters()]
    assert (group["lr"], group["momentum"]) == (0.001, 0.9) and trainer.scheduler.optimizer is trainer.optimizer
    assert isinstance(trainer.callbacks[0], EMA) and len(trainer.train()) == 2


def test_it_trains_like_the_same_by_hand():
    trainer = build("c.yml", overrides=["~callbacks"])
    trainer.train()
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    x = torch.arange(24.0).reshape(8, 3) / 24
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), x.sum(1, keepdim=True)).backward()
        optimizer.step()
        scheduler.step()
    for ours, theirs in zip(trainer.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_parts_of_the_class_stay_and_those_of_the_configuration_come_in_place():
    write("trainer: line:Whole\noptimizer: {class: torch.optim.Adam, lr: '1e-2'}\n")
    trainer = build("c.yml")
    assert isinstance(trainer.optimizer, torch.optim.Adam) and trainer.optimizer.param_groups[0]["lr"] == 0.01
    assert trainer.optimizer.param_groups[0]["params"][0] is trainer.model.layers[0].weight


def test_several_models():
    write("""
    trainer: line.py:Line
    model:
      a: {class: line.Net, width: 2}
      b: {class: torch.nn.Sequential, args: [{class: torch.nn.Linear, in_features: 3, out_features: 1}]}
    optimizer:
      a: {class: torch.optim.SGD, lr: 1}
      b: {class: torch.optim.Adam}
    scheduler:
      a: {class: torch.optim.lr_scheduler.ConstantLR}
    """)
    trainer = build("c.yml")
    assert trainer.optimizer["b"].param_groups[0]["params"][0] is trainer.model["b"][0].weight
    assert trainer.scheduler["a"].optimizer is trainer.optimizer["a"]
    write(Path("c.yml").read_text().replace("  b: {class: torch.optim.Adam}", "  bb: {class: torch.optim.Adam}"))
    assert "c.yml:8: optimizer.bb has no model of its name. There are: a, b." in refused()


def test_schedules_in_a_schedule():
    write(
        CONFIG.split("scheduler:")[0]
        + """
scheduler:
  class: torch.optim.lr_scheduler.SequentialLR
  milestones: [1]
  schedulers:
    - {class: torch.optim.lr_scheduler.ConstantLR}
    - {class: torch.optim.lr_scheduler.StepLR, step_size: 2}
"""
    )
    trainer = build("c.yml")
    assert trainer.scheduler._schedulers[1].optimizer is trainer.optimizer


def test_stages_have_defaults():
    for stages in (
        "{defaults: {eval_interval: 2}, warm: {num_epochs: 1}, main: {num_epochs: '3', eval_interval: 1}}",
        "[{defaults: {eval_interval: 2}}, {name: warm, num_epochs: 1}, {name: main, num_epochs: 3, eval_interval: 1}]",
    ):
        write(CONFIG + f"stages: {stages}\n")
        warm, main = build("c.yml")._stages
        assert (warm.name, warm.num_epochs, warm.settings) == ("warm", 1, {"eval_interval": 2})
        assert (main.name, main.num_epochs, main.settings) == ("main", 3, {"eval_interval": 1})


def test_a_ready_made_trainer_with_its_data():
    Path("sets.py").write_text(
        "import torch\nfrom torch.utils.data import TensorDataset\n"
        "def points(number: int):\n    return TensorDataset(torch.randn(number, 3), torch.arange(number) % 2)\n"
    )
    write("""
    trainer: ClassificationTrainer
    classes: [no, yes]
    mode: multiclass
    batch_size: 4
    input_spec: {mode: L, size: [1, 3]}
    settings: {num_epochs: 1, logdir: null, verbose: false, seed: 1}
    train: {class: sets.points, number: 8}
    valid: {class: sets.points, number: 4}
    model: {class: torch.nn.Linear, in_features: 3, out_features: 2}
    optimizer: {class: torch.optim.SGD, lr: 0.1}
    """)
    trainer = build("c.yml")
    assert isinstance(trainer, ClassificationTrainer) and trainer.class_names == ["no", "yes"]
    assert (
        trainer.input_spec["size"] == [1, 3]
        and trainer._batch_size == 4
        and isinstance(trainer.optimizer, torch.optim.SGD)
    )
    weights = trainer.model.weight.clone()
    trainer.train()
    assert torch.equal(build("c.yml").model.weight, weights)  # made after the seed was set
    write(Path("c.yml").read_text().replace("batch_size", "batchsize"))
    assert "there is no 'batchsize' for ClassificationTrainer. Did you mean 'batch_size'?" in refused()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("num_epochs: 2", "num_epoch: 2"), "c.yml:4: 'num_epoch' is no name of a setting. Did you mean 'num_epochs'?"),
        (("num_epochs: 2", "num_epochs: -1"), "c.yml:4: num_epochs is -1; expected a whole number, 0 or more."),
        (("num_epochs: 2", "_num_epochs: 2"), "c.yml:4: _num_epochs is written without its underscore: num_epochs"),
        (("num_epochs: 2", "stages: []"), "c.yml:4: stages stand beside settings, not in it."),
        (("  width: 4", "  widht: 4"), "c.yml:10: line.Net has no argument 'widht'. Did you mean 'width'?"),
        (("  width: 4", "  depth: 4"), "c.yml:9: line.Net needs the argument 'width'. Write width: ..."),
        (("width: 4", "width: wide"), "c.yml:10: line.Net: width is 'wide', text; expected a whole number."),
        (("width: 4", "width: 4.5"), "c.yml:10: line.Net: width is 4.5, a number; expected a whole number."),
        (("width: 4", "width: true"), "c.yml:10: line.Net: width is True, a boolean; expected a whole number."),
        (("width: 4", "width: 4\n  bias: 1"), "c.yml:11: line.Net: bias is 1, a number; expected true or false."),
        (("torch.nn.Tanh", "torch.nn.Tahn"), "c.yml:11: torch.nn.Tahn: torch.nn has no 'Tahn'. Did you mean 'Tanh'?"),
        (("class: line.Net", "clas: line.Net"), "c.yml:9: model.clas is 'line.Net'; expected an object."),
        (("momentum", "momentun"), "torch.optim.sgd.SGD has no argument 'momentun'. Did you mean 'momentum'?"),
        (("optimizer:", "optimiser:"), "there is no 'optimiser' for Line. Did you mean 'optimizer'?"),
        (("line.py:Line", "lines.py:Line"), "c.yml:2: there is no file 'lines.py' beside the configuration. Did you"),
        (("line.py:Line", "line.py:Lin"), "c.yml:2: line.py:Lin: line has no 'Lin'. Did you mean 'Line'?"),
        (("line.py:Line", "line.py:Net"), "c.yml:2: trainer is 'line.py:Net', a class that is no trainer"),
        (("line.py:Line", "line.py:NOT_A_TRAINER"), "c.yml:2: line.py:NOT_A_TRAINER is a int; expected a class"),
        (("line.py:Line", "ClasificationTrainer"), "none of ours. Did you mean 'ClassificationTrainer'?"),
        (("trainer:", "trainr:"), "c.yml:2: there is no 'trainr'. Did you mean 'trainer'?"),
        (("line.py:Line", "line.py:Demanding"), "c.yml:2: Demanding needs 'width'. Write width: ..."),
        (("class: line.Net", "class: os.system"), "os.system is of the module os, which no configuration may import."),
        (("class: line.Net", "class: torch.os.system"), "--allow os"),
        (("class: line.Net", "class: torch.hub.load"), "To call it all the same: --allow torch.hub"),
        (("class: line.Net", "class: builtins.eval"), "--allow builtins"),
        (("class: line.Net", "class: line.torch.os.getcwd"), "--allow os"),
        (("class: line.Net", "class: subprocess.Popen"), "--allow subprocess"),
        (("step_size: 1", "step_size: one"), "StepLR: step_size is 'one', text; expected a whole number."),
        (("decay: 0.5", "decay: 0.5\n    models: 3"), "EMA: models is 3, a number; expected"),
        (("lr: 1e-3", "lr: 1e-3\ntrainer: x"), "c.yml:8: the key 'trainer' is there already, in line 2."),
    ],
    ids=lambda value: value[1][:30] if isinstance(value, tuple) else "",
)
def test_mistakes_are_named_with_their_line_before_anything_is_built(change, said):
    assert change[0] in CONFIG
    write(CONFIG.replace(*change, 1))
    assert said in refused()
    assert not getattr(sys.modules.get("line"), "BUILT", ())


def test_all_mistakes_at_once():
    write(
        CONFIG.replace("width: 4", "widht: 4").replace("momentum", "momentun").replace("num_epochs: 2", "num_epocs: 2")
    )
    assert len(refused().splitlines()) == 4  # one name that is unknown is one that is missing


def test_an_override_is_the_place_of_its_mistake():
    assert refused("model.width=x").startswith("override 'model.width=x': line.Net: width is 'x', text;")


def test_what_a_constructor_of_torch_refuses_has_its_line():
    assert "SGD cannot be made: ValueError: Invalid learning rate: -1" in refused("optimizer.lr=-1.0")


def test_a_model_in_two_places():
    write("trainer: line.py:Whole\nmodel: {class: line.Net, width: 2}\n")
    assert "c.yml:2: build_model of Whole sets self.model, and so does the configuration." in refused()


def test_mistakes_in_the_users_file():
    Path("line.py").write_text("import torch\nimport no_such_package\n")
    assert "line.py:2: No module named 'no_such_package'." in refused()
    Path("line.py").write_text("class Line(:\n")
    assert "line.py:1: invalid syntax." in refused()


def test_a_module_that_is_allowed():
    change = CONFIG.replace("class: line.Net\n  width: 4\n  act: torch.nn.Tanh", "class: collections.OrderedDict")
    write(change)
    assert "--allow collections" in refused()
    assert plan_of("c.yml", allow=["collections"]).parts["model"].factory.__name__ == "OrderedDict"
    with pytest.raises(ConfigError, match="is no name of a module"):
        plan_of("c.yml", allow=["-rf"])


def test_secrets_are_not_in_the_run_folder_and_are_asked_for():
    write(CONFIG.replace("lr: 1e-3", "lr: 1e-3\n  api_token: hunter2hunter2").replace("seed: 3", "logdir: runs"))
    trainer = build("c.yml")
    trainer.train()
    assert trainer.config.api_token == "hunter2hunter2"
    assert "hunter2" not in (trainer.run_dir / "run.yaml").read_text()
    with pytest.raises(ConfigError, match="config.api_token is a secret, which no run folder holds"):
        rebuild(trainer.run_dir)
    again = rebuild(trainer.run_dir, overrides=["config.api_token=hunter2hunter2"])
    assert again.config.api_token == "hunter2hunter2"
    assert reader.read(trainer.run_dir).config["lr"] == "0.001"


def test_a_run_without_a_seed_gets_one_to_be_repeated_with():
    write(CONFIG.replace("seed: 3", "logdir: runs"))
    first = build("c.yml")
    first.train()
    Path("line.py").write_text(TRAINER.replace("nn.Linear(3, width)", "nn.Linear(3, width + 1)"))
    second = build(first.run_dir)
    second.train()
    assert second.run_dir != first.run_dir
    for name, value in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value)
    assert build("c.yml").model.layers[0].out_features == 5  # the file of today


def test_what_a_function_imports_is_in_the_folder_too():
    Path("late.py").write_text("VALUE = 1\n")
    hook = "class Line(ConvnetTrainer):\n    def on_test_start(self):\n        from late import VALUE\n"
    Path("line.py").write_text(TRAINER.replace("class Line(ConvnetTrainer):\n", hook))
    write(CONFIG.replace("seed: 3", "logdir: runs"))
    trainer = build("c.yml")
    trainer.train()
    assert sorted(path.name for path in (trainer.run_dir / "code").iterdir()) == ["late.py", "line.py"]


def test_a_folder_of_a_script_s_run_cannot_be_run():
    Path("runs/x").mkdir(parents=True)
    with pytest.raises(ConfigError, match="is no folder of a run that a configuration has started"):
        build("runs/x")


def test_a_folder_beside_the_configuration():
    Path("parts").mkdir()
    Path("parts/line.py").write_text(TRAINER)
    write(CONFIG.replace("line.py:Line", "parts/line.py:Line").replace("line.Net", "parts.line.Net"))
    assert type(build("c.yml")).__module__ == "parts.line"
    Path("code.py").write_text(TRAINER)
    write(CONFIG.replace("line.py:Line", "code.py:Line"))
    assert "c.yml:2: code.py has the name of a module of Python's own" in refused()


def test_two_folders_with_files_of_the_same_names():
    for name, width in (("one", 2), ("two", 3)):
        Path(name).mkdir()
        Path(name, "line.py").write_text(TRAINER.replace("nn.Linear(3, width)", f"nn.Linear(3, {width})"))
        Path(name, "c.yml").write_text(CONFIG)
    widths = [build(f"{name}/c.yml").model.layers[0].out_features for name in ("one", "two", "one")]
    assert widths == [2, 3, 2]
