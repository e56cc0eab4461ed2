"""Bad recipes and bad results, in TOML and JSON."""

from pathlib import Path

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
    "kernels without end": lambda p: write_anew(p, _wider(p)),
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
