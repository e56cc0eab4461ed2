import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toys
from cnnsplitter.class_modules import ClassModule, compose
from cnnsplitter.classifier import Classifier
from cnnsplitter.compensation.compensating import compensate
from cnnsplitter.data import Splits, load_data
from cnnsplitter.errors import DataError, ModelError, SettingsError, StorageError
from cnnsplitter.importance import measure_importance, uniform_importance
from cnnsplitter.inference import predict
from cnnsplitter.models import build_model
from cnnsplitter.preprocessing import Preprocessing
from cnnsplitter.progress import Step
from cnnsplitter.search import (
    GeneticSearch,
    GradientSearch,
    RandomSearch,
    Search,
    ThresholdSearch,
)
from cnnsplitter.sensitivity import Sensitivity
from cnnsplitter.splitting import (
    Split,
    as_classifier,
    class_modules,
    early_precision,
    limited,
    search_set,
    split,
    trace,
)
from cnnsplitter.storage.saving import load_as, save
from cnnsplitter.training import Training, train

SEARCH = GeneticSearch(population=6, parents=4, elites=2, generations=3)
CURVES_OF_LENET = Sensitivity(("conv_0", "conv_1"), (0.4, 0.7, 1.0), torch.full((2, 3), 0.5))


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_data("digits[0-4]")


@pytest.fixture(scope="module")
def strong(digits: Splits) -> Classifier:
    net, architecture = build_model("lenet5", 5, digits.input_shape, width=0.7)
    start = Classifier(net, digits.classes, digits.input_shape, Preprocessing(), architecture)
    return train(start, digits.train, None, Training(epochs=4, batch_size=32), seed=0).classifier


@pytest.fixture(scope="module")
def found(strong: Classifier, digits: Splits) -> Split:
    return split(strong, digits, search=SEARCH, seed=3, search_images=60)


def run(strong: nn.Module, data: Splits, **settings: Any) -> Split:
    return split(strong, data, search=SEARCH, seed=3, search_images=60, **settings)


def nothing(step: Step, /) -> None:
    raise AssertionError(f"{step.stage} has begun")


def test_composing_gives_the_recorded_accuracy(found: Split, digits: Splits) -> None:
    images = limited(digits.search, 60, 3)
    assert len(images) == 60
    scores = predict(compose(found), images)
    right = (scores.argmax(1) == images.labels).double().mean().item()
    assert right == pytest.approx(found.result.accuracy, abs=1e-9)
    assert right > 0.5


@pytest.mark.parametrize("search", [SEARCH, RandomSearch(tries=2)])
def test_a_step_tells_the_multiply_adds_of_its_class_modules(
    search: Search, strong: Classifier, digits: Splits
) -> None:
    found = split(strong, digits, search=search, seed=3, search_images=60)
    counted = [float(row["kept_macs"]) for row in found.rows(strong)]
    assert found.result.best.kept_macs == pytest.approx(sum(counted) / len(counted), abs=1e-6)


def test_a_split_keeps_the_curves_that_its_search_started_from(
    found: Split, strong: Classifier, digits: Splits
) -> None:
    assert found.sensitivity is not None
    assert found.sensitivity.groups == CURVES_OF_LENET.groups
    assert run(strong, digits, sensitivity=CURVES_OF_LENET).sensitivity is CURVES_OF_LENET
    other = split(strong, digits, search=RandomSearch(), seed=3, search_images=60)
    assert other.sensitivity is None


def test_early_generations_of_a_split_see_all_classes_alike(
    strong: Classifier, digits: Splits
) -> None:
    early = {"early_generations": 2, "early_images": 20}
    search = SEARCH.model_copy(update=early)
    images = limited(digits.search, 60, 3)
    ordered = search_set(search, images, None, 0)
    assert torch.equal(ordered.rows.sort().values, images.rows.sort().values)
    shares = images.counts() / len(images)
    for count in (10, 20, 40):
        first = ordered.take(torch.arange(count)).counts()
        assert ((first - count * shares).abs() <= 1).all()
    result = split(strong, digits, search=search, seed=3, search_images=60).result
    assert [entry.early for entry in result.history] == [True, True, False]


