"""The zoo's files are what its index says, and can be used wherever a model file is taken."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from experiments.zoo_page import page

import cnnsplitter.zoo as zoo
from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.errors import SettingsError
from cnnsplitter.patches.patching import PatchedModel
from cnnsplitter.storage.saving import describe, load, load_as
from docpages import Page
from shop import succeed

FOLDER = Path(zoo.__file__).parent
INDEX = json.loads((FOLDER / "index.json").read_text())
DATA = os.environ.get("CNNSPLITTER_DATA")
WEAK = [name for name, facts in INDEX.items() if "patched" in facts]


def test_it_is_small_and_every_file_is_the_one_that_was_measured() -> None:
    assert set(zoo.names()) == set(INDEX)
    files = {name: (FOLDER / f"{name}.safetensors").read_bytes() for name in INDEX}
    assert sum(map(len, files.values())) <= 5_000_000
    for name, content in files.items():
        assert hashlib.sha256(content).hexdigest() == INDEX[name]["sha256"]
        assert len(content) == INDEX[name]["bytes"]


@pytest.mark.parametrize("name", INDEX)
def test_every_model_loads_and_works(name: str) -> None:
    model = load(f"zoo:{name}")
    assert describe(f"zoo:{name}")["kind"] == INDEX[name]["kind"]
    with torch.no_grad():
        outputs = model(torch.zeros(2, *model.input_shape))
    assert outputs.isfinite().all()


def test_other_paths_are_left_alone(tmp_path: Path) -> None:
    assert zoo.located(tmp_path) == tmp_path
    with pytest.raises(SettingsError, match="unknown model of the zoo 'cat'"):
        zoo.located(Path("zoo:cat"))


def test_the_command_lists_what_was_measured() -> None:
    models = {model.pop("name"): model for model in succeed("zoo", "--json").json["models"]}
    assert models == {f"zoo:{name}": facts for name, facts in INDEX.items()}
    _, _, title, *lines = succeed("zoo").out.splitlines()
    assert title.split() == ["name", "what", "data", "accuracy", "multiply", "adds", "kB"]
    assert len(lines) == len(INDEX)


def test_the_page_is_that_of_the_index() -> None:
    written = (Path(__file__).parents[2] / "docs" / "zoo.md").read_text()
    assert written == page(INDEX)


@pytest.mark.parametrize("weak", WEAK)
def test_a_zoo_model_is_patched_by_its_class_module(weak: str, tmp_path: Path) -> None:
    row = INDEX[weak]["patched"]
    assert row["f1_after"] > row["f1_before"] + 0.05
    model = load_as(Classifier, f"zoo:{weak}")
    module = load_as(ClassModule, f"zoo:{row['module']}")
    assert module.source_class == row["target"]
    rng = np.random.default_rng(0)
    channels, *size = model.input_shape
    shape = (400, *size, channels) if channels > 1 else (400, *size)
    noise = rng.integers(0, 256, shape, dtype=np.uint8)
    labels = np.arange(400) % len(model.classes)
    data = tmp_path / "noise.npz"
    np.savez(data, x_train=noise, y_train=labels, x_test=noise[:100], y_test=labels[:100],
             classes=np.array(model.classes))  # fmt: skip
    out = tmp_path / "patched.safetensors"
    succeed(
        *("patch", f"zoo:{weak}", "--with", f"zoo:{row['module']}", "--data", data),
        *("--out", out, "--force-patch", "--json"),
    )
    assert load_as(PatchedModel, out).targets == (row["target"],)
    succeed("evaluate", f"zoo:{weak}", "--data", data, "--json")
    succeed("inspect", f"zoo:{weak}", "--json")


@pytest.mark.skipif(not DATA, reason="CNNSPLITTER_DATA does not name a folder with cifar10.npz")
def test_the_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a tenth of the images, whose patch must still be kept."""
    assert DATA is not None
    with np.load(Path(DATA) / "cifar10.npz") as whole:
        some = {name: whole[name][::10] for name in ("x_train", "y_train")}
        some |= {name: whole[name][::10] for name in ("x_test", "y_test")}
        np.savez(tmp_path / "cifar10.npz", classes=whole["classes"], **some)
    monkeypatch.chdir(tmp_path)
    calls = [call for call in Page("docs/zoo.md").calls if call[0] != "split"]
    assert [call[0] for call in calls] == ["diagnose", "patch", "evaluate"]
    texts = [succeed(*("cifar10.npz" if w == "cifar10" else w for w in c)).out for c in calls]
    assert "horse" in texts[0]
    assert "the patch helps" in texts[1]
    assert "became right" in texts[2]
