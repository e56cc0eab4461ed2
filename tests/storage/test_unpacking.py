"""Files that nobody vouches for: each is refused with its name, and nothing in it is run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import toys
from cnnsplitter.calibration import RangeCalibration
from cnnsplitter.class_modules import ClassModule, compose
from cnnsplitter.errors import StorageError
from cnnsplitter.files import read_tensors, write_tensors
from cnnsplitter.patches.patching import Patch, PatchedModel
from cnnsplitter.storage.saving import load, save

Manifest = dict[str, Any]
Tensors = dict[str, Tensor]
PAD = "layer2.0.shortcut.pad.padding"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class module whose network has sizes to set."""
    path = tmp_path_factory.mktemp("good") / "good.safetensors"
    save(toys.class_module(toys.classifier("resnet20", width=0.2)), path)
    return path


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("patched") / "patched.safetensors"
    module = toys.class_module(toys.classifier())
    patch = Patch("dog", module, RangeCalibration("min-max", 0.0, 1.0))
    save(PatchedModel(toys.classifier("lenet5"), [patch]), path)
    return path


def rewritten(path: Path, to: Path, change: Callable[[Manifest, Tensors], None]) -> Path:
    tensors, manifest = read_tensors(path)
    change(manifest, tensors)
    write_tensors(to, tensors, manifest)
    return to


def put(value: Any, *keys: str | int) -> Callable[[Manifest, Tensors], None]:
    """Set one value of the manifest."""

    def change(manifest: Manifest, tensors: Tensors) -> None:
        place: Any = manifest
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


def swap(name: str, make: Callable[[Tensor], Tensor | None]) -> Callable[[Manifest, Tensors], None]:
    """Change one tensor; None removes it."""

    def change(manifest: Manifest, tensors: Tensors) -> None:
        made = make(tensors.pop(name))
        if made is not None:
            tensors[name] = made

    return change


def sizes(value: Any, name: str = PAD) -> Callable[[Manifest, Tensors], None]:
    return put(value, "module", "sized", name)


