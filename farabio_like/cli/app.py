"""From a command line to the call of a command, by typer; errors of the caller end in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer

from ..errors import FarabioError, closest, printable
from ..version import __version__
from .main import COMMANDS

NAME = "farabio-like"
_UsageError: Any = typer.BadParameter.__base__
_ClickError: Any = _UsageError.__base__  # of click, or of the copy of it in typer: the same for both


def run(arguments: list[str]) -> int:
    """Run a command line, and return the exit status."""
    try:
        code = make_app(arguments)(args=arguments, prog_name=NAME, standalone_mode=False)
    except _ClickError as error:
        return _told(_misuse(error, arguments))
    except (FarabioError, OSError) as error:
        return _told(_one_line(error))
    except (KeyboardInterrupt, typer.Abort):
        return 130
    return code if isinstance(code, int) else 0


def make_app(arguments: list[str]) -> typer.Typer:
    """Return the app; of its commands only the one that the arguments ask for is imported."""
    app = typer.Typer(
        name=NAME,
        help="Train, test and look at runs of farabio_like. Each command has a --help of its own.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=f"Example: {next(iter(COMMANDS.values())).example}",
    )
    app.callback()(_group)
    # The shell asks for completions with the words of the line so far: bash in the first, others in the second.
    words = [*arguments, *(word for name in ("COMP_WORDS", "_TYPER_COMPLETE_ARGS") for word in _words(name))]
    asked = next((word for word in words if word in COMMANDS), None)
    for name, command in COMMANDS.items():
        function = _function(name) if name == asked else _stub(command.help)
        texts: dict[str, Any] = {"short_help": command.help, "epilog": f"Example: {command.example}"}
        if isinstance(function, typer.Typer):  # commands of its own
            app.add_typer(function, name=name, help=command.help, **texts)
        else:
            app.command(name, **texts)(function)
    return app


def _words(variable: str) -> list[str]:
    return os.environ.get(variable, "").split()


def _print_version(asked: bool) -> None:
    if asked:
        print(f"{NAME} {__version__}")
        raise typer.Exit


def _group(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Take the options that stand before the name of a command."""


def _function(name: str) -> Any:
    return getattr(import_module(f".{name}", __package__), name)


def _stub(text: str) -> Callable[[], None]:
    def command() -> None:
        pass

    command.__doc__ = text
    return command


def _misuse(error: Any, arguments: list[str]) -> str:
    """Return what is wrong with a command line, and where its use is told."""
    text = str(error.format_message())
    context = getattr(error, "ctx", None)
    if not arguments:
        return text  # the help
    where = context.command_path if context is not None else NAME
    if where == NAME and arguments[0] not in COMMANDS and not arguments[0].startswith("-"):
        text = f"there is no command {arguments[0]!r}.{closest(arguments[0], COMMANDS, cutoff=0.5)}"
    return f"{where}: {text.rstrip('.?')}{'?' if text.endswith('?') else '.'} See {where} --help."


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{NAME}: {error.filename}: {error.strerror or error}"
    return f"{NAME}: {error}"


def _told(text: str) -> int:
    print(printable(text, "\n\t"), file=sys.stderr)
    return 2
