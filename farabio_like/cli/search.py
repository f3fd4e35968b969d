"""``farabio-like search``: run, status, best, pictures, page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import printable
from ..packages import needs


class _RunByDefault(TyperGroup):
    """What is no command is the file of a search that is to run."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


METAVAR = "CONFIG [KEY=VALUE]... | COMMAND [ARGS]..."
search = typer.Typer(cls=_RunByDefault, no_args_is_help=True, rich_markup_mode=None, subcommand_metavar=METAVAR)

Searches = Annotated[Path, typer.Option("--searches", help="The folder of all searches.")]
Storage = Annotated[
    str | None, typer.Option("--storage", help="sqlite:///..., postgresql://...; default: a file in its folder.")
]
Name = Annotated[str, typer.Argument(help="Name of the search.")]
HERE = Path("searches")


@search.command()
def run(
    what: Annotated[
        list[str], typer.Argument(metavar="CONFIG [KEY=VALUE]...", help="A configuration, and changes to it.")
    ],
    grid: Annotated[
        list[str] | None, typer.Option("--grid", help="A row of a grid, as in config.lr=0.1,0.01 or config.depth=1-3.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Number of trials, drawn from the ranges in CONFIG.")] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="What is searched for, as in accuracy, or speed=max.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Of each trial; raised later, all are trained on.")] = None,
    sampler: Annotated[str, typer.Option(help="tpe, random or cmaes.")] = "tpe",
    pruner: Annotated[str | None, typer.Option(help="median or hyperband: ends bad trials early.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sampler.")] = None,
    workers: Annotated[int, typer.Option(help="Trials at the same time, a process each.")] = 1,
    storage: Storage = None,
    name: Annotated[str | None, typer.Option(help="Of the search; default: that of CONFIG.")] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="A module that the configuration may import from; may be given again.")
    ] = None,
    searches: Searches = HERE,
) -> int:
    """Try values of a configuration, and say which are best. The exit status is 1 when a trial has failed.

    A search that was stopped or killed goes on by the same line; one that is complete evaluates nothing.
    """
    _needs_optuna()
    from ..pipelines import search as session

    return session.run(
        session.Asked(
            file=Path(what[0]),
            overrides=what[1:],
            grid=grid or [],
            trials=trials,
            metrics=metric or [],
            epochs=epochs,
            sampler=sampler,
            pruner=pruner,
            seed=seed,
            workers=workers,
            storage=storage,
            name=name,
            searches=searches,
            allow=allow or [],
        ),
        _say,
    )


@search.command()
def status(
    name: Annotated[str | None, typer.Argument(help="Name of the search; default: a line for each.")] = None,
    storage: Storage = None,
    searches: Searches = HERE,
) -> None:
    """Show the trials of a search: state, values, results."""
    _needs_optuna()
    from ..pipelines import found

    _say(found.overview(searches) if name is None else found.status(searches, name, storage))


@search.command()
def best(
    name: Name,
    write: Annotated[Path | None, typer.Option(help="A file for the configuration of the best trial.")] = None,
    storage: Storage = None,
    searches: Searches = HERE,
) -> None:
    """Print the best trial; of several objectives those that no other beats in all."""
    _needs_optuna()
    from ..pipelines import found

    _say(found.best(searches, name, storage, write))


@search.command()
def pictures(name: Name, storage: Storage = None, searches: Searches = HERE) -> None:
    """Draw how the best value has come, and how much each value matters."""
    _needs_optuna()
    needs("matplotlib", "farabio-like search pictures")
    from ..pipelines import found

    for path in found.pictures(searches, name, storage):
        _say(str(path))


@search.command()
def page(
    name: Name,
    host: Annotated[str, typer.Option(help="Who may look: 127.0.0.1 is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    storage: Storage = None,
    searches: Searches = HERE,
) -> None:
    """Show the studies of a storage in a browser, by optuna-dashboard, until Ctrl-C."""
    _needs_optuna()
    needs("optuna_dashboard", "farabio-like search page", extra="ui")
    from ..pipelines import found

    opened = found.storage_of(searches, name, storage)
    import optuna_dashboard

    _say(f"http://{host}:{port}/dashboard")
    optuna_dashboard.run_server(opened, host=host, port=port)


def _needs_optuna() -> None:
    needs("optuna", "farabio-like search", extra="search")


def _say(text: str) -> None:
    try:
        print(printable(text, "\n\t"), flush=True)
    except (OSError, ValueError):  # a terminal that was closed ends no search
        sys.stdout = None  # type: ignore[assignment]
