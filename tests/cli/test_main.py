"""The command: what it prints, the exit status of each mistake, and what it imports."""

import os
import subprocess
import sys

import pytest

import farabio_like
from farabio_like.cli.main import COMMANDS, main
from tests.conftest import ROOT
from tests.trainers import Tiny


@pytest.fixture
def command(capsys):
    """Return a function that runs a command line in this process: status, output, errors."""

    def run(*arguments):
        status = main(arguments)
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def run_folder():
    """Return the folder of a run of two epochs."""
    trainer = Tiny({"_num_epochs": 2, "_logdir": "runs"})
    trainer.train()
    return trainer.run_dir


def test_help_names_every_command_without_importing_torch(python):
    script = """
import sys
from farabio_like.cli.main import COMMANDS, main
assert main(["--help"]) == 0
print("imported", *sorted({"torch", "matplotlib", "omegaconf", "yaml"} & set(sys.modules)))
"""
    text, _, imported = python(script).rstrip("\n").rpartition("\n")
    assert imported == "imported"
    for name, row in COMMANDS.items():
        assert f"  {name} " in text and row.help.split()[0] in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(command, name):
    status, output, _ = command(name, "--help")
    said = " ".join(output.split())
    assert status == 0 and f"Usage: farabio-like {name}" in said and f"Example: {COMMANDS[name].example}" in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["lss"], "farabio-like: there is no command 'lss'. Did you mean 'ls'? See farabio-like --help.\n"),
        (["ls", "--folder", "x"], "farabio-like ls: No such option: --folder. See farabio-like ls --help.\n"),
        (["ls", "nowhere"], "farabio-like: nowhere is no folder. Give a log folder: farabio-like ls runs\n"),
        (["compare", "."], "farabio-like: . is no run folder: it has neither config.yaml nor metrics.jsonl.\n"),
        (["report", "nowhere"], "farabio-like: nowhere is no folder. Give run folders, as in runs/Digits/1.\n"),
    ],
)
def test_misuse_is_one_line_and_status_2(command, line, said):
    assert command(*line) == (2, "", said)


def test_without_arguments_the_help_is_printed(command):
    status, output, error = command()
    assert status == 2 and output == "" and "Commands:" in error


def test_the_version(command):
    assert command("--version") == (0, f"farabio-like {farabio_like.__version__}\n", "")


def test_ls(command, run_folder):
    status, output, error = command("ls", str(run_folder.parents[1]))
    assert (status, error) == (0, "")
    head, row = (line.split() for line in output.splitlines())
    assert head == ["run", "class", "epochs", "time", "monitored", "best", "in", "state"]
    assert row[:3] == [str(run_folder), "Tiny", "2/2"] and row[-1] == "trained"


def test_ls_of_a_folder_without_runs(command):
    assert command("ls", ".") == (0, "no runs below .\n", "")


def test_compare_and_report_do_what_the_modules_do(command, run_folder):
    status, output, _ = command("compare", str(run_folder), "-o", "c.png")
    assert status == 0 and output.startswith("best values\n") and os.path.getsize("c.png") > 1000
    (run_folder / "report.html").unlink()
    assert command("report", str(run_folder))[0] == 0 and (run_folder / "report.html").is_file()


def test_without_typer_one_line_names_the_extra(python):
    script = """
import sys
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "typer" else find(name, *more)
from farabio_like.cli.main import main
sys.stderr = sys.stdout
print(main(["ls"]))
"""
    said = "farabio-like needs the package typer, which is not installed. Install it: "
    assert python(script) == said + 'pip install "farabio-like[cli]"\n2\n'


def test_as_a_module_and_with_completion():
    environment = {**os.environ, "_FARABIO_LIKE_COMPLETE": "complete_bash", "COMP_WORDS": "farabio-like co"}
    called = [sys.executable, "-m", "farabio_like"]
    environment = {**environment, "COMP_CWORD": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(called, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["compare"], done.stderr
