"""Exported files run without this package and give what the model gives, or they do not exist."""

import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toys
from cnnsplitter import __version__
from cnnsplitter.calibration import (
    Calibration,
    LinearCalibration,
    NormalCalibration,
    RangeCalibration,
)
from cnnsplitter.class_modules import ClassModule, compose
from cnnsplitter.classifier import Classifier
from cnnsplitter.errors import CnnSplitterError, ModelError, SettingsError, StorageError
from cnnsplitter.exporting import TOLERANCE, InputType, describe_export, export, formats
from cnnsplitter.exporting.program import random_images
from cnnsplitter.models.libraries import build_library_model
from cnnsplitter.patches.gating import Gate
from cnnsplitter.patches.patching import Patch, PatchedModel
from cnnsplitter.recalibration import recalibrate
from cnnsplitter.storage.packing import Model
from strategies import randomise

pytest.importorskip("onnx", reason="exports need the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="exports need the extra onnx")

# Ranges that the scores of the networks below lie in: beyond them outputs hardly change.
RULES: dict[str, Calibration] = {
    "bird": RangeCalibration("min-max", -3.0, 1.5, clip=False),
    "cat": RangeCalibration("percentile", -1.0, 6.0, clip=True),
    "dog": RangeCalibration("outlier", -1.0, 2.0, clip=False),
    "ship": NormalCalibration("z-score", 0.25, 1.5),
}
BATCHES = (1, 3, 8)


def library_classifier(name: str) -> Classifier:
    """A network of torchvision with random weights and statistics, so that its scores differ."""
    pytest.importorskip("torchvision", reason="a third-party network is exported")
    shape = (3, 64, 64)
    strong = Classifier(build_library_model(f"torchvision:{name}", 3), toys.CLASSES, shape)
    randomise(strong.net, torch.Generator().manual_seed(0))
    # As ReLUs halve what passes, and biases would drown the images.
    for tensor in strong.net.state_dict().values():
        if tensor.ndim > 1:
            tensor.mul_(1.5)
    for key, tensor in strong.net.named_parameters():
        if key.endswith("bias"):
            tensor.data.zero_()
    # Deep networks tell images apart only if their norms know what they see.
    return recalibrate(strong, toys.image_set(16, shape=shape), seed=0)


def patched(rule: str) -> PatchedModel:
    """A weak model in which every class is patched, each by another calibration rule."""
    classes = (*RULES, "truck")
    strong = toys.classifier("lenet5", classes=classes, seed=1)
    patches = [Patch(name, ClassModule.of(strong, name), RULES[name]) for name in RULES]
    return PatchedModel(toys.classifier("weak-simcnn", classes=classes, seed=2), patches, rule)


def linear() -> PatchedModel:
    """A weak model whose patch has a linear layer and a gate."""
    strong, weak = toys.classifier("lenet5", seed=1), toys.classifier("weak-simcnn", seed=2)
    layer = LinearCalibration(
        "linear", ((0.5, -0.25, 0.0), (1.0, 2.0, -1.0), (0.0, 0.1, 0.7)), (0.5, -1.0, 0.25)
    )
    median = weak(random_images(weak, 40, "uint8")).log_softmax(1).amax(1).median().item()
    gate = Gate("unsure", -median)
    return PatchedModel(weak, [Patch("dog", ClassModule.of(strong, "cat"), layer, gate)])


def composed() -> Model:
    modules = [
        toys.class_module(toys.classifier("lenet5", seed=3), "dog"),
        toys.class_module(toys.classifier("lenet5", seed=4), "bird"),
    ]
    return compose(modules, {"dog": RULES["dog"], "bird": RULES["bird"]})


MODELS: dict[str, Callable[[], Model]] = {
    "simcnn": lambda: toys.classifier("simcnn"),
    "torchvision": lambda: library_classifier("squeezenet1_1"),
    "class-module": lambda: toys.class_module(toys.classifier("weak-rescnn-5")),
    "composed": composed,
    "patched": lambda: patched("replace"),
    "linear": linear,
}


INPUTS: dict[str, InputType] = {"torchvision": "float32"}


def scores_of_file(path: Path, images: Tensor) -> Tensor:
    """Run a file as those do who do not have this package."""
    if path.suffix == ".pt2":
        with path.open("rb") as file:
            return torch.export.load(file).module()(images)  # type: ignore[no-any-return]
    session = onnxruntime.InferenceSession(path)
    return torch.from_numpy(session.run(["scores"], {"images": images.numpy()})[0])


def noise(model: Model, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 + count)
    return torch.randint(256, (count, *model.input_shape), dtype=torch.uint8, generator=generator)


def require_same_scores(model: Model, path: Path, input_type: InputType = "uint8") -> None:
    for count in BATCHES:
        images = noise(model, count)
        if input_type == "float32":
            images = images.float() / 255
        with torch.no_grad():
            expected = model.eval()(images)
        # A file that does not look at the images would not do.
        assert count == 1 or (expected[1:] - expected[0]).abs().max() > 1e-3 * expected.abs().max()
        given = scores_of_file(path, images)
        assert given.dtype == torch.float32
        torch.testing.assert_close(given, expected, rtol=TOLERANCE, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_gives_the_models_scores(name: str, tmp_path: Path) -> None:
    model, path = MODELS[name](), tmp_path / "model.onnx"
    input_type = INPUTS.get(name, "uint8")
    made = export(model, path, input_type=input_type)
    assert 0 <= made.difference <= made.allowed
    require_same_scores(model, path, input_type)
    assert os.listdir(tmp_path) == ["model.onnx"]
    assert describe_export(path) == made.facts
    assert onnxruntime.InferenceSession(path).get_inputs()[0].shape[0] == "batch"


@pytest.mark.parametrize(
    "make", [MODELS["class-module"], lambda: patched("renormalise")], ids=["module", "patched"]
)
def test_pytorch_programs_give_the_models_scores(make: Callable[[], Model], tmp_path: Path) -> None:
    model, path = make(), tmp_path / "model.pt2"
    made = export(model, path)
    require_same_scores(model, path)
    assert os.listdir(tmp_path) == ["model.pt2"]
    assert describe_export(path) == made.facts


@pytest.mark.large
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("name", ["resnet20", "resnet18", "mobilenet_v3_small", "densenet121"])
def test_larger_networks(name: str, suffix: str, tmp_path: Path) -> None:
    own = name == "resnet20"
    model = toys.classifier(name) if own else library_classifier(name)
    path = tmp_path / f"model{suffix}"
    export(model, path)
    require_same_scores(model, path)


class Tiny(nn.Module):
    """One convolution and a mean, quick to export; ``change`` is done to the scores."""

    def __init__(self, change: Callable[[Tensor], Tensor] = lambda scores: scores) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.conv(x).mean((2, 3)))


def tiny(change: Callable[[Tensor], Tensor] = lambda scores: scores) -> Classifier:
    return toys.own_classifier(Tiny(change))


def test_equal_models_give_equal_files_that_name_no_folder(tmp_path: Path) -> None:
    for suffix in (".onnx", ".pt2"):
        one, two = tmp_path / f"one{suffix}", tmp_path / "other" / f"two{suffix}"
        for path in (one, two):
            export(tiny(), path)
        assert one.read_bytes() == two.read_bytes()
        assert str(Path(__file__).parent).encode() not in one.read_bytes()


def test_float_images(tmp_path: Path) -> None:
    model, path = tiny(), tmp_path / "model.pt2"
    facts = export(model, path, input_type="float32").facts
    assert facts["input"]["type"] == "float32"
    assert facts["input"]["range"] == [0, 1]
    images = noise(model, 3)
    with torch.no_grad():
        torch.testing.assert_close(scores_of_file(path, images.float() / 255), model(images))


def test_the_metadata_say_what_goes_in_and_out(tmp_path: Path) -> None:
    strong = toys.classifier("lenet5")
    facts = export(strong, tmp_path / "classifier.pt2").facts
    assert facts["version"] == __version__
    assert facts["input"]["shape"] == ["batch", *toys.SHAPE]
    assert facts["output"]["shape"] == ["batch", 3]
    assert facts["classes"] == list(toys.CLASSES)
    assert (facts["model"]["net"]["mean"], facts["model"]["net"]["std"]) == ([0.5], [0.25])
    assert json.loads(json.dumps(facts)) == facts

    facts = export(ClassModule.of(strong, "cat"), tmp_path / "module.pt2").facts
    assert facts["output"]["shape"] == ["batch"]
    assert facts["classes"] == ["cat"]
    assert facts["model"]["module"]["source_class"] == "cat"

    patches = [Patch("dog", ClassModule.of(strong, "cat"), RULES["cat"])]
    facts = export(PatchedModel(strong, patches), tmp_path / "patched.pt2").facts
    (patch,) = facts["model"]["patches"]
    assert (patch["target"], patch["module"]["source_class"]) == ("dog", "cat")
    assert patch["calibration"]["kind"] == "percentile"
    assert facts["model"]["rule"] == "replace"


def test_the_model_is_left_as_it_is(tmp_path: Path) -> None:
    model = tiny().train()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    export(model, tmp_path / "model.pt2")
    assert all(part.training for part in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(tensor.equal(weights[name]) for name, tensor in model.state_dict().items())
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("name", ["model", "model.safetensors", "model.pt", "model.ONNX"])
def test_other_endings_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"{name}: exported files end in \.onnx or \.pt2"):
        export(tiny(), tmp_path / name)
    with pytest.raises(SettingsError, match=r"end in \.onnx or \.pt2"):
        describe_export(tmp_path / name)


def test_existing_files_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_text("old")
    with pytest.raises(StorageError, match=r"model\.pt2: exists already"):
        export(tiny(), path)
    assert path.read_text() == "old"
    export(tiny(), path, overwrite=True)
    assert describe_export(path)["kind"] == "classifier"


def test_a_missing_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(SettingsError, match=r"onnxscript .*pip install 'cnnsplitter\[onnx\]'"):
        export(tiny(), tmp_path / "model.onnx")
    export(tiny(), tmp_path / "model.pt2")


def test_what_an_onnx_file_says_is_read_without_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = export(tiny(), tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert describe_export(tmp_path / "model.onnx") == made.facts


def test_only_models_of_this_package_and_known_inputs(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="a Linear cannot be saved"):
        export(nn.Linear(2, 2), tmp_path / "model.pt2")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="unknown input type 'int8'"):
        export(tiny(), tmp_path / "model.pt2", input_type="int8")  # type: ignore[arg-type]


def doubled_when_large(scores: Tensor) -> Tensor:
    return scores * 2 if scores.sum() > 0 else scores


def for_two_images(scores: Tensor) -> Tensor:
    return scores.view(2, 3)


def with_noise(scores: Tensor) -> Tensor:
    return torch.dropout(scores, 0.5, train=True)


def not_a_number(scores: Tensor) -> Tensor:
    return scores * torch.nan


def bessel(scores: Tensor) -> Tensor:
    return torch.special.bessel_j0(scores)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("change", "suffix", "message"),
    [
        (doubled_when_large, ".pt2", "cannot be exported for uint8 images and any batch size"),
        (for_two_images, ".pt2", "cannot be exported for uint8 images and any batch size"),
        (with_noise, ".pt2", r"model\.pt2: not written, as its scores differ .* by \d"),
        (not_a_number, ".pt2", "differ from the model's by nan"),
        (bessel, ".onnx", "cannot be exported as ONNX: .*bessel_j0"),
    ],
)
def test_what_cannot_be_exported_leaves_the_old_file(
    change: Callable[[Tensor], Tensor], suffix: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_text("old")
    with pytest.raises(ModelError, match=message):
        export(tiny(change), path, overwrite=True)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == [path.name]


def test_too_much_for_one_onnx_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_ONNX_AT_MOST", 100)
    with pytest.raises(ModelError, match=r"too much for one ONNX file; export to \.pt2"):
        export(tiny(), tmp_path / "model.onnx")
    assert os.listdir(tmp_path) == []


def _foreign_onnx(path: Path) -> None:
    import onnx

    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph), path)


