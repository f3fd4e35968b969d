"""``farabio-like dag``: run, status, stop, resume, logs, graph, page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError, printable
from ..pipelines import dagfile, page, session, status
from ..pipelines.record import LOG, Record

dag = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Dags = Annotated[Path, typer.Option("--dags", help="The folder of all runs of pipelines.")]
Run = Annotated[str, typer.Argument(help="A run, as in digits/1; of a name alone, its newest one; or its folder.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, as in executors.train.gpu=2.")]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop everything after the first failure.")]
HERE = Path("dags")


@dag.command()
def run(
    file: Annotated[Path, typer.Argument(help="The pipeline, a YAML file.")],
    overrides: Overrides = None,
    fail_fast: FailFast = False,
    dags: Dags = HERE,
) -> int:
    """Run a pipeline. The exit status is 1 when a task has failed."""
    return session.start(file, overrides or [], dags, fail_fast, _say)


@dag.command()
def resume(
    run: Run,
    overrides: Overrides = None,
    rerun: Annotated[
        list[str] | None, typer.Option("--rerun", help="A task to run anew, with what depends on it; or: changed.")
    ] = None,
    fail_fast: FailFast = False,
    dags: Dags = HERE,
) -> int:
    """Go on with a run: what has succeeded is kept, a training goes on from its last checkpoint."""
    return session.resume(run, overrides or [], dags, rerun or [], fail_fast, _say)


@dag.command("status")
def show_status(
    run: Annotated[str | None, typer.Argument(help="A run; default: all.")] = None, dags: Dags = HERE
) -> None:
    """Show the state, time, last metrics and run folder of every job of a run, or a line for each run."""
    print(status.overview(dags) if run is None else status.of(Record.find(dags, run)))


@dag.command()
def stop(run: Run, dags: Dags = HERE) -> int:
    """Stop a run: its driver, and every task with all its processes."""
    return session.stop(run, dags, _say)


@dag.command()
def logs(
    run: Run,
    task: Annotated[str, typer.Argument(help="A task, or one of its cells as in 'train[lr=0.1]'.")],
    dags: Dags = HERE,
) -> None:
    """Print what a task has printed."""
    record = Record.find(dags, run)
    jobs = record.plan()["jobs"]
    names = session.matching(task, jobs, [planned["task"] for planned in jobs.values()])
    for name in names:
        try:
            text = (record.job_folder(jobs[name]) / LOG).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            text = "" if len(names) > 1 else f"{name} has not run yet\n"
        head = f"--- {name}\n" if len(names) > 1 else ""
        print(printable(head + text, "\n\t\r"), end="")


@dag.command()
def graph(
    file: Annotated[Path, typer.Argument(help="The pipeline, a YAML file.")],
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A picture, .svg.")] = None,
) -> None:
    """Show the tasks of a pipeline and what each depends on; nothing is run."""
    found = dagfile.load(file, overrides or [])
    print(status.graph(found))
    if output is not None:
        if output.suffix != ".svg":
            raise ConfigError(f"the picture is {output}; an .svg is drawn, as in -o graph.svg.")
        output.write_text(page.graph_of(found), encoding="utf-8")


@dag.command("page")
def show_page(run: Run, dags: Dags = HERE) -> None:
    """Write the page of a run, an HTML file; while the run goes on, it keeps up with it."""
    print(page.write(Record.find(dags, run)))


def _say(text: str) -> None:
    try:
        print(printable(text, "\t"), flush=True)
    except (OSError, ValueError):  # a terminal that was closed ends no run
        sys.stdout = None  # type: ignore[assignment]
