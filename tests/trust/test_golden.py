"""Files of every format version are read as on the day they were written; newer ones are not."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cnnsplitter.errors import StorageError
from cnnsplitter.files import FORMAT, read_tensors
from cnnsplitter.storage.saving import describe, load, save
from trust.golden import FOLDER, OUTPUTS, images, models

FILES = sorted(path for path in FOLDER.glob("format-*/*.safetensors") if path.name != OUTPUTS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_an_old_file_gives_what_it_gave(path: Path, tmp_path: Path) -> None:
    expected = load_file(path.with_name(OUTPUTS))[path.stem]
    model = load(path)
    with torch.no_grad():
        torch.testing.assert_close(model(images()), expected, rtol=1e-4, atol=1e-5)
    save(model, tmp_path / "again.safetensors", details=describe(path)["details"])
    if path.parent.name == f"format-{FORMAT}":
        new, old = read_tensors(tmp_path / "again.safetensors"), read_tensors(path)
        assert new[1] == old[1]
        assert all(torch.equal(new[0][name], tensor) for name, tensor in old[0].items())


def test_every_version_and_kind_has_its_files() -> None:
    assert {path.parent.name for path in FILES} == {f"format-{n + 1}" for n in range(FORMAT)}
    assert {path.stem for path in FILES} == set(models())
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 300_000


@pytest.mark.parametrize(
    ("details", "needed"),
    [
        ({"versions": {"cnnsplitter": "3.1.0"}}, r"install cnnsplitter 3\.1\.0 or newer$"),
        (
            {"versions": {"cnnsplitter": "3\n; rm -r"}},
            "install cnnsplitter of the version that wrote it$",
        ),
        ({"versions": [1]}, "install cnnsplitter of the version that wrote it$"),
        ([], "install cnnsplitter of the version that wrote it$"),
    ],
)
def test_a_newer_file_names_the_version_needed(
    details: object, needed: str, tmp_path: Path
) -> None:
    source = FILES[0]
    manifest = {**read_tensors(source)[1], "format": FORMAT + 1, "details": details}
    save_file(load_file(source), tmp_path / "new", {"cnnsplitter": json.dumps(manifest)})
    with pytest.raises(StorageError, match=f"has format {FORMAT + 1} but .*; {needed}"):
        load(tmp_path / "new")