def _foreign_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/extra/other.json", "{}")


def _list_for_facts(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/extra/cnnsplitter.json", "[1]")


def _endless(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/extra/cnnsplitter.json", " " * 17_000_000)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.onnx", lambda path: None, "no such file"),
        ("a.onnx", lambda path: path.write_bytes(b"nothing of the kind"), "broken or no ONNX file"),
        ("a.onnx", _foreign_onnx, "not exported by cnnsplitter"),
        ("a.onnx", lambda path: path.write_bytes(b"\x10\x01" * 20_000), "more than 10000 fields"),
        ("a.onnx", lambda path: path.write_bytes(b"\x72\xff\xff\x7f"), "cut short"),
        ("a.onnx", lambda path: path.write_bytes(b"\x10" + b"\xff" * 11), "more than 64 bits"),
        ("a.pt2", lambda path: path.write_bytes(b"PK"), "broken or no PyTorch program file"),
        ("a.pt2", _foreign_zip, "not exported by cnnsplitter"),
        ("a.pt2", _list_for_facts, "not exported by cnnsplitter"),
        ("a.pt2", _endless, "too large to be ours"),
    ],
)
def test_foreign_and_broken_files(
    name: str, make: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    make(tmp_path / name)
    with pytest.raises(CnnSplitterError, match=message):
        describe_export(tmp_path / name)


def test_an_archive_of_very_many_members_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(25_000):
            archive.writestr(f"{i:06}", b"")
    with pytest.raises(StorageError, match="too many members"):
        describe_export(path)