@pytest.mark.parametrize("native", [False, True])
def test_early_generations_use_what_the_device_computes_in(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnsplitter.inference.native_bfloat16", lambda _: native)
    strong = toys.classifier("lenet5")
    assert early_precision(SEARCH, strong) == ("bfloat16" if native else "float32")
    assert early_precision(GradientSearch(), strong) == "float32"
    for precision in ("float32", "bfloat16"):
        told = SEARCH.model_copy(update={"early_precision": precision})
        assert early_precision(told, strong) == precision


def test_only_gradient_searches_score_fewer_images_than_there_are_unless_told() -> None:
    images, many = toys.image_set(1200), toys.image_set(2400, classes=tuple(map(str, range(60))))
    assert [len(search_set(SEARCH, data, None, 0)) for data in (images, many)] == [1200, 2400]
    gradient = GradientSearch()
    assert [len(search_set(gradient, data, None, 0)) for data in (images, many)] == [1000, 1200]
    assert [len(search_set(search, images, 30, 0)) for search in (SEARCH, gradient)] == [30, 30]
    assert len(search_set(gradient, images, 1200, 0)) == 1200


def test_class_modules_keep_what_their_selections_say(
    found: Split, strong: Classifier, tmp_path: Path
) -> None:
    channels = trace(strong)
    assert tuple(found) == strong.classes
    assert len(found) == 5
    for name, module in found.items():
        assert module.source_class == name
        assert module.selection == found.result.selection(name)
        assert module.selection is not None
        kernels = sum(m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d))
        assert kernels == channels.kernels(module.selection)
        save(module, tmp_path / name)
        again = load_as(ClassModule, tmp_path / name)
        x = torch.rand(3, *strong.input_shape)
        assert torch.equal(again(x), module(x))


def test_rows_give_shares_of_the_strong_model(found: Split, strong: Classifier) -> None:
    rows = found.rows(strong)
    channels = trace(strong)
    assert [row["class"] for row in rows] == list(strong.classes)
    for row in rows:
        module = found[str(row["class"])]
        assert module.selection is not None
        kept = channels.kernels(module.selection)
        assert row["kernels"] == kept
        assert row["kept_kernels"] == pytest.approx(kept / channels.kernel_count)
        parameters = sum(p.numel() for p in module.parameters())
        whole = sum(p.numel() for p in strong.parameters())
        assert row["kept_parameters"] == pytest.approx(parameters / whole)
        assert 0 < float(row["kept_macs"]) <= 1


def test_equal_seeds_give_equal_splits(found: Split, strong: Classifier, digits: Splits) -> None:
    again = run(strong, digits)
    assert torch.equal(again.result.selections, found.result.selections)
    assert again.result.history == found.result.history


def test_measured_beforehand_is_the_same(found: Split, strong: Classifier, digits: Splits) -> None:
    stages: set[str] = set()

    def note(step: Step, /) -> None:
        stages.add(step.stage)

    importance = measure_importance(strong, trace(strong), digits.train)
    again = run(strong, digits, importance=importance, progress=note)
    assert stages == {"sensitivity", "search"}
    assert torch.equal(again.result.selections, found.result.selections)
    stages.clear()
    run(strong, digits, importance=importance, sensitivity=CURVES_OF_LENET, progress=note)
    assert stages == {"search"}
    stages.clear()
    own = SEARCH.model_copy(update={"start_ratios": {"conv_0": (0.5,), "conv_1": (0.5,)}})
    split(strong, digits, search=own, search_images=60, progress=note)
    assert stages == {"importance", "search"}


