"""Secrets in what a user configures: which values they are, and the same data without them.

A run works with the real ones; whatever is written or shown goes through here first. A secret is told by its name, as
in ``api_token`` or ``--password``, or by its place in an address. Nothing is read or written here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

MASKED = "<masked-secret>"
SHORTEST_KNOWN = 8  # characters of a secret that is looked for in other texts, too

_ALWAYS = {
    *("password", "passwd", "passphrase", "passcode", "pwd", "psw", "pw", "secret", "credential", "authorization"),
    *("bearer", "cookie", "jwt", "webhook"),
}
_KEYS = {  # before "key"
    *("api", "access", "secret", "private", "auth", "account", "signing", "encryption", "ssh", "license", "service"),
    *("subscription", "master", "client", "deploy", "session", "shared", "storage", "wandb", "comet", "neptune"),
    *("mlflow", "openai", "anthropic", "aws", "azure", "gcp", "hf", "huggingface", "github", "gitlab", "visdom"),
}
_PASS = {  # before "pass"
    *("user", "db", "database", "sql", "mysql", "postgres", "redis", "mongo", "smtp", "mail", "email", "ftp", "http"),
    *("proxy", "admin", "root", "ssh", "login", "key"),
}
_OF_TEXT = {  # beside "token": one of a text, of an image or of a count
    *("pad", "padding", "bos", "eos", "unk", "unknown", "mask", "masked", "sep", "cls", "class", "special", "start"),
    *("end", "stop", "begin", "image", "img", "patch", "audio", "video", "text", "visual", "register", "blank", "next"),
    *("last", "first", "prev", "previous", "current", "num", "number", "n", "max", "min", "count", "total", "per"),
    *("type", "level", "embedding", "embed", "embedder", "dim", "size", "length", "len", "vocab", "id", "ids", "index"),
    *("mixer", "mixing", "merge", "merging", "pruning", "drop", "dropout", "loss", "accuracy", "weight", "prefix"),
    *("prompt", "decoder", "encoder", "input", "output", "target", "label", "context", "sequence", "sub", "word"),
    *("learnable", "global", "query", "latent", "classifier", "pool", "pooling", "distillation", "dist"),
}
_NOUNS = ("password", "passwd", "passphrase", "credential", "secret", "token", "cookie", "key", "webhook")
_IN_A_QUERY = {"key", "sig", "signature", "code", "auth"}

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_NAME = re.compile(r"(?<![A-Za-z0-9_])([A-Za-z_][\w.-]{0,99})([\"']?\s{0,9}[=:]\s{0,9})")
_VALUE = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[^\s&;,#'\"<>)\]}]+")
_HEADER = re.compile(r"[^\n\r'\"<]+")
_SCHEME = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}")
_USER_IN_URL = re.compile(
    r"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]{0,30}://)"
    r"(?:[^\s/?#'\"<>]{1,500}@|[^\s/:@'\"<>]{0,200}:(?!\d{1,5}(?:[/?#]|$))[^\s'\"<>]{1,500}@)"
)
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
_PLAIN_WORDS = {"", "true", "false", "none", "null", "~", "{}", "[]"}

_NO, _TEXT, _ANY = 0, 1, 2  # which values of a name are secrets


def _words(name: str) -> list[tuple[str, bool]]:
    """Return the words of a name in lower case and in the singular, and whether each was in the plural."""
    found = []
    for word in _WORD.findall(name):
        word = word.lower()
        noun = next((noun for noun in _NOUNS if word.endswith((noun, f"{noun}s"))), None)
        if noun is None:
            found.append((word, False))
            continue
        before, _, after = word.rpartition(noun)
        found += [(before, False)] if before else []
        found.append((noun, after == "s"))
    return found


@functools.lru_cache(maxsize=4096)  # of every checkpoint the names are the same
def _kind(name: str) -> int:
    """Return which values of a name are secrets: none, those that are text, or numbers too."""
    pairs = _words(name)
    words = [word for word, _ in pairs]
    kind = _NO
    for place, (word, plural) in enumerate(pairs):
        before = words[place - 1] if place else ""
        last = place == len(pairs) - 1
        if word == "token":
            found = not _OF_TEXT.intersection(words[:place] + words[place + 1 :])
            last = last and not plural  # a number of tokens
        elif word == "auth":
            found = last
        else:
            found = (
                word in _ALWAYS or (word == "key" and before in _KEYS) or (word == "pass" and before in _PASS and last)
            )
        if found:
            kind = max(kind, _ANY if last else _TEXT)
    return kind


def _is_secret(value: Any, kind: int) -> bool:
    """Return whether a single value is a secret under a name of a kind."""
    if kind == _NO or value is None or isinstance(value, bool):
        return False
    if isinstance(value, (int, float, complex)):
        return kind == _ANY
    return not (isinstance(value, (str, bytes)) and not value)


def _is_secret_text(text: str, kind: int) -> bool:
    """Return whether a value that was written as text is a secret under a name of a kind."""
    if kind == _NO or text.strip("'\"").lower() in _PLAIN_WORDS or text == MASKED:
        return False
    return kind == _ANY or _NUMBER.fullmatch(text) is None


class Secrets:
    """The secrets of a run: masks data and texts in which they may be.

    Parameters
    ----------
    *sources : mapping
        Configurations and settings. What is a secret in them by its name is one in every other text too.
    arguments : sequence of str
        Of the command line.
    """

    def __init__(self, *sources: Mapping[str, Any], arguments: Sequence[str] = ()) -> None:
        found = {text for source in sources for text in _texts(source, _NO)}
        found |= {value for value, secret in _parted(arguments) if secret}
        self._known = sorted((text for text in found if len(text) >= SHORTEST_KNOWN), key=len, reverse=True)

    def text(self, text: str) -> str:
        """Return a text without the secrets in it: in addresses, behind names, and those that are known."""
        for known in self._known:
            text = text.replace(known, MASKED)
        if ":" not in text and "=" not in text:
            return text
        text = _USER_IN_URL.sub(rf"\g<1>{MASKED}@", text) if "://" in text else text
        return _SCHEME.sub(rf"\1 {MASKED}", _without_pairs(text))

    def values(self, value: Any, _kind_above: int = _NO) -> Any:
        """Return data without the secrets in it; containers are copied, other objects with a secret become text."""
        if isinstance(value, Mapping):
            return {key: self.values(part, max(_kind_above, _kind(str(key)))) for key, part in value.items()}
        if type(value) in (list, tuple, set, frozenset):
            return type(value)(self.values(part, _kind_above) for part in value)
        if _is_secret(value, _kind_above):
            return MASKED
        if isinstance(value, str):
            masked = self.text(value)
            return value if masked == value else masked
        if value is None or isinstance(value, (bool, int, float, complex, bytes)) or hasattr(value, "shape"):
            return value
        shown = repr(value)
        masked = self.text(shown)
        return value if masked == shown else masked

    def arguments(self, arguments: Iterable[str]) -> list[str]:
        """Return the words of a command line without secrets: ``--api-key X`` and ``--api-key=X`` alike."""
        masked = []
        for word, secret in _parted(arguments, whole=True):
            masked.append(MASKED if secret else self.text(word) if isinstance(word, str) else str(word))
        return masked

    def leaves(self, values: Mapping[str, str]) -> dict[str, str]:
        """Return values that were written as text, by dotted paths, without secrets."""
        return {
            path: MASKED if _is_secret_text(value, max(map(_kind, path.split(".")))) else self.text(value)
            for path, value in values.items()
        }


def _without_pairs(text: str) -> str:
    """Return a text in which the values behind names of secrets are masked: ``token=x``, ``"password": "x"``."""
    parts, done = [], 0
    for match in _NAME.finditer(text):
        if match.start() < done:
            continue
        name, between = match.groups()
        in_a_query = match.start() > 0 and text[match.start() - 1] in "?&"
        kind = _ANY if in_a_query and re.split("[-_.]", name.lower())[-1] in _IN_A_QUERY else _kind(name)
        if kind == _NO:
            continue
        words = name.lower()
        is_header = ":" in between and ("authorization" in words or "cookie" in words)
        value = (_HEADER if is_header else _VALUE).match(text, match.end()) or _VALUE.match(text, match.end())
        if value is None or not _is_secret_text(value.group(), kind):
            continue
        quote = value.group()[0] if value.group()[0] in "'\"" else ""
        parts += [text[done : match.end()], quote, MASKED, quote]
        done = value.end()
    return "".join([*parts, text[done:]])


def _texts(value: Any, kind: int) -> Iterator[str]:
    """Yield the texts that are secrets by their names."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _texts(part, max(kind, _kind(str(key))))
    elif type(value) in (list, tuple, set, frozenset):
        for part in value:
            yield from _texts(part, kind)
    elif isinstance(value, str) and _is_secret(value, kind):
        yield value


