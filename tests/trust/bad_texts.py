"""Bad recipes and settings, results, events and ids, in TOML, JSON and plain text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trust.spoiling import Spoil, replaced, write_anew


def toml(text: str) -> Spoil:
    return lambda path: write_anew(path, (path.read_text() + text).encode())


SETTINGS: dict[str, Spoil] = {
    "unknown key": toml("[more]\na = 1\n"),
    "unknown key inside": toml('calibratoin = "min-max"\n'),
    "arrays without end": toml(f"a = {'[' * 100_000}"),
    "tables without end": toml(f"[{'a.' * 50_000}a]\n"),
    "dots without end": toml(f"{'a.' * 100_000}a = 1\n"),
    "more than settings are": toml("# " + "a" * 2**20),
    "no text": replaced(b"\xff\xfe\x00"),
    "huge number": toml(f"a = {'9' * 100_000}\n"),
    "huge number in base 16": toml(f"a = 0x{'f' * 100_000}\n"),
}
RECIPES: dict[str, Spoil] = {"kernels without end": lambda p: write_anew(p, _wider(p))}
TRAININGS: dict[str, Spoil] = {
    f"{key} as {value[:20]}": replaced(f"{table}\n{key} = {value}\n".encode())
    for table, key in (("", "epochs"), ("", "learning-rate"), ("[training]", "weight_decay"))
    for value in ("[1]", "{a = 1}", "true", "2020-01-01", '"x"', "nan", "-1", "1e999")
} | {
    "table as a number": replaced(b"training = 3\n"),
    "tables in a list": replaced(b"[[training]]\nmomentum = 0.5\n"),
    "list as a text": replaced(b'model-arg = "width=0.5"\n'),
    "list of lists": replaced(b'model-arg = [["width=0.5"]]\n'),
    "flag as a text": replaced(b'quiet = "yes"\n'),
    "another settings file": replaced(b'settings = "b.toml"\n'),
    "number beyond the largest": replaced(b"epochs = 9223372036854775808\n"),
}
EVENTS: dict[str, Spoil] = {
    "empty lines without end": replaced(b"\n" * 2**26),
    "short lines without end": replaced(b"ab\n" * 2**24),
    "values without end": replaced(b"1\n" * 2**24),
    "line without end": replaced(b"a" * 2**27),
    "lists without end": replaced(b"[" * 2**24),
    "other types": replaced(b'{"stage": [], "done": "x", "total": {}}\n'),
    "huge numbers": replaced(b'{"stage": "a", "done": 1e999, "total": ' + b"9" * 9999 + b"}\n"),
    "no text": replaced(b"\xff\xfe\x00\n"),
}
IDS: dict[str, Spoil] = {
    "path": replaced(b"../../etc"),
    "address": replaced(b"http://a/b?c"),
    "two lines": replaced(b"a1\nb2"),
    "no text": replaced(b"\xff\xfe\x00"),
    "long": replaced(b"a" * 2**26),
}
JSONS: dict[str, Spoil] = {
    "nested without end": replaced(b"[" * 1_000_000),
    "more than is parsed": replaced(b"[" + b"{}," * 5_000_000 + b"{}]"),
    "text without end": replaced(b'{"a": "' + b"a" * 2**26 + b'"}'),
    "huge number": replaced(b'{"a": ' + b"9" * 100_000 + b"}"),
    "no number": replaced(b'{"ratios": [NaN, 1.0], "accuracy": {"conv": [0.5, Infinity]}}'),
    "list": replaced(b"[1, 2]"),
    "no text": replaced(b"\xff\xfe\x00"),
}


def _wider(path: Path) -> bytes:
    return path.read_text().replace("[weak]", "width = 1e300\n[weak]").encode()


WRONG: tuple[Any, ...] = (None, True, "x", -1, 2**70, 1e308, float("nan"), [], {}, [[None]])


def wrong_values(value: Any) -> Iterator[Any]:
    """Yield JSON values like this one, each with a part that is missing or of another kind."""
    yield from WRONG
    keys: list[Any] = list(value) if isinstance(value, dict) else []
    keys = list(range(len(value))) if isinstance(value, list) else keys
    for key in keys:
        for changed in wrong_values(value[key]):
            copied = json.loads(json.dumps(value))
            copied[key] = changed
            yield copied
        copied = json.loads(json.dumps(value))
        del copied[key]
        yield copied
