import torch
from torch import nn

from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet, Splits
from cnnsplitter.patches.diagnosis import diagnose, try_modules

NAMES = ("bird", "cat", "dog")
SHAPE = (6, 1, 1)


class Channels(nn.Module):
    """Three channels of a one-pixel image."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, self.first : self.first + 3]


def images(n: int = 300) -> ImageSet:
    """Channels 0 to 2: a model that takes half of the cats for dogs. 3 to 5: the truth."""
    labels = torch.arange(n) % 3
    predicted = torch.where((labels == 1) & (torch.arange(n) % 2 == 0), 2, labels)
    hot = [torch.nn.functional.one_hot(which, 3).float() for which in (predicted, labels)]
    return ImageSet.from_arrays(torch.cat(hot, 1).view(n, *SHAPE), labels, NAMES, "pixels.npz")


WEAK = Classifier(Channels(0), NAMES, SHAPE)


def test_confusions_by_hand() -> None:
    cat, dog, bird = diagnose(WEAK, images())
    assert (cat.name, dog.name, bird.name) == ("cat", "dog", "bird")
    assert (cat.missed, cat.alarms) == ((("dog", 50),), ())
    assert (dog.missed, dog.alarms) == ((), (("cat", 50),))
    assert (cat.recall.estimate, cat.precision.estimate, dog.recall.estimate) == (0.5, 1, 1)
    assert cat.is_poor
    assert not bird.is_poor
    assert bird.gain == 0
    assert cat.to_json()["missed"] == {"dog": 50}


def test_the_class_module_that_helps_comes_first() -> None:
    data = images()
    modules = {
        "bird": ClassModule(Channels(3), "bird", NAMES, SHAPE),
        "cat": ClassModule(Channels(3), "cat", NAMES, SHAPE),
        "dog": ClassModule(Channels(3), "dog", NAMES, (6, 2, 2)),
    }
    verdicts, refused = try_modules(WEAK, modules, Splits(data, data, data, data))
    assert [verdict.target for verdict in verdicts] == ["cat", "bird"]
    assert [verdict.helps for verdict in verdicts] == [True, False]
    assert "shape" in refused["dog"]


def test_a_class_that_the_weak_model_lacks_is_never_found() -> None:
    data = images()
    weak = Classifier(Two(), NAMES[:2], SHAPE)
    dog, *others = diagnose(weak, data)
    assert {finding.name: finding.recall.estimate for finding in others} == {"cat": 0.5, "bird": 1}
    assert (dog.name, dog.f1.estimate, dog.images) == ("dog", 0, 100)
    modules = {name: ClassModule(Channels(3), name, NAMES, SHAPE) for name in ("cat", "dog")}
    verdicts, refused = try_modules(weak, modules, Splits(data, data, data, data))
    assert not refused
    assert {verdict.target for verdict in verdicts} == {"cat", "dog"}
    assert next(v for v in verdicts if v.target == "dog").helps


class Two(Channels):
    """Knows the first two classes."""

    def __init__(self) -> None:
        super().__init__(0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images)[:, :2]
