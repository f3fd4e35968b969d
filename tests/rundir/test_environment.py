"""What a run folder says of its surroundings: versions, commit, and a copy of the code."""

import json
import os
import sys
from pathlib import Path

import torch

from farabio_like import ConvnetTrainer, rundir
from farabio_like.config.secrets import Secrets
from farabio_like.rundir import environment


class Owner:
    pass


def test_environment_json_says_where_and_with_what():
    run = rundir.RunDir("runs", Owner)
    run.describe({}, {})
    found = json.loads((run.path / "environment.json").read_text())
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["folder"] == os.getcwd() and found["command"][0] == sys.executable
    assert found["cpus"] == os.cpu_count() and found["threads"] == torch.get_num_threads()
    assert found["git_commit"] is None, "this folder is no repository"


def test_environment_json_has_the_commit_and_says_when_it_is_not_all():
    git = "git -c user.name=a -c user.email=a@b -c commit.gpgsign=false -c init.defaultBranch=main"
    os.system(f"{git} init -q . && echo 1 > file && {git} add file && {git} commit -q -m first")
    commit = environment.environment(Secrets())["git_commit"]
    assert len(commit) == 40
    Path("file").write_text("2")
    assert environment.environment(Secrets())["git_commit"] == f"{commit}-dirty"


SCRIPT = """
import sys
import helpers.layers
import installed_by_user
import other_environment
from helpers import trainer
import numpy, torchvision_missing

class Own(trainer.Base):
    pass

run = Own({"lr": 1e-5})
run.train()
print(run.run_dir)
"""

BASE = """
import torch
from farabio_like import ConvnetTrainer
from . import layers

class Base(ConvnetTrainer):
    def define_log_attr(self):
        self._num_epochs, self._verbose = 0, False
    def get_trainloader(self):
        self.train_loader = [torch.ones(2, 1)]
    def build_model(self):
        self.model = layers.make()
    def training_step(self):
        pass
"""


def test_the_code_is_the_script_and_its_local_modules_and_nothing_installed(python, tmp_path):
    home = tmp_path / "home"
    user = home / ".local/lib/python3/site-packages"
    other = home / "env/lib/python3/dist-packages"
    for folder in (home / "helpers", user, other):
        folder.mkdir(parents=True)
    (home / "helpers/__init__.py").write_text("")
    (home / "helpers/layers.py").write_text("import torch\ndef make():\n    return torch.nn.Linear(1, 1)\n")
    (home / "helpers/trainer.py").write_text(BASE)
    (home / "helpers/unused.py").write_text("")
    (home / "generated.py").write_text("x = 1\n" + "#" * (1 << 20))
    (user / "installed_by_user.py").write_text("")
    (other / "other_environment.py").write_text("")
    script = SCRIPT.replace("import numpy, torchvision_missing", "import generated")
    run_dir = home / python(f"import sys; sys.path += {[str(user), str(other)]}\n" + script, folder=home).strip()
    copied = {str(path.relative_to(run_dir / "code")) for path in (run_dir / "code").rglob("*") if path.is_file()}
    assert copied == {"script.py", "helpers/__init__.py", "helpers/layers.py", "helpers/trainer.py"}
    assert (run_dir / "code/helpers/trainer.py").read_text() == BASE
    assert json.loads((run_dir / "environment.json").read_text())["command"][1] == str(home / "script.py")


def test_of_a_trainer_in_a_package_the_whole_package_is_copied(python, tmp_path):
    for folder in ("project/mine/trainers", "project/mine/models", "project/scripts"):
        (tmp_path / folder).mkdir(parents=True)
    package = tmp_path / "project/mine"
    for folder in (package, package / "trainers", package / "models"):
        (folder / "__init__.py").write_text("")
    (package / "models/net.py").write_text("import torch\ndef make():\n    return torch.nn.Linear(1, 1)\n")
    base = BASE.replace("from . import layers", "from mine.models import net as layers")
    (package / "trainers/base.py").write_text(base)
    script = f"import sys; sys.path.insert(0, {str(tmp_path / 'project')!r})\n"
    script += "from mine.trainers.base import Base\nrun = Base()\nrun.train()\nprint(run.run_dir)\n"
    run_dir = tmp_path / "project/scripts" / python(script, folder=tmp_path / "project/scripts").strip()
    copied = {str(path.relative_to(run_dir / "code")) for path in (run_dir / "code").rglob("*.py")}
    inits = {"mine/__init__.py", "mine/trainers/__init__.py", "mine/models/__init__.py"}
    assert copied == {"scripts/script.py", "mine/models/net.py", "mine/trainers/base.py"} | inits


def test_a_trainer_without_a_source_file_has_no_code():
    namespace = {"__name__": "nowhere", "ConvnetTrainer": ConvnetTrainer}
    exec("class Typed(ConvnetTrainer):\n    pass", namespace)
    run = rundir.RunDir("runs", namespace["Typed"])
    run.describe({}, {})
    assert (run.path / "config.yaml").is_file()
