from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

import toys
from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.cost import measure_cost
from cnnsplitter.data import Splits, load_data
from cnnsplitter.engines import InProcess
from cnnsplitter.engines.worker import Worker, pack
from cnnsplitter.errors import (
    DataError,
    SettingsError,
)
from cnnsplitter.evaluation import evaluate
from cnnsplitter.inference import one_thread, predict
from cnnsplitter.models import build_model
from cnnsplitter.preprocessing import Preprocessing
from cnnsplitter.progress import Progress, Step, silent
from cnnsplitter.scoring import CutScorer
from cnnsplitter.search import (
    GeneticSearch,
    GradientSearch,
    RandomSearch,
    Scorer,
    Search,
    ThresholdSearch,
)
from cnnsplitter.search.gradient.pairs import Form
from cnnsplitter.splitting import limited
from cnnsplitter.subtasks.searching import FoundSubtask, MarginScorer, subtask
from cnnsplitter.surgery import masked_forward
from cnnsplitter.training import Training, train

TASK = ("7", "1", "4")
GENETIC = GeneticSearch(population=6, parents=4, elites=2, generations=3)
GRADIENT = GradientSearch(keep=0.4, rounds=2, steps=10, anneal=1, start_pairs=64)


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_data("digits")


@pytest.fixture(scope="module")
def strong(digits: Splits) -> Classifier:
    net, architecture = build_model("lenet5", 10, digits.input_shape)
    start = Classifier(net, digits.classes, digits.input_shape, Preprocessing(), architecture)
    return train(start, digits.train, None, Training(epochs=4, batch_size=32), seed=0).classifier


@pytest.fixture(scope="module")
def found(strong: Classifier, digits: Splits) -> FoundSubtask:
    return subtask(strong, TASK, digits, search=GENETIC, seed=3, search_images=60)


def test_margins_are_positive_where_the_masked_network_is_right() -> None:
    strong = toys.classifier()
    channels = toys.traced(strong)
    data = toys.image_set(40)
    selection = channels.random_selection(0.6, generator=torch.Generator().manual_seed(0))
    scorer = MarginScorer(strong, channels, data, batch_size=16)
    margins = scorer(torch.zeros(1, dtype=torch.int64), selection.keep[None])
    (images, labels), *_ = data.batches(40)
    with torch.no_grad():
        logits = masked_forward(strong.net, channels, selection, strong.preprocessing(images))
    for row, (own, label) in enumerate(zip(logits, labels.tolist(), strict=True)):
        others = torch.cat([own[:label], own[label + 1 :]])
        torch.testing.assert_close(margins[0, row], own[label] - others.max())
    whole = channels.full_selection().keep[None]
    expected = scorer(torch.zeros(1, dtype=torch.int64), whole)
    torch.testing.assert_close(scorer.whole(), expected)


def test_the_network_has_the_recorded_accuracy(found: FoundSubtask, digits: Splits) -> None:
    images = limited(digits.search.relabel(TASK), 60, 3)
    assert evaluate(found.model, images).accuracy == pytest.approx(found.result.accuracy)
    assert found.result.accuracy > 0.5
    assert found.model.classes == TASK
    assert found.model.selection is not None
    assert 0 < found.model.selection.share < 1


def test_the_strong_model_is_left_as_it_was(found: FoundSubtask, strong: Classifier) -> None:
    assert found.strong_weights == strong.weights_digest()


@pytest.mark.parametrize(
    "search", [ThresholdSearch(keep=0.6), RandomSearch(keep=0.6), GENETIC, GRADIENT]
)
def test_equal_seeds_give_equal_networks(
    search: Search, strong: Classifier, digits: Splits
) -> None:
    one, two = (
        subtask(strong, TASK, digits, search=search, seed=1, search_images=30) for _ in range(2)
    )
    assert one.model.selection == two.model.selection


def test_resumed_equals_uninterrupted(
    found: FoundSubtask, strong: Classifier, digits: Splits, tmp_path: Path
) -> None:
    def interrupt(step: Step, /) -> None:
        if step.stage == "search" and step.done == 2:
            raise KeyboardInterrupt

    def run(progress: Progress) -> FoundSubtask:
        return subtask(
            *(strong, TASK, digits),
            search=GENETIC,
            seed=3,
            search_images=60,
            checkpoint=tmp_path / "search",
            progress=progress,
        )

    with pytest.raises(KeyboardInterrupt):
        run(interrupt)
    again = run(silent)
    assert again.model.selection == found.model.selection
    assert again.result.history == found.result.history


