import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import toys
from cnnsplitter.calibration import (
    IsotonicCalibration,
    LearnedCalibration,
    LinearCalibration,
    NormalCalibration,
    RangeCalibration,
)
from cnnsplitter.class_modules import ClassModule, ComposedModel, compose
from cnnsplitter.classifier import Classifier
from cnnsplitter.errors import StorageError
from cnnsplitter.patches.gating import Gate
from cnnsplitter.patches.patching import Patch, PatchedModel
from cnnsplitter.storage.packing import Model
from cnnsplitter.storage.saving import describe, load, load_as, save

MODELS = ("simcnn", "rescnn", "incecnn", "resnet20", "weak-simcnn", "weak-rescnn-5", "lenet5")
ALL_IN_A_NEW_PROCESS = """
import sys
from pathlib import Path
import numpy as np
import torch
from cnnsplitter.storage.saving import load
torch.set_num_threads(int(sys.argv[2]))
folder = Path(sys.argv[1])
images = torch.from_numpy(np.load(folder / "images.npy"))
for path in folder.glob("*.safetensors"):
    with torch.no_grad():
        np.save(path.with_suffix(".npy"), load(path)(images).numpy())
"""
RANGE = RangeCalibration("min-max", -1.5, 2.5, clip=False)
NORMAL = NormalCalibration("z-score", 0.25, 1.5)
LEARNED = LearnedCalibration("learned", 0.5, -1.25, 0.75, 0.0)
ISOTONIC = IsotonicCalibration("isotonic", (-1.0, 0.5, 2.0), (0.1, 0.4, 0.9))

LINEAR = LinearCalibration(
    "linear", ((0.5, -0.25, 0.0), (1.0, 2.0, -1.0), (0.0, 0.1, 0.7)), (0.5, -1.0, 0.25)
)