@pytest.mark.parametrize("generation", [1, 2])
def test_resumed_equals_uninterrupted(
    generation: int, found: Split, strong: Classifier, digits: Splits, tmp_path: Path
) -> None:
    def interrupt(step: Step, /) -> None:
        if step.stage == "search" and step.done == generation:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(strong, digits, checkpoint=tmp_path / "search", progress=interrupt)
    stages: list[str] = []
    again = run(
        strong, digits, checkpoint=tmp_path / "search", progress=lambda s: stages.append(s.stage)
    )
    assert stages.count("search") == 3 - generation
    assert torch.equal(again.result.selections, found.result.selections)
    assert again.result.history == found.result.history
    for name, module in again.items():
        pairs = zip(module.parameters(), found[name].parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(StorageError, match="seed"):
        split(
            strong, digits, search=SEARCH, seed=4, search_images=60, checkpoint=tmp_path / "search"
        )


def test_classifiers_are_taken_as_they_are(strong: Classifier, digits: Splits) -> None:
    assert as_classifier(strong, digits) is strong
    wrapped = as_classifier(strong.net, digits)
    assert (wrapped.classes, wrapped.input_shape) == (digits.classes, digits.input_shape)
    assert wrapped.net is strong.net


@pytest.mark.parametrize("search", [SEARCH, GradientSearch(rounds=2, steps=2, anneal=1)])
def test_rows_of_hidden_linear_layers_are_units_on_request(
    search: Search, strong: Classifier, digits: Splits
) -> None:
    assert isinstance(strong.net, nn.Module)
    hidden = [m for m in strong.net.modules() if isinstance(m, nn.Linear)][:-1]
    kernels, both = trace(strong), trace(strong, units="all")
    assert both.unit_count == kernels.unit_count + sum(layer.out_features for layer in hidden)
    given: dict[str, Any] = {"seed": 3, "search_images": 60, "units": "all"}
    found = split(strong, digits, search=search, importance="taylor", **given)
    for name, module in found.modules.items():
        keep = found.result.selection(name).keep
        rows = [m.out_features for m in module.net.modules() if isinstance(m, nn.Linear)][:-1]
        assert sum(rows) + sum(
            m.out_channels for m in module.net.modules() if isinstance(m, nn.Conv2d)
        ) == int(keep.sum())
    assert int(keep.sum()) < both.unit_count


def test_what_cannot_be_split_is_refused_at_once(strong: Classifier, digits: Splits) -> None:
    with pytest.raises(SettingsError, match="select or reorder"):
        run(strong, digits.relabel("43210"), progress=nothing)
    with pytest.raises(DataError, match=r"strong model has images of shape \(1, 8, 8\) but the"):
        run(strong, toys.splits(50, classes=digits.classes), progress=nothing)
    without = Splits(digits.train, digits.search.only("0124"), digits.calibration, digits.test)
    with pytest.raises(DataError, match="digits: no image of 3, but the search needs"):
        run(strong, without, progress=nothing)
    with pytest.raises(DataError, match="but the search needs"):
        split(strong, digits, search_images=2, progress=nothing)
    without = Splits(digits.train.only("3"), digits.search, digits.calibration, digits.test)
    with pytest.raises(DataError, match="no image of 0, 1, 2, 4, but importance needs"):
        run(strong, without, progress=nothing)
    broken = build_model("lenet5", 5, digits.input_shape)[0]
    with torch.no_grad():
        broken.get_parameter("conv_1.bias")[0] = torch.nan
    with pytest.raises(ModelError, match=r"'conv_1\.bias' holds NaN"):
        run(broken, digits, progress=nothing)
    with pytest.raises(ModelError, match="but 5 classes are named"):
        run(build_model("lenet5", 4, digits.input_shape)[0], digits, progress=nothing)


@pytest.mark.parametrize(
    ("search", "needed"),
    [
        (RandomSearch(keep=0.5), False),
        (GradientSearch(rounds=1, steps=1, anneal=0, start_pairs=8), False),
        (GradientSearch(rounds=1, steps=1, anneal=0, start="importance"), True),
        (ThresholdSearch(keep=0.5), True),
    ],
)
def test_importance_is_measured_where_the_search_needs_it(
    search: Search, needed: bool, strong: Classifier, digits: Splits
) -> None:
    stages: set[str] = set()
    split(strong, digits, search=search, progress=lambda step: stages.add(step.stage))
    assert ("importance" in stages) == needed


def test_importance_of_another_network_is_refused(strong: Classifier, digits: Splits) -> None:
    net, _ = build_model("rescnn", 5, digits.input_shape, width=0.1)
    other = trace(as_classifier(net, digits))
    with pytest.raises(SettingsError, match="measured on another network"):
        run(strong, digits, importance=uniform_importance(other, 5), progress=nothing)


def test_importance_of_other_weights_is_refused(strong: Classifier, digits: Splits) -> None:
    twin = copy.deepcopy(strong)
    with torch.no_grad():
        twin.net.get_parameter("conv_1.bias")[0] += 1
    importance = measure_importance(twin, trace(twin), digits.train)
    with pytest.raises(SettingsError, match="measured on a network with other weights"):
        run(strong, digits, importance=importance, progress=nothing)


def test_compensation_changes_weights_but_no_selection(strong: Classifier, digits: Splits) -> None:
    search = GradientSearch(rounds=1, steps=1, anneal=0, start_pairs=8)
    found = split(strong, digits, search=search, seed=3)
    plain = split(strong, digits, search=search, seed=3, compensate=False)
    assert torch.equal(found.result.selections, plain.result.selections)
    channels = trace(strong)
    expected = compensate(plain.modules, strong, channels, digits.train, seed=3)
    cut = class_modules(strong, channels, found.result)
    x = torch.rand(3, *strong.input_shape)
    for name in found:
        assert torch.equal(found[name](x), expected[name](x))
        assert torch.equal(plain[name](x), cut[name](x))
        assert not torch.equal(found[name](x), plain[name](x))


def test_layers_that_are_not_there_are_refused_at_once(strong: Classifier, digits: Splits) -> None:
    other = Sensitivity(("conv_0", "conf_1"), (0.4, 1.0), torch.full((2, 2), 0.5))
    with pytest.raises(SettingsError, match=r"another network \(layer 'conf_1'\)"):
        run(strong, digits, sensitivity=other, progress=nothing)
    wrong = SEARCH.model_copy(update={"start_ratios": {"conf_1": (0.5,)}})
    with pytest.raises(SettingsError, match="unknown layer 'conf_1'; did you mean 'conv_1'"):
        split(strong, digits, search=wrong, progress=nothing)


def test_class_modules_of_a_result_can_be_cut_again(found: Split, strong: Classifier) -> None:
    again = class_modules(strong, trace(strong), found.result)
    x = torch.rand(3, *strong.input_shape)
    assert all(torch.equal(again[name](x), found[name](x)) for name in found)


def test_limited(digits: Splits) -> None:
    assert limited(digits.search, None, 0) is digits.search
    assert limited(digits.search, len(digits.search), 0) is digits.search
    some = limited(digits.search, 25, 0)
    assert len(some) == 25
    assert torch.equal(some.rows, limited(digits.search, 25, 0).rows)
    assert not torch.equal(some.rows, limited(digits.search, 25, 1).rows)
    assert some.counts().tolist() == [5] * 5


def test_no_more_images_are_held_than_a_batch(
    strong: Classifier, digits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, sizes = digits.search.images.read, []

    def record(rows: Tensor) -> Tensor:
        sizes.append(len(rows))
        return read(rows)

    # The rows are repeated, so that there are far more images than in a batch.
    many = digits.search.take(torch.arange(len(digits.search)).repeat(6))
    monkeypatch.setattr(digits.search.images, "read", record)
    data = Splits(digits.train, many, digits.calibration, digits.test)
    quick = GeneticSearch(population=2, parents=2, elites=1, generations=1)
    split(strong, data, search=quick, sensitivity=CURVES_OF_LENET)
    assert len(many) > 512
    assert max(sizes) <= 256
