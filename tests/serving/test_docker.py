"""The files for containers: what is in them, and that compose.yml is what Compose reads."""

import re
import stat

import pytest
import yaml

from farabio_like.errors import ConfigError
from farabio_like.serving import docker

# A part of Compose's schema: what our file may have. Each is a key with the type of its value.
SERVICE = {
    "image": str,
    "build": str,
    "command": list,
    "environment": dict,
    "depends_on": dict,
    "volumes": list,
    "ports": list,
    "healthcheck": dict,
    "stop_grace_period": str,
    "restart": str,
}


def checked(path):
    document = yaml.safe_load(path.read_text())
    assert set(document) == {"services"}
    for service in document["services"].values():
        assert set(service) <= set(SERVICE), set(service) - set(SERVICE)
        assert all(isinstance(value, SERVICE[name]) for name, value in service.items())
        assert ("image" in service) != ("build" in service)
        assert all(isinstance(word, str) for name in ("command", "volumes", "ports") for word in service.get(name, []))
        assert all(each in document["services"] for each in service.get("depends_on", {}))
        assert all(isinstance(value, str) for value in service.get("environment", {}).values())
    return document["services"]


def test_the_folder_of_a_run(tmp_path):
    run = tmp_path / "a run: 1"
    run.mkdir()
    written = docker.write(tmp_path / "deploy", str(run), "best")
    assert [path.name for path in written] == ["Dockerfile", "compose.yml", ".env"]
    services = checked(written[1])
    assert services["web"]["command"] == ["/model", "--checkpoint", "best"]
    assert services["service"]["command"][-1] == "amqp://farabio:${QUEUE_PASSWORD:?}@queue:5672/"
    assert services["web"]["volumes"] == [f"{run}:/model:ro"]
    variables = dict(line.split("=") for line in written[2].read_text().splitlines())
    used = set(re.findall(r"\$\{(\w+)", written[1].read_text()))
    assert used == {*variables, "PORT"} and len(set(variables.values())) == 2
    assert stat.S_IMODE(written[2].stat().st_mode) == 0o600
    instructions = [line.split()[0] for line in written[0].read_text().splitlines() if re.match("[A-Z]", line)]
    assert instructions == ["FROM", "RUN", "WORKDIR", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT"]


def test_a_class_and_a_file(tmp_path):
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "traced.onnx").write_text("")
    services = checked(docker.write(tmp_path / "a", f"{tmp_path}/mine.py:Mine")[1])
    assert services["web"]["command"] == ["/model/mine.py:Mine"]
    services = checked(docker.write(tmp_path / "b", f"{tmp_path}/traced.onnx")[1])
    assert services["web"]["command"] == ["/model/traced.onnx"]
    assert services["web"]["volumes"] == [f"{tmp_path}:/model:ro"]


def test_nothing_is_written_over(tmp_path):
    (tmp_path / ".env").write_text("mine")
    with pytest.raises(ConfigError, match=r"\.env is there already"):
        docker.write(tmp_path, str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".env"]
    with pytest.raises(ConfigError, match="there is no runs/7"):
        docker.write(tmp_path, "runs/7")