class Own(nn.Module):
    """A network that this package does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.second = nn.Conv2d(6, 5, 3)
        self.register_buffer("scale", torch.tensor([2.0]))
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(x.mean((2, 3))) * self.scale  # type: ignore[no-any-return]


def patched_model() -> PatchedModel:
    strong = toys.classifier("resnet20", seed=5)
    patches = [
        Patch("dog", toys.class_module(strong, "bird"), RANGE),
        Patch("cat", toys.class_module(strong, "cat", 0.3), NORMAL),
    ]
    return PatchedModel(toys.classifier("weak-simcnn", seed=6), patches, "renormalise")


def learned_model() -> PatchedModel:
    """Learned calibrations, a gate, and a class that the weak model lacks."""
    strong = toys.classifier("resnet20", seed=5)
    patches = [
        Patch("dog", toys.class_module(strong, "dog"), LEARNED, Gate("margin", -0.5)),
        Patch("ship", toys.class_module(strong, "cat", 0.3), ISOTONIC, Gate("unsure", 0.2)),
    ]
    weak = toys.classifier("weak-simcnn", seed=6)
    return PatchedModel(weak, patches, "renormalise", ("ship", *weak.classes))


def linear_model() -> PatchedModel:
    """Two patches that share a linear layer."""
    strong = toys.classifier("resnet20", seed=5)
    patches = [Patch(name, toys.class_module(strong, name), LINEAR) for name in ("dog", "cat")]
    return PatchedModel(toys.classifier("weak-simcnn", seed=6), patches, "renormalise")


def composed_models() -> dict[str, ComposedModel]:
    one, other = toys.classifier("resnet20", seed=3), toys.classifier("lenet5", seed=4)
    modules = [toys.class_module(one, "dog"), toys.class_module(other, "bird", 0.7)]
    return {
        "composed": ComposedModel(modules),
        "composed-calibrated": compose(modules, {"dog": RANGE, "bird": NORMAL}),
    }


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    strong = {f"classifier-{name}": toys.classifier(name) for name in MODELS}
    modules = {f"module-{name}": toys.class_module(toys.classifier(name)) for name in MODELS}
    whole = {"whole": ClassModule.of(toys.classifier("resnet20"), "dog")}
    return {
        **strong,
        **modules,
        **whole,
        **composed_models(),
        "patched": patched_model(),
        "learned": learned_model(),
        "linear": linear_model(),
    }


@pytest.fixture(scope="module")
def folder(models: dict[str, Model], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*args: object, **kwargs: object) -> None:
            raise AssertionError("a pickle is written")

        for name in ("save", "load"):
            patch.setattr(torch, name, refuse)
        for name, model in models.items():
            save(model, folder / f"{name}.safetensors", details={"seed": 7, "note": name})
    return folder


def outputs(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(toys.image_set(6).images.read(torch.arange(6)))  # type: ignore[no-any-return]


def test_a_new_process_gives_the_same_outputs(models: dict[str, Model], folder: Path) -> None:
    np.save(folder / "images.npy", toys.image_set(6).images.read(torch.arange(6)).numpy())
    command = [
        sys.executable,
        "-c",
        ALL_IN_A_NEW_PROCESS,
        str(folder),
        str(torch.get_num_threads()),
    ]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    for name, model in models.items():
        found = np.load(folder / f"{name}.npy")
        assert np.array_equal(found, outputs(model).numpy()), name
        assert np.isfinite(found).all()
        assert found.std() > 0


def test_metadata_survives(models: dict[str, Model], folder: Path) -> None:
    for name, model in models.items():
        again = load(folder / f"{name}.safetensors")
        assert type(again) is type(model)
        assert (again.classes, again.input_shape) == (model.classes, model.input_shape)
        assert not any(part.training for part in again.modules())
        assert describe(folder / f"{name}.safetensors")["details"] == {"seed": 7, "note": name}


def test_a_file_is_described_by_its_header(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = next(folder.glob("*.safetensors"))
    expected = describe(path)

    def read(path: Path) -> None:
        raise AssertionError(f"{path} is read whole")

    monkeypatch.setattr("cnnsplitter.storage.saving.read_tensors", read)
    assert describe(path) == expected
    (tmp_path / "short").write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StorageError, match="truncated"):
        describe(tmp_path / "short")


def test_class_modules_keep_selection_and_source(models: dict[str, Model], folder: Path) -> None:
    for name, model in models.items():
        if not isinstance(model, ClassModule):
            continue
        again = load_as(ClassModule, folder / f"{name}.safetensors")
        assert again.selection == model.selection
        assert (again.source_class, again.sized) == (model.source_class, model.sized)
        assert (again.architecture, again.preprocessing) == (
            model.architecture,
            model.preprocessing,
        )
        shapes = [p.shape for p in model.parameters()]
        assert [p.shape for p in again.parameters()] == shapes
        for old, new in zip(model.net.modules(), again.net.modules(), strict=True):
            assert old.extra_repr() == new.extra_repr()


def test_calibrations_targets_and_rule_survive(folder: Path) -> None:
    composed = load_as(ComposedModel, folder / "composed-calibrated.safetensors")
    assert composed.calibrations == (RANGE, NORMAL)
    assert load_as(ComposedModel, folder / "composed.safetensors").calibrations is None
    patched = load_as(PatchedModel, folder / "patched.safetensors")
    assert (patched.targets, patched.rule) == (("dog", "cat"), "renormalise")
    assert patched.calibrations == (RANGE, NORMAL)
    learned = load_as(PatchedModel, folder / "learned.safetensors")
    assert learned.calibrations == (LEARNED, ISOTONIC)
    assert [patch.gate for patch in learned.patches] == [Gate("margin", -0.5), Gate("unsure", 0.2)]
    assert learned.classes[0] == "ship"
    linear = load_as(PatchedModel, folder / "linear.safetensors")
    assert linear.calibrations == (LINEAR, LINEAR)


def test_a_loaded_model_can_be_saved_again(folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("*.safetensors"):
        copy = tmp_path / path.name
        save(load(path), copy, details={"seed": 7, "note": path.stem})
        assert copy.read_bytes() == path.read_bytes()


def test_no_file_holds_a_pickle(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        content = path.read_bytes()
        header = int.from_bytes(content[:8], "little")
        tensors = json.loads(content[8 : 8 + header])
        manifest = tensors.pop("__metadata__")
        assert manifest.keys() == {"cnnsplitter"}
        # Nothing but the tensors' own numbers follows the header.
        assert max(t["data_offsets"][1] for t in tensors.values()) == len(content) - 8 - header


def test_own_networks_need_a_builder(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    strong = toys.own_classifier(Own())
    patch = Patch("cat", toys.class_module(strong, "dog"), RANGE)
    expected: dict[Path, Model] = {
        path: strong,
        tmp_path / "module.safetensors": toys.class_module(strong),
        tmp_path / "patched.safetensors": PatchedModel(strong, [patch]),
    }
    asked: list[str] = []

    def build(name: str) -> nn.Module:
        asked.append(name)
        return Own()

    for file, model in expected.items():
        save(model, file)
        with pytest.raises(StorageError, match=rf"{file.name}: .*pass build="):
            load(file)
        assert torch.equal(outputs(load(file, build=build)), outputs(model))
    assert sorted(asked) == ["cat", "dog", "net", "weak"]
    with pytest.raises(StorageError, match=r"own\.safetensors: tensors missing or not of this"):
        load(path, build=lambda name: nn.Sequential(nn.Flatten(), nn.Linear(768, 3)))


def test_weights_keep_their_type(tmp_path: Path) -> None:
    strong = toys.classifier().double()
    save(strong, tmp_path / "double")
    again = load(tmp_path / "double")
    x = torch.rand(2, *toys.SHAPE, dtype=torch.float64)
    assert torch.equal(again(x), strong.eval()(x))


def test_a_loaded_model_does_not_depend_on_its_file(tmp_path: Path) -> None:
    path = tmp_path / "model"
    strong = toys.classifier()
    save(strong, path)
    again = load(path)
    save(toys.classifier(seed=9), path, overwrite=True)
    assert torch.equal(outputs(again), outputs(strong))


def test_existing_files_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(toys.classifier(seed=1), path)
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"model\.safetensors: exists already"):
        save(toys.classifier(seed=2), path)
    assert path.read_bytes() == before
    save(toys.classifier(seed=2), path, overwrite=True)
    assert path.read_bytes() != before
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}])
def test_details_must_be_json(value: object, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="model: details must be JSON values"):
        save(toys.classifier(), tmp_path / "model", details={"x": value})
    assert not list(tmp_path.iterdir())


def test_only_models_of_this_package_are_saved(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="a Linear cannot be saved"):
        save(nn.Linear(2, 2), tmp_path / "model")  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="nowhere: no such file"):
        load(tmp_path / "nowhere")


def test_hooks_that_a_file_would_lose_are_refused(tmp_path: Path) -> None:
    model, path = toys.classifier("lenet5"), tmp_path / "a.safetensors"
    name, layer = next((n, m) for n, m in model.net.named_modules() if isinstance(m, nn.Conv2d))
    handle = layer.register_forward_hook(lambda module, args, y: 2 * y)
    with pytest.raises(StorageError, match=rf"layer '{name}' has a forward hook \(.*\.py:\d+\)"):
        save(model, path)
    assert not path.exists()
    handle.remove()
    save(model, path)


def test_load_as_names_both_kinds(tmp_path: Path) -> None:
    save(toys.classifier(), tmp_path / "model")
    with pytest.raises(
        StorageError, match="model: holds a Classifier, not a ClassModule; split it"
    ):
        load_as(ClassModule, tmp_path / "model")
    with pytest.raises(StorageError, match="not a ComposedModel; give a file that holds a Comp"):
        load_as(ComposedModel, tmp_path / "model")
    assert isinstance(load_as(Classifier, tmp_path / "model"), Classifier)
    save(toys.class_module(toys.classifier(), toys.classifier().classes[0]), tmp_path / "part")
    with pytest.raises(
        StorageError, match=r"part: holds a ClassModule, not a Classifier; .* whole"
    ):
        load_as(Classifier, tmp_path / "part")
