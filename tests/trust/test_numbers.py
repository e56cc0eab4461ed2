"""Odd numbers give defined results or typed errors, and figures are those of scikit-learn."""

import inspect
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import precision_recall_fscore_support
from torch import Tensor, nn

import cnnsplitter
import toys
from cnnsplitter.calibration import CALIBRATIONS
from cnnsplitter.class_modules import compose
from cnnsplitter.compensation.compensating import compensate
from cnnsplitter.data import ImageSet, Splits
from cnnsplitter.errors import CnnSplitterError, DataError, ModelError, SettingsError
from cnnsplitter.evaluation import count, evaluate
from cnnsplitter.exporting import export
from cnnsplitter.importance import measure_importance
from cnnsplitter.inference import predict
from cnnsplitter.patches.patching import patch
from cnnsplitter.splitting import split
from cnnsplitter.storage.saving import save
from cnnsplitter.taylor import measure_taylor
from cnnsplitter.training import Training, train
from cnnsplitter.weights import load_weights

cs: Any = cnnsplitter
CASES, CLASSES = 10_000, 4
SET = toys.image_set(16)
NAMES = tuple("abcd")


def test_figures_equal_those_of_scikit_learn_in_ten_thousand_cases() -> None:
    """One call of theirs: each case has classes of its own, so that none touches another."""
    random = np.random.default_rng(0)
    sizes = random.integers(1, 30, CASES)
    case = np.repeat(np.arange(CASES), sizes)
    # Few classes in many cases, so that some are never true and some never predicted.
    most = random.integers(1, CLASSES + 1, CASES)[case]
    labels = random.integers(0, CLASSES, len(case)) % most
    predicted = random.integers(0, CLASSES, len(case))
    theirs = precision_recall_fscore_support(
        case * CLASSES + labels,
        case * CLASSES + predicted,
        labels=np.arange(CASES * CLASSES),
        zero_division=0,
    )
    parts = (torch.split(torch.tensor(values), sizes.tolist()) for values in (labels, predicted))
    mine = [count(true, guess, NAMES) for true, guess in zip(*parts, strict=True)]
    for figure, expected in zip(("precision", "recall", "f1"), theirs, strict=False):
        found = torch.cat([getattr(one, figure) for one in mine])
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    right = np.add.reduceat(labels == predicted, sizes.cumsum() - sizes, dtype=np.float64)
    np.testing.assert_allclose([one.accuracy for one in mine], right / sizes, atol=1e-12)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    strong, data = toys.classifier(), toys.splits(24)
    next(strong.parameters()).data.view(-1)[0] = value
    with pytest.raises(CnnSplitterError, match=r"NaN or infinite"):
        split(strong, data, seed=0)


def spoilt(model: nn.Module, value: float) -> Any:
    """The model with one weight that is no number."""
    next(model.parameters()).data.view(-1)[0] = value
    return model


def adopted(value: float, folder: Path) -> None:
    save_file(spoilt(toys.classifier("lenet5"), value).net.state_dict(), folder / "a.safetensors")
    load_weights(toys.classifier("lenet5").net, folder / "a.safetensors")


def composed(value: float) -> None:
    strong, data = toys.classifier(), toys.image_set(9)
    modules = [toys.class_module(strong, name) for name in toys.CLASSES]
    evaluate(compose([spoilt(modules[0], value), *modules[1:]]), data)


def patched(value: float, *, weak: bool) -> None:
    module, model = toys.class_module(toys.classifier()), toys.classifier("lenet5", seed=1)
    spoilt(model if weak else module, value)
    patch(model, {"dog": module}, toys.splits(24))


def trained(value: float) -> None:
    start = spoilt(toys.classifier("lenet5"), value)
    train(start, toys.image_set(16), None, Training(epochs=1, batch_size=8), seed=0)


def compensated(value: float, *, strong: bool) -> None:
    module, model = toys.class_module(toys.classifier()), toys.classifier()
    channels = toys.traced(model)
    spoilt(model if strong else module, value)
    compensate({"dog": module}, model, channels, toys.image_set(9), seed=0)


def measured(measure: Callable[..., Any], value: float) -> None:
    """The last layer's weights show in no feature map."""
    model = toys.classifier("lenet5")
    channels = toys.traced(model)
    list(model.parameters())[-1].data[0] = value
    measure(model, channels, toys.image_set(9))


