import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import toys
from cnnsplitter.classifier import Architecture, Classifier
from cnnsplitter.errors import ModelError, SettingsError
from cnnsplitter.preprocessing import Preprocessing

CLASSES = ("bird", "cat")
SHAPE = (3, 4, 4)


def linear() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 2), nn.Dropout())


class Failing(nn.Module):
    """Raises, or returns, what it is told to."""

    def __init__(self, result: object) -> None:
        super().__init__()
        self.result = result

    def forward(self, x: Tensor) -> object:
        if isinstance(self.result, Exception):
            raise self.result  # HERE
        return self.result


def test_images_are_preprocessed() -> None:
    model = Classifier(linear(), CLASSES, SHAPE, Preprocessing((0.5,), (0.25,))).eval()
    images = toys.image_set(5, shape=SHAPE).images.read(torch.arange(5))
    expected = model.net((images / 255 - 0.5) / 0.25)
    torch.testing.assert_close(model(images), expected)
    torch.testing.assert_close(model(images / 255), expected)


def test_metadata() -> None:
    model = Classifier(linear(), ["bird", "cat"], SHAPE)  # type: ignore[arg-type]
    assert model.classes == CLASSES
    assert model.preprocessing == Preprocessing()
    assert model.architecture is None
    assert Architecture("toy") == Architecture("toy", {})


def test_the_example_fits_the_net() -> None:
    model = Classifier(linear().double(), CLASSES, SHAPE)
    assert model.example(5).shape == (5, *SHAPE)
    assert model.example().dtype == torch.float64
    assert Classifier(nn.Flatten(), CLASSES, SHAPE).example().dtype == torch.float32


def test_classes_must_agree_in_order() -> None:
    model = Classifier(linear(), CLASSES, SHAPE)
    model.require_classes(CLASSES)
    for other in (("cat", "bird"), ("bird",)):
        with pytest.raises(SettingsError, match=f"classes {', '.join(other)} but the model has"):
            model.require_classes(other)


def test_check_accepts_and_changes_nothing() -> None:
    net = linear()
    net[2].eval()
    model = Classifier(net, CLASSES, SHAPE)
    flags = [m.training for m in model.modules()]
    model.check()
    assert [m.training for m in model.modules()] == flags
    wrong = Classifier(linear(), CLASSES, (3, 4, 5))
    with pytest.raises(ModelError, match=r"images of shape \(3, 4, 5\) in module '1': .*mat1"):
        wrong.check()
    assert all(m.training for m in wrong.modules())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_check_names_weights_that_are_not_finite(value: float) -> None:
    net = linear()
    with torch.no_grad():
        net.get_parameter("1.bias")[1] = value
    with pytest.raises(ModelError, match=r"weight '1\.bias' holds NaN or infinite"):
        Classifier(net, CLASSES, SHAPE).check()


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), r"shape (3,) but 2 classes"),
        (nn.Flatten(0), r"shape () but 2 classes"),
        (Failing((1, 2)), "gives a tuple, but must"),
        (Failing({"logits": 1}), "gives a dict, but must"),
        (Failing(TypeError("no such\nthing")), "(3, 4, 4) (HERE): no such; mend"),
        (Failing(AssertionError()), "(3, 4, 4) (HERE): AssertionError; mend"),
    ],
)
def test_check_refuses_other_outputs(net: nn.Module, message: str) -> None:
    lines = Path(__file__).read_text().splitlines()
    line = 1 + next(number for number, text in enumerate(lines) if text.endswith("# HERE"))
    message = message.replace("HERE", f"{__file__}:{line}")
    with pytest.raises(ModelError, match=re.escape(message)) as raised:
        Classifier(net, CLASSES, SHAPE).check()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("values", [(0.5, 0.5), (0.5,) * 4])
def test_check_refuses_preprocessing_of_other_channels(values: tuple[float, ...]) -> None:
    for preprocessing in (Preprocessing(values, (1.0,)), Preprocessing((0.0,), values)):
        with pytest.raises(ModelError, match=f"for {len(values)} channels .* have 3"):
            Classifier(linear(), CLASSES, SHAPE, preprocessing).check()
    Classifier(linear(), CLASSES, SHAPE, Preprocessing((0.5,) * 3, (0.5,) * 3)).check()
