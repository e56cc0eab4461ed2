"""``export``, and ``inspect`` of what it wrote."""

from pathlib import Path

import pytest

import toys
from cnnsplitter.storage.saving import save
from shop import call, succeed

pytest.importorskip("onnx", reason="exports need the extra onnx")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A saved class module."""
    save(toys.class_module(toys.classifier("lenet5")), tmp_path / "cat.safetensors")
    return tmp_path / "cat.safetensors"


def test_json_and_inspect_tell_the_same(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "cat.pt2"
    made = succeed("export", model, "--out", out, "--input", "float32", "--json").json
    assert made.pop("file") == str(out)
    assert 0 <= made.pop("difference") <= made.pop("allowed")
    assert made["input"]["type"] == "float32"
    assert succeed("inspect", out, "--json").json == made


def test_the_screen_shows_the_difference_and_inspect_the_facts(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "cat.pt2"
    out.write_text("old")
    shown = succeed("export", model, "--out", out, "--force").out.splitlines()
    assert shown[0].startswith("Largest difference from the model on random images: 0 (allowed: ")
    assert shown[1] == f"Written to {out}"
    lines = succeed("inspect", out).out.splitlines()
    assert lines[0] == f"{out}: exported class-module"
    assert "    source class: cat" in lines
    assert "  shape: batch, 3, 16, 16" in lines


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--out", "cat.txt"), "exported files end in .onnx or .pt2"),
        (("--out", "old.pt2"), "exists already; choose another --out, or --force"),
        (("--out", "cat.pt2", "--input", "int8"), "unknown input type 'int8'"),
        (("--out", "cat.pt2", "--tolerance", "-1"), "--tolerance"),
    ],
)
def test_wrong_calls(
    arguments: tuple[str, ...],
    error: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.pt2").write_text("old")
    outcome = call("export", model, *arguments)
    assert (outcome.code, outcome.err[:7]) == (2, "error: ")
    assert error in outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat.safetensors", "old.pt2"]
    assert (tmp_path / "old.pt2").read_text() == "old"


def test_what_is_no_model(tmp_path: Path) -> None:
    outcome = call("export", tmp_path / "none.safetensors", "--out", tmp_path / "a.pt2")
    assert outcome.err == f"error: {tmp_path / 'none.safetensors'}: no such file\n"
    outcome = call("inspect", tmp_path / "none.onnx")
    assert outcome.err == f"error: {tmp_path / 'none.onnx'}: no such file\n"
