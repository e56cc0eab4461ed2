"""The page's Python serves an exported file where neither this package nor PyTorch can be found."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import toys
from cnnsplitter.calibration import RangeCalibration
from cnnsplitter.patches.patching import Patch, PatchedModel
from cnnsplitter.storage.saving import save
from shop import succeed

pytest.importorskip("onnx", reason="exports need the extra onnx")
pytest.importorskip("onnxruntime", reason="exports need the extra onnx")

PAGE = Path(__file__).parents[2] / "docs" / "serve-with-onnxruntime.md"
ALONE = """
import sys

class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "cnnsplitter"):
            raise ModuleNotFoundError(f"no {name} here")

sys.meta_path.insert(0, Nowhere())
"""


def test_the_page_serves_without_this_package(tmp_path: Path) -> None:
    strong, weak = (toys.classifier("lenet5", seed=seed) for seed in (1, 2))
    calibration = RangeCalibration("min-max", -0.5, 1.5)
    model = PatchedModel(
        weak, [Patch("cat", toys.class_module(strong), calibration)], "renormalise"
    )
    save(model, tmp_path / "patched.safetensors")
    outcome = succeed(
        *("export", tmp_path / "patched.safetensors", "--out", tmp_path / "patched.onnx")
    )
    assert re.search(r"^Largest difference from the model on random images: \d", outcome.out)

    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    # A lossless format under either name: Pillow tells formats by content.
    for name, image in zip(("one.png", "two.jpg"), images, strict=True):
        Image.fromarray(image).save(tmp_path / name, format="PNG")
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    result = subprocess.run(
        [sys.executable, "-c", ALONE + code], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr

    with torch.no_grad():
        scores = model(torch.from_numpy(images).permute(0, 3, 1, 2))
    best, column = scores.max(dim=1)
    assert result.stdout.splitlines() == [
        f"{name}: {toys.CLASSES[column[row]]} ({best[row]:.3f})"
        for row, name in enumerate(("one.png", "two.jpg"))
    ]
