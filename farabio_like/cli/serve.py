"""``farabio-like serve``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigError
from ..packages import needs


def serve(
    target: Annotated[
        str | None, typer.Argument(help="A run folder, an exported file, file.py:Class, or serve.yml.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A file with these options; those given here win.")] = None,
    host: Annotated[str | None, typer.Option(help="Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Default: 8000; 0: any that is free.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes with a model each. Default: 1.")] = None,
    max_batch: Annotated[int | None, typer.Option(help="Items that are predicted together. Default: 8.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds that a batch waits to fill. Default: 0.02.")] = None,
    token: Annotated[str | None, typer.Option(help="Clients must know it.", envvar="FARABIO_LIKE_TOKEN")] = None,
    checkpoint: Annotated[str | None, typer.Option("--checkpoint", "-c", help="Of a run which weights.")] = None,
    time_limit: Annotated[float | None, typer.Option(help="Seconds of a batch, then its worker ends.")] = None,
    drain: Annotated[float | None, typer.Option(help="Seconds from SIGTERM until the port closes.")] = None,
    max_body: Annotated[int | None, typer.Option(help="Bytes of a request. Default: 32 MiB.")] = None,
    max_pixels: Annotated[int | None, typer.Option(help="Pixels of a picture. Default: 50 million.")] = None,
    max_waiting: Annotated[int | None, typer.Option(help="Items that may wait. Default: 1024.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Until a request is given up. Default: 60.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of torch in each worker.")] = None,
    queue: Annotated[str | None, typer.Option(help="Take messages too: amqp://user:password@host/")] = None,
    queue_name: Annotated[str | None, typer.Option(help="Default: predict.")] = None,
    prefetch: Annotated[int | None, typer.Option(help="Messages under way at once.")] = None,
    log: Annotated[Path | None, typer.Option(help="A SQLite file that gets a row for each request.")] = None,
    docker: Annotated[
        Path | None, typer.Option(help="Write Dockerfile and compose.yml there, and serve nothing.")
    ] = None,
) -> None:
    """Answer requests with a trained model, over HTTP and from a queue."""
    given = {name: value for name, value in locals().items() if value is not None}
    given = _with_file(given)
    text, checkpoint = given.pop("serve", None), given.pop("checkpoint", None)
    if text is None:
        raise ConfigError("there is nothing to serve. Write farabio-like serve runs/Digits/1")
    folder = given.pop("docker", None)
    if folder is None:
        _run(text, checkpoint, given)
        return
    from ..serving import docker as files

    for path in files.write(folder, text, checkpoint):
        print(f"wrote {path}")


def _with_file(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options over those of the file, with what is served as ``serve``."""
    target, file = given.pop("target", None), given.pop("config", None)
    if target is not None and Path(target).suffix in (".yml", ".yaml"):
        if file is not None:
            raise ConfigError(f"{target} and --config {file} are two files of options. Give one.")
        target, file = None, target
    values: dict[str, Any] = {}
    if file is not None:
        from ..serving import settings_file

        values = settings_file.read(file)
    return {**values, **given, **({} if target is None else {"serve": target})}


def _run(text: str, checkpoint: str | None, given: dict[str, Any]) -> None:
    needs("litserve", "farabio-like serve", extra="serve")
    if given.get("queue", "").startswith("amqp"):
        needs("faststream", "farabio-like serve --queue", extra="queue")
    from ..serving.handlers import SQLiteHandler
    from ..serving.pool import ServiceError, end_forkserver
    from ..serving.server import Server
    from ..serving.settings import ServeSettings
    from ..serving.sources import target_of

    log = given.pop("log", None)
    settings = ServeSettings(**given)
    server = Server(target_of(text, checkpoint), settings, [] if log is None else [SQLiteHandler(log)])
    try:
        server.run()
    except ServiceError as error:
        print(f"farabio-like serve: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    finally:
        end_forkserver()
