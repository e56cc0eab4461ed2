"""Bad safetensors files: what their header, their manifest and their network say."""

import json
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from trust.spoiling import MARKER, Spoil, write_anew


def header(text: Callable[[dict[str, Any]], str | bytes]) -> Spoil:
    """Write the header of a safetensors file anew."""

    def spoil(path: Path) -> None:
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        made = text(json.loads(content[8 : 8 + size]))
        raw = made.encode() if isinstance(made, str) else made
        write_anew(path, struct.pack("<Q", len(raw)) + raw + content[8 + size :])

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
    "header of 2^40 bytes": lambda p: write_anew(p, struct.pack("<Q", 2**40) + p.read_bytes()[8:]),
    "header of 2^64 - 1 bytes": lambda p: write_anew(p, b"\xff" * 8 + p.read_bytes()[8:]),
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