@pytest.mark.parametrize("form", ["match", "cross-entropy", "both"])
def test_the_gradient_search_follows_margins(
    form: Form, strong: Classifier, digits: Splits
) -> None:
    search = GRADIENT.model_copy(update={"form": form})
    found = subtask(strong, TASK, digits, search=search, seed=0, search_images=60)
    images = limited(digits.search.relabel(TASK), 60, 0)
    assert found.result.accuracy == pytest.approx(evaluate(found.model, images).accuracy)
    assert found.result.best.kept <= 0.4
    drawn = RandomSearch(keep=0.4)
    other = subtask(strong, TASK, digits, search=drawn, seed=0, search_images=60)
    assert found.result.accuracy > other.result.accuracy


def test_workers_measure_the_same_margins() -> None:
    strong = toys.classifier()
    channels = toys.traced(strong)
    scorer = MarginScorer(strong, channels, toys.image_set(40))
    generator = torch.Generator().manual_seed(0)
    keep = torch.stack([channels.random_selection(0.6, generator=generator).keep for _ in range(3)])
    owner = torch.zeros(3, dtype=torch.int64)
    with one_thread():
        answer = Worker(scorer.portable(), "cpu").score(pack(owner, keep))
    assert torch.equal(torch.from_numpy(answer), scorer(owner, keep))


def test_an_engine_runs_the_candidates(
    found: FoundSubtask, strong: Classifier, digits: Splits
) -> None:
    class Counting(InProcess):
        spreads = 0

        def spread(self, scorer: CutScorer) -> AbstractContextManager[Scorer]:
            self.spreads += 1
            return super().spread(scorer)

    engine = Counting()
    again = subtask(
        *(strong, TASK, digits), search=GENETIC, seed=3, search_images=60, engine=engine
    )
    assert engine.spreads == 1
    assert again.model.selection == found.model.selection


def test_layers_that_are_not_there_are_refused_at_once(strong: Classifier, digits: Splits) -> None:
    def nothing(step: Step, /) -> None:
        raise AssertionError(f"{step.stage} has begun")

    wrong = GENETIC.model_copy(update={"start_ratios": {"conf_1": (0.5,)}})
    with pytest.raises(SettingsError, match="unknown layer 'conf_1'; did you mean 'conv_1'"):
        subtask(strong, TASK, digits, search=wrong, progress=nothing)


def test_rows_compare_all_ways(found: FoundSubtask, strong: Classifier, digits: Splits) -> None:
    modules = {name: ClassModule.of(strong, name) for name in TASK}
    rows = found.rows(digits.test, modules)
    assert [row["model"] for row in rows] == ["strong model", "sub-task", "class modules"]
    images = digits.test.relabel(TASK)
    columns = [strong.classes.index(name) for name in TASK]
    right = predict(strong, images)[:, columns].argmax(1) == images.labels
    # Whole class modules answer as the strong model does, at as many times its cost.
    assert rows[0]["accuracy"] == rows[2]["accuracy"] == pytest.approx(right.double().mean().item())
    assert rows[1]["accuracy"] == evaluate(found.model, images).accuracy
    macs = [row["macs"] for row in rows]
    assert macs[0] == measure_cost(found.strong, digits.input_shape).multiply_adds
    assert float(macs[2]) > 2.9 * float(macs[0]) > 2.9 * float(macs[1])
    assert [row["model"] for row in found.rows(digits.test)] == ["strong model", "sub-task"]


def test_what_cannot_be_searched_is_refused(strong: Classifier, digits: Splits) -> None:
    none = Splits(digits.train, digits.search.only("17"), digits.calibration, digits.test)
    with pytest.raises(DataError, match="no image of 4, but the search needs"):
        subtask(strong, TASK, none)
    with pytest.raises(DataError, match="has images of shape"):
        subtask(strong, TASK, toys.splits(50, classes=digits.classes))
    with pytest.raises(SettingsError, match="unknown class"):
        subtask(strong, TASK, digits.relabel("123"))
