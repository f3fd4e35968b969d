"""Seeded mutations of files: of their bytes, and of the data in them."""

import copy
import io
import json
import math
import zipfile

import torch

NUMBERS = [-1, 0, 1, 5, 2**31, 2**53 + 1, 2**70, -(2**70), math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 0.5]
TEXTS = ["", "x", "\x1b[2J", "../../x", "/etc/passwd", "a\nb", "\x00", "NaN", "$\\frac{$", "<b>", "1e5", "\ud800"]
ODD = [None, True, False, *NUMBERS, *TEXTS, [], {}, [[]], [None], {"a": 1}, {"": []}, [1, "a", None]]


def deep(levels=300):
    """Return lists in one another."""
    found = []
    for _ in range(levels):
        found = [found]
    return found


def odd_tensors():
    """Return tensors that nobody expects where one is read."""
    return [
        torch.zeros(0), torch.full((3,), math.nan), torch.zeros(1).expand(2**33), torch.empty(3, device="meta"),
        torch.tensor(7), torch.zeros(2, 2).to_sparse(), torch.zeros(5, 5, dtype=torch.complex64), torch.zeros(624),
        torch.zeros(625, dtype=torch.int64), torch.zeros(5056, dtype=torch.uint8), torch.ones(1, 3, dtype=torch.bool),
    ]  # fmt: skip


def of_bytes(chance, content):
    """Return bytes with some of them changed, lost, doubled or new."""
    found = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 5])):
        start = chance.randrange(len(found) + 1)
        end = min(len(found), start + chance.choice([1, 1, 4, 40, 400]))
        kind = chance.randrange(6)
        if kind == 0 and start < len(found):
            found[start] ^= 1 << chance.randrange(8)
        elif kind == 1:
            found[start:end] = bytes(chance.choices(range(256), k=end - start))
        elif kind == 2:
            del found[start:end]
        elif kind == 3:
            found[start:start] = found[start:end]
        elif kind == 4:
            found[start:end] = bytes([chance.choice([0, 255, 0x7F, 0x80])]) * (end - start)
        else:
            del found[start:]
    return bytes(found)


def of_archive(chance, content):
    """Return a zip archive in which the bytes of one entry are others; its checksums are right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = chance.choice([name for name in entries if name.endswith("data.pkl")] * 3 + list(entries))
    entries[name] = of_bytes(chance, entries[name])
    if chance.random() < 0.1:
        del entries[chance.choice(list(entries))]
    new = io.BytesIO()
    how = chance.choice([zipfile.ZIP_STORED] * 9 + [zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(new, "w", how) as archive:
        for name, part in entries.items():
            archive.writestr(name, part)
    return new.getvalue()


def places(value):
    """Return all places in dicts and lists: each as the holder and its key there."""
    found, waiting = [], [value]
    while waiting:
        holder = waiting.pop()
        keys = holder if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in list(keys):
            found.append((holder, key))
            waiting.append(holder[key])
    return found


def of_data(chance, value, odd=ODD):
    """Return a copy of data in which some places hold other things, or are not there."""
    found = copy.deepcopy(value)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        there = places(found)
        if not there:
            return copy.deepcopy(chance.choice(odd))
        holder, key = chance.choice(there)
        kind = chance.random()
        if kind < 0.7:
            holder[key] = deep() if kind < 0.01 else copy.deepcopy(chance.choice(odd))
        elif kind < 0.85:
            del holder[key]
        elif isinstance(holder, dict):
            holder[chance.choice([*TEXTS, 5, None, key])] = holder.pop(key)
        else:
            holder.insert(key, copy.deepcopy(holder[key]))
    return found


def of_json(chance, text):
    """Return text of JSON, damaged as data or as text."""
    if chance.random() < 0.4:
        return of_bytes(chance, text)
    lines = [json.loads(line) for line in text.splitlines()] if text.count(b"\n{") else [json.loads(text)]
    changed = of_data(chance, lines, [*ODD, 10**400])
    changed = changed if isinstance(changed, list) else [changed]
    try:
        return "\n".join(json.dumps(line) for line in changed).encode("utf-8", "surrogatepass") + b"\n"
    except (TypeError, ValueError):  # a key that is none in JSON; a number that is too long
        return of_bytes(chance, text)
