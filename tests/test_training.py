import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet
from cnnsplitter.errors import DataError, ModelError, SettingsError, StorageError
from cnnsplitter.files import read_tensors, write_tensors
from cnnsplitter.inference import predict
from cnnsplitter.models import build_model
from cnnsplitter.preprocessing import Preprocessing
from cnnsplitter.progress import Step
from cnnsplitter.training import Trained, Training, learning_rate_at, train

CLASSES = ("left", "right", "none")
TINY = Training(epochs=4, batch_size=16, learning_rate=0.05, flip=True, shift=1)


@pytest.fixture
def data() -> ImageSet:
    return _data(49)


def _data(n: int, seed: int = 0) -> ImageSet:
    """Images whose brighter half is their class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    images = torch.randint(0, 90, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
    images[labels == 0, :, :, :4] += 60
    images[labels == 1, :, :, 4:] += 60
    return ImageSet.from_arrays(images, labels, CLASSES)


def _classifier(model: str = "incecnn", width: float = 0.02) -> Classifier:
    net, architecture = build_model(model, 3, (1, 8, 8), width=width)
    return Classifier(net, CLASSES, (1, 8, 8), Preprocessing((0.2,), (0.15,)), architecture)


def _same(a: nn.Module, b: nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


class _StopError(Exception):
    pass


def _stop_after(epoch: int) -> Callable[[Step], None]:
    def progress(step: Step) -> None:
        if step.done == epoch:
            raise _StopError

    return progress


def _equal(a: Trained, b: Trained) -> bool:
    same_weights = _same(a.classifier, b.classifier)
    return same_weights and a.history == b.history and a.best_epoch == b.best_epoch


def test_digits_are_learnt() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    everything = ImageSet.from_arrays(
        digits.images.astype("float32") / 16, digits.target, [str(d) for d in range(10)]
    )
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))
    training, validation = everything.take(order[:1000]), everything.take(order[1000:])
    net, architecture = build_model("lenet5", 10, (1, 8, 8))
    start = Classifier(
        net, everything.classes, (1, 8, 8), Preprocessing((0.3,), (0.37,)), architecture
    )
    settings = Training(epochs=8, batch_size=64)
    trained = train(start, training, validation, settings, seed=0)
    accuracy = (predict(trained.classifier, validation).argmax(1) == validation.labels).float()
    assert accuracy.mean().item() > 0.9
    assert trained.history[-1]["validation_accuracy"] == accuracy.mean().item()
    assert trained.history[-1]["loss"] < trained.history[0]["loss"] / 2


def test_leaves_the_given_classifier_and_the_global_state(data: ImageSet) -> None:
    classifier = _classifier().eval()
    before, state = copy.deepcopy(classifier), torch.get_rng_state()
    trained = train(classifier, data, None, TINY, seed=0)
    assert _same(classifier, before)
    assert not any(module.training for module in classifier.modules())
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert not _same(trained.classifier, before)
    assert not any(module.training for module in trained.classifier.modules())


def test_the_seed_alone_decides(data: ImageSet) -> None:
    first, again, other = (train(_classifier(), data, None, TINY, seed=s) for s in (1, 1, 2))
    assert _equal(first, again)
    assert not _same(first.classifier, other.classifier)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "learning_rate": 0.003},
        {"momentum": 0.0, "schedule": "constant", "clip": 0.5},
        {"patience": 3, "precision": "bfloat16"},
    ],
)
@pytest.mark.parametrize("stop", [1, 3])
def test_resuming_is_bit_identical(
    tmp_path: Path, data: ImageSet, changes: dict[str, Any], stop: int
) -> None:
    settings = Training(**{**TINY.model_dump(), **changes})
    whole = train(_classifier(), data, data, settings, seed=3)
    path = tmp_path / "checkpoint"
    with pytest.raises(_StopError):
        train(
            _classifier(), data, data, settings, seed=3,
            checkpoint=path, progress=_stop_after(stop),
        )  # fmt: skip
    resumed = train(_classifier(), data, data, settings, seed=3, checkpoint=path)
    assert _equal(whole, resumed)
    assert len(whole.history) == 4


def test_a_finished_run_is_not_run_again(tmp_path: Path, data: ImageSet) -> None:
    settings = Training(**{**TINY.model_dump(), "patience": 1, "epochs": 30})
    path, steps = tmp_path / "checkpoint", list[Step]()
    first = train(_classifier(), data, data, settings, seed=0, checkpoint=path)
    again = train(
        _classifier(), data, data, settings, seed=0, checkpoint=path, progress=steps.append
    )
    assert _equal(first, again)
    assert steps == []


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, data: ImageSet) -> None:
    path = tmp_path / "checkpoint"
    settings = Training(**{**TINY.model_dump(), "epochs": 1})
    train(_classifier(), data, None, settings, seed=0, checkpoint=path)
    content = path.read_bytes()

    def refused(message: str, **changes: Any) -> None:
        arguments: dict[str, Any] = {
            "classifier": _classifier(), "train": data, "validation": None,
            "settings": settings, "seed": 0,
        }  # fmt: skip
        with pytest.raises(StorageError, match=f"run with other {message};"):
            train(**{**arguments, **changes}, checkpoint=path)
        assert path.read_bytes() == content

    refused("seed", seed=1)
    refused("settings", settings=TINY)
    refused("training images", train=_data(49, seed=1))
    refused("training images", train=data.take(torch.arange(40)))
    refused("training images", train=data.take(torch.arange(49).flip(0)))
    refused("validation images", validation=data)
    other, _ = build_model("incecnn", 3, (1, 8, 8), width=0.02, seed=1)
    refused("starting weights", classifier=Classifier(other, CLASSES, (1, 8, 8)))
    refused("settings, seed", seed=1, settings=TINY)


def test_files_that_are_no_whole_checkpoint_are_refused(tmp_path: Path, data: ImageSet) -> None:
    path = tmp_path / "checkpoint"
    settings = Training(**{**TINY.model_dump(), "epochs": 2})

    def refused(message: str) -> None:
        content = path.read_bytes()
        with pytest.raises(StorageError, match=message):
            train(_classifier(), data, None, settings, seed=0, checkpoint=path)
        assert path.read_bytes() == content

    path.write_text("x")
    refused("no safetensors file")
    save_file({"x": torch.zeros(1)}, path)
    refused("not written by cnnsplitter")
    write_tensors(path, {}, {"kind": "class module"})
    refused("is no training checkpoint")
    path.unlink()
    train(_classifier(), data, None, settings, seed=0, checkpoint=path)
    tensors, manifest = read_tensors(path)
    write_tensors(path, {k: v.clone() for k, v in list(tensors.items())[1:]}, manifest)
    refused("incomplete")


def test_patience_stops_and_keeps_the_best_epoch(data: ImageSet) -> None:
    # Labels without meaning: the accuracy goes up and down, so that the best is not the last.
    labels = torch.randint(0, 3, (49,), generator=torch.Generator().manual_seed(0))
    noise = replace(data, labels=labels)
    settings = Training(epochs=30, batch_size=16, learning_rate=0.03, patience=2)
    trained = train(_classifier("lenet5", 1.0), noise, data, settings, seed=0)
    accuracies = [values["validation_accuracy"] for values in trained.history]
    assert trained.best_epoch == accuracies.index(max(accuracies)) + 1
    assert len(accuracies) == trained.best_epoch + 2 < 30
    accuracy = (predict(trained.classifier, data).argmax(1) == data.labels).float().mean().item()
    assert accuracy == max(accuracies) > accuracies[-1]


def test_without_patience_the_last_epoch_counts(data: ImageSet) -> None:
    steps: list[Step] = []
    trained = train(_classifier(), data, data, TINY, seed=0, progress=steps.append, stage="weak")
    assert trained.best_epoch == 4
    assert [(step.stage, step.done, step.total) for step in steps] == [
        ("weak", epoch, 4) for epoch in (1, 2, 3, 4)
    ]
    assert [step.values for step in steps] == list(trained.history)


def test_underfit_is_overfit_at_half() -> None:
    data, start = _data(30), _classifier("lenet5", 1.0)
    half = train(start, data, None, Training.underfit(6), seed=0)
    late = train(start, data, None, Training.overfit(6), seed=0)
    assert late.history[:3] == half.history
    assert late.history[-1]["loss"] < half.history[-1]["loss"]


def test_recipes_follow_the_method() -> None:
    late, half = Training.overfit(150), Training.underfit(150)
    assert (late.optimizer, late.momentum, late.weight_decay) == ("sgd", 0.0, 0.0)
    assert (late.flip, late.shift, late.label_smoothing, late.patience) == (False, 0, 0.0, 0)
    assert (late.epochs, half.epochs) == (150, 75)
    assert Training.underfit(1).epochs == 1
    assert Training.strong(5).epochs == Training.weak(5).epochs == 5
    assert Training.strong().flip


def test_one_cycle_rises_then_falls_and_constant_stays() -> None:
    rates = [learning_rate_at(Training(learning_rate=2.0), i / 100) for i in range(101)]
    peak = rates.index(max(rates))
    assert rates[peak] == pytest.approx(2.0)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[0] == 0 == pytest.approx(rates[-1])
    constant = Training(learning_rate=2.0, schedule="constant")
    assert {learning_rate_at(constant, i / 10) for i in range(11)} == {2.0}


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch_size": 1}, {"learning_rate": 0}, {"optimizer": "adam"}, {"lr": 0.1},
     {"learning_rate": float("nan")}],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Training(**wrong)


def test_a_single_image_left_over_is_skipped() -> None:
    # At 8x8 InceCNN's norms see 1x1 maps, of which a batch of one image gives one value.
    trained = train(_classifier(), _data(33), None, TINY, seed=0)
    assert len(trained.history) == 4


def test_divergence_is_an_error_with_advice(data: ImageSet) -> None:
    settings = Training(epochs=50, learning_rate=1e6, batch_size=16, schedule="constant")
    with pytest.raises(ModelError, match=r"diverged in epoch \d+: the loss is .*learning_rate"):
        train(_classifier("weak-simcnn-5", 1.0), data, None, settings, seed=0)


def test_data_that_do_not_fit_are_refused_before_anything_is_written(
    tmp_path: Path, data: ImageSet
) -> None:
    def run(train_set: ImageSet, validation: ImageSet | None = None, patience: int = 0) -> None:
        settings = Training(epochs=1, patience=patience)
        path = tmp_path / "checkpoint"
        train(_classifier(), train_set, validation, settings, seed=0, checkpoint=path)

    with pytest.raises(DataError, match=r"\(right, left, none\) are not the classifier's"):
        run(data.relabel(("right", "left", "none")))
    with pytest.raises(DataError, match="are not the classifier's"):
        run(data, data.relabel(("left", "right")))
    with pytest.raises(DataError, match="at least two classes; there are 17 images of 1"):
        run(data.only(["left"]))
    with pytest.raises(DataError, match=r"shape \(1, 9, 9\) but the classifier takes \(1, 8, 8\)"):
        run(ImageSet.from_arrays(torch.zeros(3, 1, 9, 9), [0, 1, 2], CLASSES))
    with pytest.raises(SettingsError, match="patience needs validation images"):
        run(data, patience=1)
    assert list(tmp_path.iterdir()) == []


def test_automatic_precision_follows_the_processor(
    data: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Training(epochs=1, batch_size=16)
    results = {}
    for native in (False, True):
        monkeypatch.setattr("cnnsplitter.inference.native_bfloat16", lambda _, n=native: n)
        results[native] = train(_classifier(), data, None, settings, seed=0).classifier
    for native, name in ((False, "float32"), (True, "bfloat16")):
        fixed = Training(epochs=1, batch_size=16, precision=name)  # type: ignore[arg-type]
        assert _same(train(_classifier(), data, None, fixed, seed=0).classifier, results[native])
    assert not _same(results[False], results[True])
