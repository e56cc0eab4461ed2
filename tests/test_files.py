import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from cnnsplitter.errors import StorageError
from cnnsplitter.files import read_tensors, replacing, write_tensors

SCALAR = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text('aä"\\\n')
)
JSON = SCALAR | st.lists(SCALAR) | st.dictionaries(st.text("ab"), SCALAR)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(manifest=st.dictionaries(st.sampled_from(["a", "b", "ä"]), JSON))
def test_reading_gives_back_what_was_written(tmp_path: Path, manifest: dict[str, object]) -> None:
    tensors = {
        "float": torch.randn(2, 3),
        "half": torch.randn(4).half(),
        "scalar": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
    }
    write_tensors(tmp_path / "x.safetensors", tensors, manifest)
    read, read_manifest = read_tensors(tmp_path / "x.safetensors")
    assert read_manifest == manifest
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[k], v) and read[k].dtype == v.dtype for k, v in tensors.items())


def test_shared_and_strided_tensors_are_stored_on_their_own(tmp_path: Path) -> None:
    base = torch.arange(48.0).reshape(2, 3, 2, 4)
    tensors = {
        "all": base,
        "alias": base,
        "part": base[:, 1:],
        "transposed": base.transpose(1, 3),
        "channels_last": base.contiguous(memory_format=torch.channels_last),
        "expanded": torch.ones(1, 3).expand(4, 3),
        "parameter": torch.nn.Parameter(base[0]),
    }
    write_tensors(tmp_path / "x", tensors, {})
    read, _ = read_tensors(tmp_path / "x")
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_makes_the_folder_and_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x"
    write_tensors(path, {"t": torch.zeros(1)}, {"n": 1})
    write_tensors(path, {"t": torch.ones(1)}, {"n": 2})
    tensors, manifest = read_tensors(path)
    assert tensors["t"].item() == 1
    assert manifest == {"n": 2}
    assert os.listdir(path.parent) == ["x"]


def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with suppress(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


def test_unwritable_places_are_storage_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/x: cannot be written"):
        write_tensors(tmp_path / "file" / "x", {}, {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="folder: cannot be written"):
        write_tensors(tmp_path / "folder", {"t": torch.zeros(1)}, {})
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_failing_tensor_library_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    def fail(*_: object, **__: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("cnnsplitter.files.save_file", fail)
    with pytest.raises(StorageError, match="No space left"):
        write_tensors(tmp_path / "x", {}, {})


@pytest.mark.parametrize("manifest", [{"format": 1}, {"writer": "1"}, {"loss": float("nan")}])
def test_a_manifest_that_cannot_be_kept_is_refused(
    tmp_path: Path, manifest: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=r"format|writer|JSON"):
        write_tensors(tmp_path / "x", {}, manifest)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kept", [0, 4, 20, 150, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "x"
    write_tensors(path, {"t": torch.randn(100)}, {"n": 1})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StorageError, match="x: truncated or no safetensors file"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "not written by cnnsplitter"),
        ({"format": "pt"}, "not written by cnnsplitter"),
        ({"cnnsplitter": "{"}, "manifest is broken"),
        (
            {"cnnsplitter": json.dumps({"format": 2})},
            "has format 2 but .* reads format 1",
        ),
        ({"cnnsplitter": json.dumps([1])}, "format None"),
    ],
)
def test_foreign_and_newer_files_are_refused(
    tmp_path: Path, metadata: dict[str, str] | None, message: str
) -> None:
    save_file({"t": torch.zeros(1)}, tmp_path / "x", metadata=metadata)
    with pytest.raises(StorageError, match=message):
        read_tensors(tmp_path / "x")


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such file"):
        read_tensors(tmp_path / "x")
    with pytest.raises(StorageError, match="no safetensors file"):
        read_tensors(tmp_path)


def test_a_manifest_nested_without_end_is_refused(tmp_path: Path) -> None:
    deep = "[" * 100_000
    save_file({"a": torch.zeros(1)}, tmp_path / "x", {"cnnsplitter": '{"details":' + deep})
    with pytest.raises(StorageError, match="manifest is broken"):
        read_tensors(tmp_path / "x")
