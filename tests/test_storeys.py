"""A file imports only what stands below it, at its head; files and functions are short; packages say what they hold."""

import ast
import re
from pathlib import Path

import farabio_like

ROOT = Path(farabio_like.__file__).parent
STOREYS = """
errors version duck_typing
packages rng plots loggers.names
callbacks.base
config components
data
distributed
metrics checkpoint compute callbacks.metric callbacks.dispatch
rundir
loggers
checks report compare
optim
resume.attributes resume.contents resume.data resume.layers
resume.inside
resume.optimizers resume.horizon
resume.restore
state
resume
loop
training
summary
trainer
callbacks losses models inference
trainers
launch
export
serving pipelines upscale
cli
__main__
"""  # from the ground up; of two names that fit a module the longer counts
HEIGHT = {name: height for height, line in enumerate(STOREYS.strip().splitlines()) for name in line.split()}


def storey(module):
    parts = module.split(".")
    return next((n for n in (".".join(parts[:k]) for k in range(len(parts), 0, -1)) if n in HEIGHT), None)


# Imported where they are used: not there on every machine, or slow to load for who does not need them.
LATE = """
PIL jinja2 matplotlib mlflow omegaconf onnxruntime torchvision tqdm visdom fcntl
torch.distributed torch.utils.tensorboard
aio_pika uvloop farabio_like.serving
optuna_dashboard farabio_like.pipelines.search farabio_like.pipelines.found
farabio_like.plots.picture farabio_like.rundir.config_file farabio_like.rundir.reader farabio_like.metrics.direction
farabio_like.launch.build
farabio_like.config.json_text farabio_like.config.overrides farabio_like.config.yaml_text
""".split()

MOST_FILES = 12  # on the first level
MOST_LINES = 600  # of a file; trainer.py is as long as a run
MOST_LINES_OF_A_FUNCTION = 60  # without its docstring
FILES = sorted(ROOT.rglob("*.py"))


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def length(function):
    """Return the number of lines of a function, its docstring left out."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    docstring = first.end_lineno - first.lineno + 1 if documented else 0
    return function.end_lineno - function.lineno + 1 - docstring


def imported(node, path):
    """Yield the full name of everything that a node imports."""
    if isinstance(node, ast.Import):
        yield from (name.name for name in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = (ROOT.name, *path.relative_to(ROOT).parent.parts)
        base = package[: len(package) - node.level + 1] if node.level else ()
        for name in node.names:
            yield ".".join((*base, *filter(None, [node.module]), name.name))


def imports(path):
    """Yield line, module and whether it is for annotations only, of every import within the package."""
    tree, prefix = parsed(path), f"{ROOT.name}."
    typing = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    typing = {id(part) for node in typing for part in ast.walk(node)}
    for node in ast.walk(tree):
        for name in imported(node, path):
            if name.startswith(prefix):
                yield node.lineno, name.removeprefix(prefix), id(node) in typing


def test_imports_go_down():
    wrong = []
    for path in ROOT.rglob("*.py"):
        module = ".".join(p for p in path.relative_to(ROOT).with_suffix("").parts if p != "__init__")
        own = storey(module)
        assert not module or own, f"{module} stands on no storey: write it into STOREYS"
        for line, name, typing in imports(path) if module else ():
            other = storey(name)
            up = other is not None and other != own and HEIGHT[other] >= HEIGHT[own]
            if up and not (typing and name == "trainer.ConvnetTrainer"):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}: {own} stands below {other}")
    assert not wrong, "\n".join(wrong)


def test_tools_take_no_trainer():
    for package in ("data", "metrics", "checkpoint", "rundir", "plots", "config", "losses", "inference"):
        for path in (ROOT / package).rglob("*.py"):
            assert not any(name.startswith("trainer") for _, name, _ in imports(path)), f"{path} is for any trainer"


def test_imports_stand_at_the_head():
    wrong = set()
    for path in FILES:
        for node in (part for function in functions(parsed(path)) for part in ast.walk(function)):
            for name in imported(node, path):
                if not any(f"{name}.".startswith(f"{late}.") for late in LATE):
                    wrong.add(f"{path.relative_to(ROOT)}:{node.lineno} imports {name} in a function")
    assert not wrong, "\n".join(sorted(wrong))


def test_only_what_ships_is_looked_up_by_its_name():
    users = {path.relative_to(ROOT).parts[0] for path in FILES if "import_module" in path.read_text(encoding="utf-8")}
    assert users == {"__init__.py", "callbacks", "cli", "config", "launch", "loggers", "pipelines", "serving"}


def test_the_first_level_has_few_files():
    assert len(list(ROOT.glob("*.py"))) <= MOST_FILES


def test_files_and_functions_are_short():
    long = []
    for path in FILES:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MOST_LINES and path != ROOT / "trainer.py":
            long.append(f"{path.relative_to(ROOT)} has {lines} lines")
        for function in functions(parsed(path)):
            if length(function) > MOST_LINES_OF_A_FUNCTION:
                long.append(f"{path.relative_to(ROOT)}:{function.lineno} {function.name} has {length(function)} lines")
    assert not long, "\n".join(long)


def test_every_package_says_what_lives_there_and_what_does_not():
    for path in ROOT.rglob("__init__.py"):
        docstring = ast.get_docstring(parsed(path)) or ""
        sentences = re.findall(r"[.!?](?=\s|$)", docstring)
        assert len(sentences) >= 2, f"{path.relative_to(ROOT)} says: {docstring}"