WEIGHT = "module0.layer1.0.conv1.weight"
CASES = {
    "unknown key": (put(1, "module", "surprise"), r"class-module\.module\.surprise"),
    "text for a number": (put(["3", 16, 16], "module", "input_shape"), "input_shape.0"),
    "flag for a number": (
        put(True, "module", "architecture", "arguments", "classes"),
        "classes is True, but must be int",
    ),
    "no images": (put([3, 0, 16], "module", "input_shape"), "input_shape.1"),
    "huge images": (put([3, 10**12, 16], "module", "input_shape"), "input_shape.1"),
    "other images": (put([1, 16, 16], "module", "input_shape"), "does not take images"),
    "unknown kind": (put("pickle", "kind"), "wrong at 'kind'"),
    "no kind": (lambda manifest, tensors: manifest.pop("kind"), "wrong at 'kind'"),
    "no means": (put([], "module", "mean"), "finite means"),
    "NaN mean": (put("NaN", "module", "mean"), "module.mean"),
    "two means": (put([0.0, 0.0], "module", "mean"), "for 2 channels but the images have 3"),
    "zero std": (put([0.0], "module", "std"), "positive stds"),
    "unknown source class": (put("cow", "module", "source_class"), "unknown class .* 'cow'"),
    "classes missing": (put(["bird", "cat"], "module", "classes"), "but 2 classes"),
    "unknown network": (
        put("resnet21", "module", "architecture", "name"),
        "unknown model 'resnet21'; did you mean",
    ),
    "unknown argument": (
        put(1, "module", "architecture", "arguments", "code"),
        "unknown argument of model 'resnet20': 'code'",
    ),
    "huge network": (put(1e9, "module", "architecture", "arguments", "width"), "width is"),
    "narrower network": (
        put(0.05, "module", "architecture", "arguments", "width"),
        "cannot be cut out of",
    ),
    "no builder": (put(None, "module", "architecture"), "pass build="),
    "missing tensor": (swap(WEIGHT, lambda t: None), "layer1.0.conv1.weight"),
    "additional tensor": (
        lambda manifest, tensors: tensors.update({"module0.more": torch.zeros(1)}),
        "not of this network: more",
    ),
    "rank": (swap(WEIGHT, lambda t: t[0]), "conv1.weight' has shape"),
    "too large": (swap(WEIGHT, lambda t: torch.zeros(99, *t.shape[1:])), r"shape \(99, "),
    "empty": (swap(WEIGHT, lambda t: t[:0]), r"shape \(0, "),
    "shapes that do not fit": (swap(WEIGHT, lambda t: t[:, :1]), "does not take images"),
    "NaN": (swap(WEIGHT, lambda t: t * torch.nan), "NaN or infinite"),
    "infinity": (swap("module0.linear.bias", lambda t: t / 0), "NaN or infinite"),
    "whole numbers": (swap(WEIGHT, lambda t: t.long()), "is torch.int64"),
    "float8": (swap(WEIGHT, lambda t: t.to(torch.float8_e4m3fn)), "is torch.float8"),
    "size of nothing": (sizes([1, 1], "layer2.nothing.padding"), "cannot take the size"),
    "size that is no size": (sizes([0] * 6, "layer2.0.shortcut.pad.value"), "cannot take the size"),
    "size that is a flag": (sizes(1, "layer2.0.shortcut.pad.training"), "cannot take the size"),
    "size for a method": (sizes(0, "layer2.0.shortcut.pad.forward"), "cannot take the size"),
    "size for internals": (sizes([], "layer2._modules"), "cannot take the size"),
    "one size for six": (sizes(3), "cannot take the size"),
    "too few sizes": (sizes([0, 1]), "cannot take the size"),
    "negative size": (sizes([0, 0, 0, 0, -1, 2]), "cannot take the size"),
    "huge size": (sizes([0, 0, 0, 0, 10**9, 2]), "cannot take the size"),
    "sizes that do not fit": (sizes([0] * 6), "does not take images"),
    "text as size": (sizes("abc"), f"sized.{PAD}"),
    "no selection": (swap("selection0", lambda t: None), "'selection0' must be there"),
    "short selection": (swap("selection0", lambda t: t[1:]), "'selection0' must be there"),
    "selection of numbers": (swap("selection0", lambda t: t.long()), "a selection is bool"),
    "selection of rank 2": (swap("selection0", lambda t: t[None]), "'selection0' must be there"),
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_contents_are_refused(case: str, good: Path, tmp_path: Path) -> None:
    change, message = CASES[case]
    path = rewritten(good, tmp_path / "wrong.safetensors", change)
    with pytest.raises(StorageError, match=rf"wrong\.safetensors: .*{message}") as raised:
        load(path)
    assert "\n" not in str(raised.value)


def test_the_unchanged_file_is_accepted(good: Path, tmp_path: Path) -> None:
    path = rewritten(good, tmp_path / "same", lambda manifest, tensors: None)
    assert isinstance(load(path), ClassModule)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("magic", "patches", 0, "calibration", "kind"), "a calibration needs a 'kind'"),
        (put("1", "patches", 0, "calibration", "low"), "low must be a finite number"),
        (put({}, "patches", 0, "calibration"), "a calibration needs a 'kind'"),
        (put("cow", "patches", 0, "target"), "unknown class of the weak model 'cow'"),
        (put("magic", "rule"), "unknown rule 'magic'"),
        (swap("weak.fc_4.weight", lambda t: t[:2]), "does not take|outputs of shape"),
        (swap("module0.conv_0.weight", lambda t: t[:0]), "class module 'cat': tensor"),
    ],
)
def test_wrong_patches_are_refused(
    change: Callable[[Manifest, Tensors], None], message: str, patched: Path, tmp_path: Path
) -> None:
    path = rewritten(patched, tmp_path / "wrong", change)
    with pytest.raises(StorageError, match=f"wrong: .*({message})"):
        load(path)


def test_wrong_compositions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "composed"
    save(compose([toys.class_module(toys.classifier())]), path)
    calibration = RangeCalibration("min-max", 0.0, 1.0).to_json()
    changes = {
        "give at least one": put([], "modules"),
        "1 class modules but 2 calibrations": put([calibration] * 2, "calibrations"),
        "needs the keys": put([calibration | {"more": 1}], "calibrations"),
    }
    for message, change in changes.items():
        with pytest.raises(StorageError, match=f"wrong: .*{message}"):
            load(rewritten(path, tmp_path / "wrong", change))