USES: dict[str, Callable[[float, Path], Any]] = {
    "adopt": adopted,
    "compensate for a strong model": lambda value, _: compensated(value, strong=True),
    "compensate a class module": lambda value, _: compensated(value, strong=False),
    "compose": lambda value, _: composed(value),
    "evaluate": lambda value, _: evaluate(
        spoilt(toys.classifier("lenet5"), value), toys.image_set(9)
    ),
    "export": lambda value, folder: export(
        spoilt(toys.classifier("lenet5"), value), folder / "a.pt2"
    ),
    "measure importance": lambda value, _: measured(measure_importance, value),
    "measure slopes": lambda value, _: measured(measure_taylor, value),
    "patch a weak model": lambda value, _: patched(value, weak=True),
    "patch with a class module": lambda value, _: patched(value, weak=False),
    "save": lambda value, folder: save(spoilt(toys.classifier("lenet5"), value), folder / "a"),
    "train": lambda value, _: trained(value),
}


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_models_that_are_no_numbers_are_refused(name: str, value: float, tmp_path: Path) -> None:
    with pytest.raises(CnnSplitterError, match=r"NaN|nan|infinite"):
        USES[name](value, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name != "a.safetensors"]


def test_infinite_outputs_have_a_class() -> None:
    """An infinite logit is the largest, or the least, there is."""
    strong = toys.classifier("lenet5")
    last = [p for p in strong.parameters() if p.ndim == 1][-1]
    last.data[1] = 3e38
    assert evaluate(strong, toys.image_set(9)).confusion[:, 1].sum() == 9
    last.data[:] = torch.nan
    with pytest.raises(ModelError, match="NaN"):
        evaluate(strong, toys.image_set(9))


def test_ties_go_to_the_first_class() -> None:
    strong = toys.classifier("lenet5")
    for parameter in strong.parameters():
        parameter.data.zero_()
    assert evaluate(strong, toys.image_set(9)).confusion[:, 0].tolist() == [3, 3, 3]


def only(data: ImageSet, keep: Tensor) -> Splits:
    """Calibration images of some labels, all the rest whole."""
    return Splits(data, data, data.take(keep), data)


CASES_OF_CALIBRATION = ("no positive", "no negative", "one positive", "all alike")
WITHOUT_SPREAD = {
    (method, case): rf"^class 'dog': {method} calibration finds no spread in the {count} scores"
    for method in ("min-max", "percentile", "outlier", "z-score")
    for case, count in (("one positive", 1), ("all alike", 10))
}
REFUSED = {
    **{(method, "no positive"): "^class 'dog' has no calibration image" for method in CALIBRATIONS},
    ("linear", "no negative"): "^all calibration images are of one class; a linear layer needs",
    **WITHOUT_SPREAD,
}


def poor(case: str) -> tuple[Any, ImageSet, Tensor]:
    """A class module, images, and which of them are for calibration."""
    module, data = toys.class_module(toys.classifier()), toys.image_set(30)
    is_target = data.labels == 2
    first = is_target & (is_target.cumsum(0) == 1)
    kept = {
        "no positive": ~is_target,
        "no negative": is_target,
        "one positive": ~is_target | first,
        "all alike": torch.ones(30, dtype=torch.bool),
    }[case]
    if case == "all alike":
        for parameter in module.parameters():
            parameter.data.zero_()
    return module, data, kept


@pytest.mark.parametrize("method", CALIBRATIONS)
@pytest.mark.parametrize("case", CASES_OF_CALIBRATION)
def test_poor_calibration_sets(method: str, case: str) -> None:
    """A patch with finite outputs, or the error that says what is missing; never a warning."""
    module, data, kept = poor(case)
    weak = toys.classifier("lenet5", seed=1)

    def run() -> Tensor:
        patched = patch(weak, {"dog": module}, only(data, kept), calibration=method)
        return predict(patched, data)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if (method, case) in REFUSED:
            with pytest.raises(DataError, match=REFUSED[method, case]):
                run()
            return
        outputs = run()
    assert outputs.isfinite().all()
    if method in ("learned", "temperature", "isotonic", "linear"):
        torch.testing.assert_close(outputs.sum(1), torch.ones(30))
        assert case != "no negative" or (outputs.argmax(1) == 2).all(), "all that was seen"


def calibrated(method: str, case: str) -> dict[str, Any]:
    module, data, kept = poor(case)
    weak = toys.classifier("lenet5", seed=1)
    patched = patch(weak, {"dog": module}, only(data, kept), calibration=method)
    return vars(patched.patches[0].calibration)


