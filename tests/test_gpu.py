"""The same laws on a GPU as on the processor."""

import copy
from typing import Any

import pytest
import torch

import toys
from cnnsplitter.class_modules import compose
from cnnsplitter.compensation.compensating import compensate
from cnnsplitter.finetuning import FineTuning, fine_tune
from cnnsplitter.inference import device_of, predict
from cnnsplitter.patches.patching import patch
from cnnsplitter.search import SEARCHES, make_search
from cnnsplitter.splitting import Split, split, trace

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SMALL: dict[str, dict[str, Any]] = {
    "gradient": {"keep": 0.5, "rounds": 3, "steps": 3, "anneal": 2, "pairs": 12, "start_pairs": 12},
    "genetic": {"population": 6, "parents": 4, "elites": 2, "generations": 2},
}
DATA = toys.splits(40)


def found_by(name: str) -> Split:
    strong = toys.classifier("resnet20", width=0.5).to(DEVICE)
    search = make_search(name, SMALL.get(name, {}))
    return split(strong, DATA, search=search, compensate=False)


def on_cpu(model: torch.nn.Module) -> torch.nn.Module:
    return copy.deepcopy(model).cpu()


def assert_same_scores(model: torch.nn.Module) -> None:
    there, here = predict(model, DATA.test), predict(on_cpu(model), DATA.test)
    torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_leaves_modules_that_score_as_on_the_processor(name: str) -> None:
    found = found_by(name)
    composed = compose(found)
    assert device_of(composed).type == DEVICE
    right = (predict(composed, DATA.search).argmax(1).cpu() == DATA.search.labels).double()
    # images whose two best scores are equal but for rounding may differ
    assert right.mean().item() == pytest.approx(found.result.accuracy, abs=0.05)
    assert_same_scores(composed)


def test_class_modules_that_were_changed_score_as_on_the_processor() -> None:
    found = found_by("importance")
    strong = toys.classifier("resnet20", width=0.5).to(DEVICE)
    modules = compensate(dict(found), strong, trace(strong), DATA.train, seed=0)
    settings = FineTuning(epochs=1, batch_size=8)
    tuned = fine_tune(modules, strong, DATA.train, settings, seed=0)
    assert device_of(compose(tuned)).type == DEVICE
    assert_same_scores(compose(tuned))


def test_a_patched_model_scores_as_on_the_processor() -> None:
    weak = toys.classifier("lenet5", seed=1).to(DEVICE)
    patched = patch(weak, {"cat": found_by("importance")["cat"]}, DATA)
    assert device_of(patched).type == DEVICE
    assert_same_scores(patched)
