import copy

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.errors import ModelError, SettingsError
from cnnsplitter.evaluation import evaluate
from cnnsplitter.inference import predict
from cnnsplitter.patches import baselines
from cnnsplitter.patches.baselines import (
    fine_tune,
    random_modules,
    retrain_last_layer,
    whole_strong,
)
from cnnsplitter.training import Training
from toys import CLASSES, SHAPE, class_module, classifier, image_set, splits, traced


def test_the_whole_strong_model_scores_the_class() -> None:
    strong = classifier()
    found = whole_strong(strong, {"dog": class_module(strong, "cat")})["dog"]
    images = image_set()
    assert found.source_class == "cat"
    assert torch.equal(predict(found, images), predict(strong, images)[:, 1])
    with pytest.raises(SettingsError, match="class of the strong model"):
        whole_strong(strong, {"ship": ClassModule(nn.Flatten(), "ship", ("ship",), SHAPE)})


def test_a_random_class_module_is_as_large() -> None:
    strong = classifier(width=0.5)
    module = class_module(strong, "cat")
    assert module.selection is not None
    first, again = (random_modules(strong, {"cat": module}, 0)["cat"] for _ in range(2))
    other = random_modules(strong, {"cat": module}, 1)["cat"]
    for found in (first, other):
        assert found.selection is not None
        for group in traced(strong).groups:
            kept = found.selection.keep[group.units].sum()
            assert kept == module.selection.keep[group.units].sum()
    assert torch.equal(predict(first, image_set()), predict(again, image_set()))
    assert not torch.equal(predict(first, image_set()), predict(other, image_set()))
    with pytest.raises(SettingsError, match="was not cut out of the strong model"):
        random_modules(strong, {"cat": ClassModule.of(strong, "cat")}, 0)


def test_the_last_layer_equals_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear network: with a weak pull its last layer is a logistic regression."""
    monkeypatch.setattr(baselines, "PULLS", (1e-6,))
    weak = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3, 3)), CLASSES, (3, 1, 1))
    state = copy.deepcopy(weak.state_dict())
    data = image_set(300, shape=(3, 1, 1))
    ours = retrain_last_layer(weak, data)
    pixels = torch.cat([images for images, _ in data.batches(300)]).flatten(1).numpy() / 255
    theirs = LogisticRegression(C=1e9, tol=1e-8, max_iter=1000).fit(pixels, data.labels.numpy())
    shares = predict(ours, data).softmax(1).numpy()
    assert shares == pytest.approx(theirs.predict_proba(pixels), abs=2e-3)
    assert all(torch.equal(state[name], tensor) for name, tensor in weak.state_dict().items())


def test_only_the_last_layer_is_retrained() -> None:
    weak = classifier()
    found = retrain_last_layer(weak, image_set(60))
    changed = [
        name
        for name, tensor in found.net.state_dict().items()
        if not torch.equal(tensor, weak.net.state_dict()[name])
    ]
    assert changed
    assert len({name.rsplit(".", 1)[0] for name in changed}) == 1
    with pytest.raises(ModelError, match="does not end in a linear layer"):
        retrain_last_layer(Classifier(nn.Flatten(), CLASSES, (3, 1, 1)), image_set())


class Backwards(nn.Module):
    """Its first layer, by name, is the last one that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)
        self.body = nn.Linear(3, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images.flatten(1)).relu())  # type: ignore[no-any-return]


def test_the_last_layer_is_the_one_that_runs_last() -> None:
    weak = Classifier(Backwards(), CLASSES, (3, 1, 1))
    found = retrain_last_layer(weak, image_set(60, shape=(3, 1, 1)))
    assert torch.equal(found.net.body.weight, weak.net.body.weight)  # type: ignore[union-attr, arg-type]
    assert not torch.equal(found.net.head.weight, weak.net.head.weight)  # type: ignore[union-attr, arg-type]


def test_random_class_modules_of_two_classes_keep_other_units() -> None:
    strong = classifier(width=0.5)
    selection = class_module(strong, "cat").selection
    assert selection is not None
    modules = {name: ClassModule.of(strong, name, selection=selection) for name in ("cat", "dog")}
    found = [module.selection for module in random_modules(strong, modules, 0).values()]
    assert found[0] is not None
    assert found[1] is not None
    assert not torch.equal(found[0].keep, found[1].keep)


def test_fine_tuning_trains_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "FINE_TUNING", Training(epochs=8, batch_size=10))
    weak, data = classifier(), splits(60)
    before = copy.deepcopy(weak.state_dict())
    tuned = fine_tune(weak, data)
    after = weak.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert evaluate(tuned, data.calibration).accuracy >= evaluate(weak, data.calibration).accuracy
