"""Files from which containers are built and run: a Dockerfile, compose.yml, and .env with fresh secrets."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from ..errors import ConfigError
from ..version import __version__
from .sources import ClassTarget, target_of

_DOCKERFILE = """\
# docker compose up --build
FROM python:3.12-slim

RUN pip install --no-cache-dir "farabio-like[serve,queue,export]=={version}" \\
    && useradd --uid 10001 --create-home serve

WORKDIR /home/serve
USER serve
EXPOSE 8000

HEALTHCHECK --interval=10s --start-period=120s \\
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready')"]

ENTRYPOINT ["farabio-like", "serve", "--host", "0.0.0.0", "--port", "8000", "--drain", "2"]
"""

# Strings are written as JSON, which YAML contains.
_COMPOSE = """\
# queue: RabbitMQ.  service: answers messages of the queue.  web: answers requests at port 8000.
# The secrets are in .env beside this file.
services:
  queue:
    image: rabbitmq:4-alpine
    environment:
      RABBITMQ_DEFAULT_USER: farabio
      RABBITMQ_DEFAULT_PASS: ${{QUEUE_PASSWORD:?}}
    healthcheck:
      test: ["CMD", "rabbitmq-diagnostics", "-q", "ping"]
      interval: 5s
      timeout: 10s
      retries: 20
    restart: unless-stopped

  service:
    build: .
    command: [{target}, "--queue", "amqp://farabio:${{QUEUE_PASSWORD:?}}@queue:5672/"]
    depends_on:
      queue:
        condition: service_healthy
    volumes:
      - {volume}
    stop_grace_period: 90s
    restart: unless-stopped

  web:
    build: .
    command: [{target}]
    environment:
      FARABIO_LIKE_TOKEN: ${{TOKEN:?}}
    ports:
      - "${{PORT:-8000}}:8000"
    volumes:
      - {volume}
    stop_grace_period: 90s
    restart: unless-stopped
"""


def write(folder: str | Path, text: str, checkpoint: str | None = None) -> list[Path]:
    """Write the files, and return their paths.

    Parameters
    ----------
    folder : path
        Made where it is not there.
    text : str
        What is served, as for `sources.target_of`; containers see it read-only, they hold no copy.
    checkpoint : str, optional

    Raises
    ------
    ConfigError
        Where one of the files is there already, or nothing can be served.
    """
    target = target_of(text, checkpoint)
    if isinstance(target, ClassTarget):
        source, inside = target.folder, f"/model/{target.text}"
        if ".py:" not in target.text:
            raise ConfigError(f"{text} is in a module; containers are given a file. Write file.py:Class.")
    else:
        source = Path(text).expanduser().resolve()
        inside = "/model" if source.is_dir() else f"/model/{source.name}"
        source = source if source.is_dir() else source.parent
    words = [inside] if checkpoint is None else [inside, "--checkpoint", checkpoint]
    arguments = ", ".join(json.dumps(word.replace("$", "$$")) for word in words)
    volume = json.dumps(f"{source}:/model:ro".replace("$", "$$"))
    contents = {
        "Dockerfile": _DOCKERFILE.format(version=__version__),
        "compose.yml": _COMPOSE.format(target=arguments, volume=volume),
        ".env": f"QUEUE_PASSWORD={secrets.token_hex(16)}\nTOKEN={secrets.token_hex(16)}\n",
    }
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    for name in contents:
        if (folder / name).exists():
            raise ConfigError(f"{folder / name} is there already. Remove it, or choose another folder.")
    for name, content in contents.items():
        # The secrets are for their owner alone.
        mode = 0o600 if name == ".env" else 0o666
        with open(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(content)
    return [folder / name for name in contents]
