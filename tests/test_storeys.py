"""A file imports only what stands below it."""

import ast
from pathlib import Path

import farabio_like

ROOT = Path(farabio_like.__file__).parent
STOREYS = """
errors version duck_typing
packages rng plots
callbacks.base
config components
data
distributed
metrics checkpoint compute callbacks.metric callbacks.dispatch
rundir
loggers
checks report compare
optim
state
resume
loop
training
summary
trainer
callbacks losses models inference
trainers export
serving pipelines
cli
"""  # from the ground up; of two names that fit a module the longer counts
HEIGHT = {name: height for height, line in enumerate(STOREYS.strip().splitlines()) for name in line.split()}


def storey(module):
    parts = module.split(".")
    return next((n for n in (".".join(parts[:k]) for k in range(len(parts), 0, -1)) if n in HEIGHT), None)


def imports(path):
    """Yield line, module and whether it is for annotations only, of every import within the package."""
    package, tree = path.relative_to(ROOT).parent.parts, ast.parse(path.read_text(encoding="utf-8"))
    typing = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    typing = {id(part) for node in typing for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + tuple(filter(None, (node.module or "").split(".")))
            for name in node.names:
                yield node.lineno, ".".join((*base, name.name)), id(node) in typing


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
    for package in ("data", "metrics", "checkpoint", "rundir", "plots", "config"):
        for path in (ROOT / package).rglob("*.py"):
            assert not any(name.startswith("trainer") for _, name, _ in imports(path)), f"{path} is for any trainer"
