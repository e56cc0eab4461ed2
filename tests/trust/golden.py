"""Writes a model of every kind in the present format, and what it gives.

``python -m trust.golden``: run it when ``FORMAT`` changes, with the new number in the folder's
name; files of older formats stay, and go on being read.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

import toys
from cnnsplitter.calibration import (
    IsotonicCalibration,
    LearnedCalibration,
    NormalCalibration,
    RangeCalibration,
)
from cnnsplitter.class_modules import compose
from cnnsplitter.files import FORMAT
from cnnsplitter.patches.gating import Gate
from cnnsplitter.patches.patching import Patch, PatchedModel
from cnnsplitter.storage.packing import Model
from cnnsplitter.storage.saving import save
from cnnsplitter.subtasks.networks import unite

FOLDER = Path(__file__).parent.parent / "golden"
OUTPUTS = "outputs.safetensors"


def images() -> Tensor:
    """uint8[4, 3, 16, 16] that depend on no generator."""
    return (torch.arange(4 * 3 * 16 * 16).reshape(4, 3, 16, 16) * 37 % 251).byte()


def models() -> dict[str, Model]:
    """A model of every kind, with every kind of calibration."""
    strong = toys.classifier("resnet20", width=0.1)
    bird, cat, dog = (toys.class_module(strong, name) for name in toys.CLASSES)
    ranges = RangeCalibration("min-max", -1.0, 2.0)
    normal = NormalCalibration("z-score", 0.5, 2.0)
    isotonic = IsotonicCalibration("isotonic", (-1.0, 0.0, 2.0), (0.1, 0.4, 0.9))
    learned = LearnedCalibration("learned", 1.5, -0.5, 0.8, 0.9)
    weak = toys.classifier("lenet5")
    return {
        "classifier": strong,
        "class-module": cat,
        "subtask": unite(strong, [bird, dog]),
        "composed": compose([bird, cat, dog], {"bird": ranges, "cat": normal, "dog": isotonic}),
        "composed-raw": compose([cat]),
        "patched": PatchedModel(weak, [Patch("dog", dog, ranges)]),
        "patched-gated": PatchedModel(
            weak, [Patch("cat", cat, learned, Gate("margin", 0.5))], "renormalise"
        ),
        "patched-more": PatchedModel(
            toys.classifier("lenet5", classes=("bird", "cat")),
            [Patch("dog", dog, learned)],
            "renormalise",
            toys.CLASSES,
        ),
    }


def main() -> None:
    """Write them all."""
    folder = FOLDER / f"format-{FORMAT}"
    outputs = {}
    for name, model in models().items():
        save(model, folder / f"{name}.safetensors", overwrite=True, details={"seed": 0})
        with torch.no_grad():
            outputs[name] = model.eval()(images()).contiguous()
    save_file(outputs, folder / OUTPUTS)


if __name__ == "__main__":
    main()