@given(share=st.floats(0, 1, exclude_max=True))
def test_truncated_files_are_refused(
    share: float, good: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = good.read_bytes()
    path = tmp_path_factory.mktemp("cut") / "cut.safetensors"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(StorageError, match=r"cut\.safetensors: truncated"):
        load(path)


@given(position=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_changed_byte_gives_a_model_or_a_typed_error(
    position: float, value: int, good: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(good.read_bytes())
    header = int.from_bytes(content[:8], "little")
    content[int(position * (8 + header))] = value
    path = tmp_path_factory.mktemp("changed") / "changed.safetensors"
    path.write_bytes(content)
    try:
        found: object = load(path)
    except StorageError as error:
        found = error
    assert isinstance(found, ClassModule) or "changed.safetensors" in str(found)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_versions_are_refused(version: Any, good: Path, tmp_path: Path) -> None:
    manifest = {"format": version} | read_tensors(good)[1]
    save_file(load_file(good), tmp_path / "other", {"cnnsplitter": json.dumps(manifest)})
    with pytest.raises(StorageError, match="other: has format"):
        load(tmp_path / "other")


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the most numbers of a tensor that takes memory."""

    values = 0

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = operator(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.is_meta:
                self.values = max(self.values, tensor.numel())
        return result


def test_loading_takes_no_memory_for_what_was_cut(tmp_path: Path) -> None:
    module = toys.class_module(toys.classifier("simcnn", width=0.5), share=0.3)
    save(module, tmp_path / "narrow")
    narrow, full = (
        max(tensor.numel() for tensor in model.state_dict().values())
        for model in (module, toys.classifier("simcnn", width=0.5))
    )
    with Largest() as made:  # type: ignore[no-untyped-call]
        again = load(tmp_path / "narrow")
    assert isinstance(again, ClassModule)
    assert made.values <= narrow < full / 2


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign")
    with pytest.raises(StorageError, match="foreign: not written by cnnsplitter"):
        load(tmp_path / "foreign")


def test_numbers_and_lists_can_be_sizes_too(tmp_path: Path) -> None:
    class Sized(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Flatten(), nn.Linear(768, 3))
            self.count, self.list, self.rest = 8, [4, 6], -1

    sized: dict[str, int | tuple[int, ...]] = {"net.count": 2, "net.list": (1, 6), "net.rest": -1}
    strong = toys.own_classifier(nn.Sequential())
    strong.net.add_module("net", Sized())
    module = ClassModule.of(strong, "cat", sized=sized)
    save(module, tmp_path / "sized")

    def build(name: str) -> nn.Module:
        net = nn.Sequential()
        net.add_module("net", Sized())
        return net

    again = load(tmp_path / "sized", build=build)
    assert isinstance(again, ClassModule)
    net: Any = again.net.net
    assert (net.count, net.list, net.rest) == (2, [1, 6], -1)
    for name, wrong in (("net.count", 9), ("net.list", [5, 6]), ("net.rest", -2)):
        change = put(wrong, "module", "sized", name)
        with pytest.raises(StorageError, match=f"cannot take the size '{name}'"):
            load(rewritten(tmp_path / "sized", tmp_path / "wrong", change), build=build)


def test_files_from_before_gates_and_added_classes_load(patched: Path, tmp_path: Path) -> None:
    def older(manifest: Manifest, tensors: Tensors) -> None:
        del manifest["classes"]
        for patch in manifest["patches"]:
            del patch["gate"]

    found, known = load(rewritten(patched, tmp_path / "older", older)), load(patched)
    images = torch.rand(3, *toys.SHAPE)
    assert isinstance(found, PatchedModel)
    assert found.classes == toys.CLASSES
    assert torch.equal(found(images), known(images))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put({"doubt": "margins", "threshold": 0.0}, "patches", 0, "gate"), "did you mean"),
        (put({"doubt": "margin"}, "patches", 0, "gate"), "threshold"),
        (put(["bird", "cat"], "classes"), "must be the weak model's"),
        (put(["bird", "cat", "dog", "dog"], "classes"), "must be the weak model's"),
        (put({"kind": "isotonic", "points": 3, "shares": 1}, "patches", 0, "calibration"), "many"),
        (
            put(
                {"kind": "isotonic", "points": [1, 0], "shares": [0, 1]},
                "patches",
                0,
                "calibration",
            ),
            "must rise",
        ),
        (
            put(
                {"kind": "linear", "weights": [[1.0, 0.0], [0.0]], "biases": [0.0, 0.0]},
                *("patches", 0, "calibration"),
            ),
            "as many rows",
        ),
        (
            put(
                {"kind": "linear", "weights": [[1.0]], "biases": [0.0]},
                *("patches", 0, "calibration"),
            ),
            "1 classes",
        ),
        (
            put(
                {"kind": "learned", "scale": -1.0, "bias": 0.0, "own": 1.0, "rest": 1.0},
                *("patches", 0, "calibration"),
            ),
            "must not be negative",
        ),
    ],
)
def test_patches_that_cannot_be_are_refused(
    change: Callable[[Manifest, Tensors], None], message: str, patched: Path, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match=message):
        load(rewritten(patched, tmp_path / "wrong", change))
