"""The page of the file format names all that is in files, read here by that page alone."""

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import toys
from cnnsplitter import calibration, files
from cnnsplitter.class_modules import ComposedModel
from cnnsplitter.patches.gating import DOUBTS, Gate
from cnnsplitter.patches.patching import Patch, PatchedModel
from cnnsplitter.storage import manifest
from cnnsplitter.storage.packing import Model
from cnnsplitter.storage.saving import save
from cnnsplitter.subtasks.networks import Subtask
from docpages import Page

TEXT = Page("docs/file-format.md").text
NAMED = set(re.findall(r"`([^`]+)`", TEXT))
LEARNED = calibration.LearnedCalibration("learned", 1.0, 0.0, 1.0, 1.0)
RANGE = calibration.RangeCalibration("min-max", -1.0, 1.0)


def model_of(kind: str) -> Model:
    strong = toys.classifier("lenet5")
    module = toys.class_module(strong)
    match kind:
        case "classifier":
            return strong
        case "class-module":
            return module
        case "subtask":
            return Subtask.of(strong, strong.net, module.selection)
        case "composed":
            return ComposedModel([module, toys.class_module(strong, "dog")], [RANGE, RANGE])
    patch = Patch("cat", module, LEARNED, Gate("rank", -1.0))
    return PatchedModel(strong, [patch], "renormalise")


def read(path: Path) -> tuple[dict[str, Any], set[str]]:
    """Return the manifest and the names of the tensors."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    return json.loads(header.pop("__metadata__")["cnnsplitter"]), set(header)


def keys_of(value: Any) -> Iterator[str]:
    """Yield the fields of a manifest, but not what users put into them."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(key, str):
            yield key
        if isinstance(inner, dict | list) and key not in ("details", "arguments", "sized"):
            yield from keys_of(inner)


@pytest.mark.parametrize("kind", ["classifier", "class-module", "subtask", "composed", "patched"])
def test_every_field_and_tensor_of_a_file_is_named(kind: str, tmp_path: Path) -> None:
    save(model_of(kind), tmp_path / "file.safetensors", details={"seed": 0})
    found, tensors = read(tmp_path / "file.safetensors")
    assert found["format"] == files.FORMAT == 1
    assert found["kind"] == kind
    assert kind in NAMED
    assert set(keys_of(found)) <= NAMED
    prefixes = {re.sub(r"\d+", "0", name.split(".")[0]) for name in tensors}
    assert prefixes <= {name.rstrip(".") for name in NAMED}


def test_every_field_of_the_code_is_named() -> None:
    parts = [
        part
        for part in vars(manifest).values()
        if isinstance(part, type) and issubclass(part, manifest._Part)
    ]
    assert len(parts) > 10
    for part in parts:
        assert part.model_fields.keys() <= NAMED, part
    for kind, rule in calibration._KINDS.items():
        assert {kind, *(field.name for field in fields(rule))} <= NAMED
    assert set(DOUBTS) <= NAMED