def _parted(arguments: Iterable[str], whole: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield the words of a command line, or the values in them, and whether each is a secret.

    Parameters
    ----------
    arguments : iterable of str
    whole : bool
        Yield ``--name=<masked-secret>`` for a word with a secret in it, not the secret.
    """
    expected, several = _NO, False
    for word in arguments:
        name, equals, value = word.partition("=")
        is_flag = word.startswith("--") or (word.startswith("-") and len(word) == 2)
        if expected != _NO and not is_flag:
            yield word, _is_secret_text(word, expected)
            expected = expected if several else _NO
            continue
        expected = _NO
        kind = _kind(name) if len(name) < 200 and not any(sign in name for sign in " :/\n") else _NO
        if equals and kind != _NO and _is_secret_text(value, kind):
            yield (f"{name}={MASKED}", False) if whole else (value, True)
            continue
        if word.startswith("-") and not equals:
            expected, pairs = kind, _words(word)
            several = bool(pairs) and (pairs[-1][1] or pairs[-1][0] in ("auth", "credential"))
        yield word, False


# ---------------------------------------------------------------- in a state


def masked_state(value: Any, secrets: Secrets, name: str = "") -> Any:
    """Return the state of a part of a run without the texts in it that are secrets; `restored` puts them back.

    Numbers stay: a run that goes on needs them.
    """
    return _masked_state(value, secrets, min(_kind(name), _TEXT))


def _masked_state(value: Any, secrets: Secrets, kind: int) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _masked_state(part, secrets, max(kind, min(_kind(key), _TEXT) if isinstance(key, str) else _NO))
            for key, part in value.items()
        }
    if type(value) in (list, tuple):
        return type(value)(_masked_state(part, secrets, kind) for part in value)
    if isinstance(value, (str, bytes)):
        if _is_secret(value, kind):
            return MASKED
        return secrets.text(value) if isinstance(value, str) else value
    return value


def is_masked(value: Any) -> bool:
    """Return whether a secret was taken out of a state."""
    if isinstance(value, Mapping):
        return any(map(is_masked, value.values()))
    if type(value) in (list, tuple):
        return any(map(is_masked, value))
    return isinstance(value, str) and MASKED in value


def restored(value: Any, now: Any) -> Any:
    """Return a state with the secrets that it has now, at the same places, in the place of those taken out."""
    if not is_masked(value):
        return value
    if isinstance(value, Mapping):
        there = now if isinstance(now, Mapping) else {}
        return {key: restored(part, there.get(key)) for key, part in value.items()}
    if type(value) in (list, tuple):
        parts = list(now) if isinstance(now, (list, tuple)) else []
        parts += [None] * (len(value) - len(parts))
        return type(value)(restored(part, own) for part, own in zip(value, parts, strict=False))
    return now
