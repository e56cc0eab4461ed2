"""Bad files made by hand, and a program that reads them all with little memory and time.

``python -m trust.corpus FOLDER [quick]`` prints one JSON line per case: what became of it and the
processor seconds it took. No case may take more than ``MOST_MEMORY`` beyond what the program had
before.
"""

import io
import json
import os
import pickle
import resource
import shutil
import signal
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cnnsplitter.errors import CnnSplitterError
from trust.loaders import LOADERS, fresh

MOST_MEMORY = 500 * 2**20
MOST_SECONDS = 2.0
MARKER = "poisoned"
Spoil = Callable[[Path], None]
"""Makes the good file at the path a bad one."""

SAFE = tuple(n for n in LOADERS if LOADERS[n].name in ("a", "a.safetensors", "model.safetensors"))
QUICK = {"classifier", "training checkpoint", "weights", "npz", "png", "recipe", "run folder"} | {
    *("pickled weights", "old pickled weights")
}


class Poison:
    """Unpickling it makes a folder beside the bad one."""

    def __init__(self, path: Path) -> None:
        self.marker = path.with_name(MARKER)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def replaced(content: bytes) -> Spoil:
    return lambda path: _write(path, content)


def _write(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def link_to(target: str) -> Spoil:
    def spoil(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return spoil


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def raw_pickle(path: Path) -> None:
    _write(path, pickle.dumps(Poison(path)))


EVERYWHERE: dict[str, Spoil] = {
    "empty": replaced(b""),
    "device without end": link_to("/dev/zero"),
    "device with nothing": link_to("/dev/null"),
    "link to itself": lambda path: link_to(path.name)(path),
    "link to nowhere": link_to("nowhere"),
    "pipe": pipe,
    "folder": folder,
    "raw pickle": raw_pickle,
    "poisoned torch pickle": lambda path: torch.save(Poison(path), path),
}


def header(text: Callable[[dict[str, Any]], str | bytes]) -> Spoil:
    """Write the header of a safetensors file anew."""

    def spoil(path: Path) -> None:
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        made = text(json.loads(content[8 : 8 + size]))
        raw = made.encode() if isinstance(made, str) else made
        _write(path, struct.pack("<Q", len(raw)) + raw + content[8 + size :])

    return spoil


def first_tensor(change: Callable[[dict[str, Any]], None]) -> Spoil:
    """Change what the header says of a tensor that has values."""

    def text(head: dict[str, Any]) -> str:
        sized = (v for k, v in head.items() if k != "__metadata__" and v["shape"])
        change(next(sized))
        return json.dumps(head)

    return header(text)


def manifest(change: Callable[[Any], Any]) -> Spoil:
    def text(head: dict[str, Any]) -> str:
        found = json.loads(head["__metadata__"]["cnnsplitter"])
        head["__metadata__"]["cnnsplitter"] = json.dumps(change(found))
        return json.dumps(head)

    return header(text)


def _layers(count: int) -> Callable[[dict[str, Any]], str]:
    return lambda head: f"{json.dumps(head)[:-1]},{_empty_layers(count)}}}"


@cache
def _empty_layers(count: int) -> str:
    return ",".join(
        f'"l{number}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for number in range(count)
    )


def _doubled(head: dict[str, Any]) -> str:
    name, facts = next((k, v) for k, v in head.items() if k != "__metadata__")
    return f"{json.dumps(head)[:-1]},{json.dumps(name)}:{json.dumps(facts)}}}"


SAFETENSORS: dict[str, Spoil] = {
    "header of 2^40 bytes": lambda p: _write(p, struct.pack("<Q", 2**40) + p.read_bytes()[8:]),
    "header of 2^64 - 1 bytes": lambda p: _write(p, b"\xff" * 8 + p.read_bytes()[8:]),
    "header that is no JSON": header(lambda head: "{" * 1000),
    "header nested without end": header(lambda head: '{"a":' * 200_000),
    "a million layers": header(_layers(1_000_000)),
    "many layers": header(_layers(38_000)),
    "tensor named twice": header(_doubled),
    "negative offsets": first_tensor(lambda t: t.update(data_offsets=[-4, 0])),
    "offsets beyond the end": first_tensor(lambda t: t.update(data_offsets=[0, 2**50])),
    "negative shape": first_tensor(lambda t: t.update(shape=[-1])),
    "shape of 2^62": first_tensor(lambda t: t.update(shape=[2**62])),
    "shape that overflows": first_tensor(lambda t: t.update(shape=[2**33, 2**33])),
    "a million axes": first_tensor(lambda t: t.update(shape=[1] * 1_000_000)),
    "unknown type": first_tensor(lambda t: t.update(dtype="F7")),
    "wrong type": first_tensor(lambda t: t.update(dtype="I8", shape=[_bytes(t)])),
    "tensor of ../": header(lambda head: json.dumps({**head, "../../a": _nothing()})),
    "tensor of /": header(lambda head: json.dumps({**head, "/etc/a": _nothing()})),
}
MANIFESTS: dict[str, Spoil] = {
    "manifest is a list": manifest(lambda m: [m]),
    "newer format": manifest(lambda m: m | {"format": 2}),
    "other kind": manifest(lambda m: m | {"kind": "../../a"}),
    "unknown key": manifest(lambda m: m | {"code": "__import__('os')"}),
    "more than it can hold": manifest(lambda m: m | {"details": [{}] * 1_400_000}),
    "more than is parsed": manifest(lambda m: m | {"details": [{}] * 2_000_000}),
    "nothing but a format": manifest(lambda m: {"format": m["format"], "kind": m.get("kind")}),
}
MODELS = ("classifier", "class module", "subtask", "composed", "patched", "hub folder")


def _bytes(facts: dict[str, Any]) -> int:
    start, stop = facts["data_offsets"]
    return int(stop - start)


def _nothing() -> dict[str, Any]:
    return {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def _net(change: Callable[[dict[str, Any]], None]) -> Spoil:
    """Change the part of a manifest that tells how to build a network."""

    def changed(found: dict[str, Any]) -> dict[str, Any]:
        change(found["net"])
        return found

    return manifest(changed)


def _architecture(name: str, **arguments: Any) -> Spoil:
    return _net(lambda net: net.update(architecture={"name": name, "arguments": arguments}))


NETWORKS: dict[str, Spoil] = {
    "network of a path": _architecture("../../a", classes=3),
    "network of a module": _architecture("os:system", command=f"touch {MARKER}"),
    "huge network": _architecture("lenet5", classes=3, channels=3, width=4.0, image_size=512),
    "huge network of a library": _architecture("torchvision:vgg19", classes=3, channels=3),
    "huge images": _net(lambda net: net.update(input_shape=[3, 65_536, 65_536])),
    "large images": _net(lambda net: net.update(input_shape=[3, 4096, 4096])),
    "network that fetches": _architecture("timm:resnet18", classes=3, pretrained=True),
}


def npz(**changes: Any) -> Spoil:
    def spoil(path: Path) -> None:
        with np.load(path) as found:
            arrays = {name: found[name] for name in found.files}
        np.savez(path, **arrays | changes)

    return spoil


def member(
    name: str, content: bytes, *, times: int = 1, method: int = zipfile.ZIP_DEFLATED
) -> Spoil:
    """Replace a member by ``content`` over and over again."""

    def spoil(path: Path) -> None:
        with zipfile.ZipFile(path) as old:
            kept = {n: old.read(n) for n in old.namelist() if n != name}
        with zipfile.ZipFile(path, "w", method, compresslevel=1) as new:
            for n, value in kept.items():
                new.writestr(n, value)
            with new.open(name, "w", force_zip64=True) as file:
                for _ in range(times):
                    file.write(content)

    return spoil


def _npy(shape: tuple[int, ...], descr: str = "|u1", data: bytes = b"") -> bytes:
    file = io.BytesIO()
    facts = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, facts)
    return file.getvalue() + data


def bomb(path: Path) -> None:
    """A gigabyte of zeros in a megabyte."""
    head, size = _npy((2**20, 32, 32)), 2**20
    spoil = member("x_train.npy", bytes(size), times=1024)
    spoil(path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("more.npy", head)


def many_members(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as file:
        for number in range(30_000):
            file.writestr(f"{number}", b"")


def _poisoned_array(path: Path, key: str) -> None:
    values = np.empty(6, dtype=object)
    values[:] = [Poison(path)] * 6
    with np.load(path) as found:
        arrays = {name: found[name] for name in found.files}
    np.savez(path, **arrays | {key: values})


ARRAYS: dict[str, Spoil] = {
    **{
        f"objects as {key}": lambda path, key=key: _poisoned_array(path, key)  # type: ignore[misc]
        for key in ("x_train", "y_train", "classes")
    },
    "negative labels": npz(y_train=np.full(6, -1)),
    "labels beyond the classes": npz(y_train=np.full(6, 2**62)),
    "labels that are no numbers": npz(y_train=np.full(6, np.nan)),
    "images that are no numbers": npz(x_train=np.full((6, 4, 4, 3), np.nan)),
    "dates as images": npz(x_train=np.zeros((6, 4, 4), "datetime64[s]")),
    "class named twice": npz(classes=np.array(["a", "a", "b"])),
    "no images": npz(x_train=np.zeros((0, 4, 4), np.uint8)),
    "images of 2^62": member("x_train.npy", _npy((2**31, 2**31))),
    "stored images of 2^62": member("x_train.npy", _npy((2**31, 2**31)), method=0),
    "shape that overflows": member("x_train.npy", _npy((2**32, 2**32)), method=0),
    "negative shape": member("x_train.npy", _npy((-1, -4, 4), data=bytes(16)), method=0),
    "labels of 2^60": member("y_train.npy", _npy((2**60,))),
    "header with code": member("y_train.npy", _npy((6,)).replace(b"|u1", b"{1}")),
    "bomb": bomb,
    "bomb of labels": member("y_train.npy", bytes(2**20), times=400),
    "many members": many_members,
    "member of ../": lambda path: _outside(path),
}


def _outside(path: Path) -> None:
    """A member that would lie elsewhere, in a file without images, so that it cannot be good."""
    member("../../a.npy", _npy((6,)))(path)
    with zipfile.ZipFile(path) as old:
        kept = {n: old.read(n) for n in old.namelist() if n != "x_train.npy"}
    with zipfile.ZipFile(path, "w") as new:
        for n, value in kept.items():
            new.writestr(n, value)


def png(width: int, height: int, *, depth: int = 8) -> Spoil:
    """Write a whole PNG of zeros, however large."""

    def spoil(path: Path) -> None:
        packer, data = zlib.compressobj(1), io.BytesIO()
        row = bytes(1 + width * depth // 8)
        for _ in range(height):
            data.write(packer.compress(row))
        data.write(packer.flush())
        facts = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
        chunks = ((b"IHDR", facts), (b"IDAT", data.getvalue()), (b"IEND", b""))
        _write(path, b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks))

    return spoil


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 9 9
%%EndComments
(poisoned) (w) file closefile
showpage
"""
PICTURES: dict[str, Spoil] = {
    "bomb": png(30_000, 30_000, depth=1),
    "smaller bomb": png(13_000, 13_000),
    "deep bomb": png(9_000, 9_000, depth=16),
    "wide": png(10_000_000, 1),
    "program": replaced(POSTSCRIPT),
}


def toml(text: str) -> Spoil:
    return lambda path: _write(path, (path.read_text() + text).encode())


SETTINGS: dict[str, Spoil] = {
    "unknown key": toml("[more]\na = 1\n"),
    "unknown key inside": toml('calibratoin = "min-max"\n'),
    "arrays without end": toml(f"a = {'[' * 100_000}"),
    "tables without end": toml(f"[{'a.' * 50_000}a]\n"),
    "dots without end": toml(f"{'a.' * 100_000}a = 1\n"),
    "more than settings are": toml("# " + "a" * 2**20),
    "no text": replaced(b"\xff\xfe\x00"),
    "huge number": toml(f"a = {'9' * 100_000}\n"),
    "kernels without end": lambda p: _write(p, _wider(p)),
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


def poisoned(place: str, *, old: bool = False) -> Spoil:
    """Put poison among good weights."""

    def spoil(path: Path) -> None:
        weights = torch.load(path, weights_only=True)
        poison = Poison(path)
        content: Any = {
            "value": {**weights, "more": poison},
            "beside": {"state_dict": weights, "epoch": poison},
            "within": {"state_dict": {**weights, "more": [poison]}},
            "alone": poison,
        }[place]
        torch.save(content, path, _use_new_zipfile_serialization=not old)

    return spoil


def squeezed(path: Path) -> None:
    """A member that unpacks to a gigabyte."""
    with zipfile.ZipFile(path) as file:
        name = next(n for n in file.namelist() if "/data/" in n)
    member(name, bytes(2**20), times=1024)(path)


def _tensor(value: torch.Tensor) -> Spoil:
    def spoil(path: Path) -> None:
        weights = torch.load(path, weights_only=True)
        torch.save({**weights, "0.weight": value}, path)

    return spoil


PICKLES: dict[str, Spoil] = {
    **{f"poison {place}": poisoned(place) for place in ("value", "beside", "within", "alone")},
    "no numbers": _tensor(torch.full((2, 3, 1, 1), torch.nan)),
    "sparse": _tensor(torch.zeros(2, 3, 1, 1).to_sparse()),
    "empty": _tensor(torch.zeros(2, 3, 1, 1, device="meta")),
    "more than there is": _tensor(torch.zeros(1).expand(2**40)),
}


def cases(quick: bool = False) -> Iterator[tuple[str, str, Spoil]]:
    """Yield loader, what is wrong, and what makes it so; ``quick`` takes one loader of a kind."""
    tables: tuple[tuple[tuple[str, ...], dict[str, Spoil]], ...] = (
        (tuple(LOADERS), EVERYWHERE),
        (SAFE, SAFETENSORS),
        (tuple(name for name in SAFE if name != "weights"), MANIFESTS),
        (("classifier",), NETWORKS),
        (("npz", "compressed npz"), ARRAYS),
        (("png",), PICTURES),
        (("recipe",), SETTINGS),
        (("curves", "report", "run folder"), JSONS),
        (("pickled weights",), {**PICKLES, "squeezed": squeezed}),
        (
            ("old pickled weights",),
            {f"poison {place}": poisoned(place, old=True) for place in ("value", "alone")},
        ),
    )
    for names, table in tables:
        for name in QUICK.intersection(names) if quick else names:
            yield from ((name, what, spoil) for what, spoil in table.items())


def _outcome(name: str, path: Path) -> str:
    """Return "fine", the first line of a typed error, or what else went wrong."""
    try:
        found = LOADERS[name].read(path)
    except CnnSplitterError as error:
        return f"refused: {error}"
    except BaseException as error:
        return f"WRONG: {type(error).__name__}: {error}"
    broken = getattr(found, "broken", ())
    return f"refused: left out {broken}" if broken else "fine"


def _too_long(*_: object) -> None:
    raise TimeoutError("took too long")


def main(root: Path, *, quick: bool) -> None:
    """Make every case, read it, tell what became of it."""
    torch.set_num_threads(1)
    good = {name: fresh(name, root / "good") for name in LOADERS}
    for name, path in good.items():
        copied = shutil.copytree(path.parent.parent, root / "try" / name)
        assert _outcome(name, copied / "class" / path.name) == "fine", name
    signal.signal(signal.SIGALRM, _too_long)
    signal.signal(signal.SIGPROF, _too_long)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MOST_MEMORY
    around = set(root.rglob("*")) | {root / "bad"}
    for number, (name, what, spoil) in enumerate(cases(quick)):
        place = root / "bad" / str(number)
        shutil.copytree(good[name].parent.parent, place)
        path = place / "class" / good[name].name
        spoil(path)
        before = set(place.rglob("*"))
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        signal.setitimer(signal.ITIMER_REAL, 60)
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
        start = time.process_time()
        outcome = _outcome(name, path)
        seconds = time.process_time() - start
        if seconds > MOST_SECONDS:
            outcome = f"WRONG: {seconds:.1f} s: {outcome}"
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        added = sorted(str(p.relative_to(place)) for p in set(place.rglob("*")) - before)
        line = {"loader": name, "what": what, "outcome": outcome, "seconds": seconds}
        print(json.dumps({**line, "added": added}), flush=True)
        shutil.rmtree(place)
    assert set(root.rglob("*")) == around, "files outside the folders of the cases"


if __name__ == "__main__":
    main(Path(sys.argv[1]), quick="quick" in sys.argv[2:])
