"""Settings of a service in a file, with variables of the environment."""

import pytest

from farabio_like.errors import ConfigError
from farabio_like.serving import settings_file


def read(tmp_path, text):
    file = tmp_path / "serve.yml"
    file.write_text(text, encoding="utf-8")
    return settings_file.read(file)


def test_values_become_what_the_settings_are(tmp_path, monkeypatch):
    monkeypatch.setenv("PORT", "8123")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("TOKEN", raising=False)
    text = """
        serve: runs/${RUN:-Digits/1}
        port: ${PORT:-8000}
        workers: ${WORKERS:-2}
        timeout: 1e-2
        token: ${TOKEN:-0123}
        device: ${EMPTY:-cpu}
        time_limit: ${LIMIT:-}
        drain: 5
    """
    assert read(tmp_path, text) == {
        "serve": "runs/Digits/1",
        "port": 8123,
        "workers": 2,
        "timeout": 0.01,
        "token": "0123",
        "device": "cpu",
        "drain": 5.0,
    }
    assert read(tmp_path, "") == {}


@pytest.mark.parametrize(
    "text, said",
    [
        ("port: 80\nprot: 80\n", r"serve\.yml:2: there is no setting 'prot'\. Did you mean 'port'\?"),
        ("token: ${NOT_SET_ANYWHERE}\n", r"serve\.yml:1: the variable NOT_SET_ANYWHERE is not set"),
        ("port: eight\n", r"serve\.yml:1: port is 'eight'; expected a whole number"),
        ("port: 80.5\nworkers: 1.5", r"serve\.yml:1: port is 80\.5; expected a whole number"),
        ("workers: true\n", r"serve\.yml:1: workers is True"),
        ("port: 1\nport: 2\n", r"serve\.yml: .*"),
        ("- 1\n", "holds no keys"),
        ("port: [1]\n", r"port is \[1\]; expected a whole number"),
        ("token: [1]\n", r"token is \[1\]; expected text"),
        ("\tport: 1\n", r"serve\.yml: "),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        read(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        settings_file.read(tmp_path / "none.yml")