@pytest.mark.parametrize("method", ["learned", "temperature"])
def test_scores_that_are_all_alike_count_for_nothing(method: str) -> None:
    """What is left is how many of the images are of the class, 10 of 30."""
    found = calibrated(method, "all alike")
    assert found["scale"] == found["own"] == found["rest"] == 0
    assert 1 / (1 + math.exp(-found["bias"])) == pytest.approx(1 / 3, abs=0.01)


def test_isotonic_shares_of_poor_sets() -> None:
    """Rates with one image more of either kind: of 10 positives alone, 11 of 12."""
    assert calibrated("isotonic", "all alike")["shares"] == pytest.approx([1 / 3], abs=0.05)
    assert calibrated("isotonic", "no negative")["shares"] == pytest.approx([11 / 12] * 2)


def test_ranges_without_negatives_are_those_of_the_positives() -> None:
    module, data, kept = poor("no negative")
    scores = predict(module, data.take(kept)).flatten().double()
    found = {method: calibrated(method, "no negative") for method in ("min-max", "z-score")}
    assert found["min-max"]["low"] == pytest.approx(scores.min().item(), rel=1e-5)
    assert found["min-max"]["high"] == pytest.approx(scores.max().item(), rel=1e-5)
    assert found["z-score"]["mean"] == pytest.approx(scores.mean().item(), rel=1e-5)


SEEDED: dict[str, Callable[[int], Any]] = {
    "build_model": lambda seed: cs.build_model("lenet5", 3, toys.SHAPE, seed=seed),
    "compensate": lambda seed: cs.compensate(
        {}, toys.classifier(), toys.traced(toys.classifier()), toys.image_set(9), seed=seed
    ),
    "fine_tune": lambda seed: cs.fine_tune(
        {}, toys.classifier(), toys.image_set(9), cs.FineTuning(), seed=seed
    ),
    "load_data": lambda seed: cs.load_data("digits", seed=seed),
    "make_splits": lambda seed: cs.make_splits(toys.image_set(9), seed=seed),
    "recalibrate": lambda seed: cs.recalibrate(toys.classifier("lenet5"), SET, seed=seed),
    "split": lambda seed: cs.split(toys.classifier(), toys.splits(24), seed=seed),
    "subtask": lambda seed: cs.subtask(
        toys.classifier(), ("cat", "dog"), toys.splits(24), seed=seed
    ),
    "train": lambda seed: cs.train(toys.classifier(), SET, None, Training(epochs=1), seed=seed),
    "ImageSet.channel_statistics": lambda seed: SET.channel_statistics(seed=seed),
    "Splits.balanced": lambda seed: toys.splits(9).balanced(seed),
    **{
        f"{kind.__name__}.run": lambda seed, kind=kind: kind().run(None, seed=seed)  # type: ignore[misc]
        for kind in (cs.GeneticSearch, cs.GradientSearch, cs.RandomSearch, cs.ThresholdSearch)
    },
}


@pytest.mark.parametrize("name", SEEDED)
@pytest.mark.parametrize("seed", [-1, 2**63, 10**5000], ids=["less", "2^63", "huge"])
def test_numbers_that_are_no_seeds(name: str, seed: int) -> None:
    with pytest.raises(SettingsError, match=r"^seed must be a whole number from 0 to"):
        SEEDED[name](seed)


def test_every_public_call_with_a_seed_is_tried() -> None:
    found = set()
    for name in cs.__all__:
        thing = getattr(cs, name)
        calls = inspect.getmembers(thing, inspect.isfunction) if inspect.isclass(thing) else ()
        named = [(name, thing)] if inspect.isfunction(thing) else []
        named += [(f"{name}.{inner}", call) for inner, call in calls if inner[0] != "_"]
        found |= {name for name, call in named if "seed" in inspect.signature(call).parameters}
    assert found == SEEDED.keys()


def test_a_class_with_one_image_is_split() -> None:
    data = toys.image_set(24)
    few = data.take((data.labels != 1) | (torch.arange(24) == 1))
    from cnnsplitter.search import GeneticSearch

    sizes = {"population": 4, "parents": 2, "elites": 1, "generations": 1}
    search = GeneticSearch.model_validate(sizes)
    found = split(toys.classifier(), Splits(few, few, few, few), search=search, seed=0)
    assert set(found) == set(toys.CLASSES)
