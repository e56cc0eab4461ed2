"""Checks before any work, and data that is opened for models."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnsplitter.commands import options
from cnnsplitter.errors import SettingsError, StorageError
from shop import Shop, call, succeed


class TestRequireFolder:
    @pytest.mark.parametrize("name", ["", "a", "a/b/c"])
    def test_folders_that_can_be_made(self, tmp_path: Path, name: str) -> None:
        options.require_folder(tmp_path / name)
        assert list(tmp_path.iterdir()) == []

    def test_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        options.require_folder(Path())
        options.require_free(Path("a.safetensors"), force=False)
        assert list(tmp_path.iterdir()) == []

    def test_names_the_folder_that_cannot_be_written_to(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("cnnsplitter.commands.options.os.access", lambda path, mode: False)
        with pytest.raises(StorageError, match=f"{tmp_path}: cannot be written to"):
            options.require_folder(tmp_path / "a" / "b")


@pytest.mark.parametrize("command", ["split", "sensitivity", "patch", "evaluate", "compose"])
def test_models_are_run_on_the_best_device(
    command: str, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_device() -> None:
        raise SettingsError("asked for the best device")

    monkeypatch.setattr("cnnsplitter.inference.best_device", no_device)
    module = shop / "modules" / "cat.safetensors"
    model = module if command == "compose" else shop / "strong.safetensors"
    out = () if command == "evaluate" else ("--out", tmp_path / "out")
    parts = ("--with", module) if command == "patch" else ()
    outcome = call(command, model, *parts, "--data", shop / "data.npz", *out)
    assert outcome.err == "error: asked for the best device\n"


def test_broken_images_are_named_and_counted(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 5)):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 255, (9, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    broken = tmp_path / "photos" / "train" / "cat" / "0.png"
    broken.write_bytes(b"no image")
    outcome = succeed(
        *("train", "lenet5", "--data", tmp_path / "photos", "--size", 8, "--channels", 1),
        *("--epochs", 1, "--out", tmp_path / "m.safetensors", "--json", "--quiet"),
    )
    assert outcome.err == f"left out 1 broken image files: {broken}\n"
    assert outcome.json["test"]["classes"] == ["cat", "dog"]
    # the file says how large its images are, and that they are grey
    again = succeed(
        *("evaluate", tmp_path / "m.safetensors", "--data", tmp_path / "photos", "--json")
    )
    assert again.json["model"]["accuracy"] == outcome.json["test"]["accuracy"]
    other = call("evaluate", tmp_path / "m.safetensors", "--data", tmp_path / "photos", "--size", 9)
    assert "(1, 9, 9)" in other.err
