"""Atheris drivers: ``python -m scripts.fuzz_readers container|manifest CORPUS [OPTIONS]``.

``container`` fuzzes the safetensors file as a whole, ``manifest`` the JSON in a file that is well
formed. Both begin with golden files, and end at the first error that is not typed.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["cnnsplitter"]):
    from cnnsplitter.errors import CnnSplitterError
    from cnnsplitter.storage.saving import load

import torch
from safetensors.torch import load_file, save_file

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "format-1"
SEEDS = ("class-module", "patched-gated", "composed")
PATH = Path(tempfile.mkdtemp()) / "fuzzed.safetensors"


def read(content: bytes) -> None:
    """Read a file with this content."""
    PATH.unlink(missing_ok=True)
    PATH.write_bytes(content)
    with suppress(CnnSplitterError):
        load(PATH)


def read_manifest(content: bytes) -> None:
    """Read a file whose tensors are good and whose manifest is this."""
    PATH.unlink(missing_ok=True)
    save_file(TENSORS, PATH, {"cnnsplitter": content.decode(errors="replace")})
    read(PATH.read_bytes())


def manifest_of(path: Path) -> bytes:
    """Return the manifest of a file as it stands there."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return bytes(json.loads(content[8 : 8 + size])["__metadata__"]["cnnsplitter"].encode())


TENSORS = load_file(GOLDEN / "class-module.safetensors")
READERS: dict[str, tuple[Callable[[bytes], None], Callable[[Path], bytes]]] = {
    "container": (read, Path.read_bytes),
    "manifest": (read_manifest, manifest_of),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    fuzzed, seed_of = READERS[sys.argv.pop(1)]
    for name in SEEDS:
        seed = seed_of(GOLDEN / f"{name}.safetensors")
        (Path(sys.argv[1]) / name).write_bytes(seed)
        fuzzed(seed)  # what is imported when first needed must not count as a hang
    atheris.Setup(sys.argv, fuzzed)
    atheris.Fuzz()
