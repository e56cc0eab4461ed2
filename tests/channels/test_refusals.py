"""What cannot be traced is refused in one line that says what, where, and what to do."""

import inspect
import re

import pytest
import torch
from torch import Tensor, nn

from cnnsplitter.channels import ChannelMap
from cnnsplitter.classifier import Classifier
from cnnsplitter.errors import ModelError, UnsupportedModelError
from cnnsplitter.surgery import extract, masked_forward


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.head = nn.Linear(6, 2)

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x)).mean((2, 3))


class Branching(Plain):
    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        return self.head(y if y.sum() > 0 else -y)  # type: ignore[no-any-return]  # HERE


class Counting(Plain):
    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        count = int(y.argmax())  # HERE
        return self.head(y[:count])  # type: ignore[no-any-return]


class TwoInputs(Plain):
    def forward(self, x: Tensor, other: Tensor, scale: float = 1.0) -> Tensor:  # HERE
        return self.head(scale * self.features(x + other))  # type: ignore[no-any-return]


class Numpy(Plain):
    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x).numpy()  # HERE
        return self.head(torch.from_numpy(y))  # type: ignore[no-any-return]


class Odd(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.renorm(self.features(x), 2, 1, 5.0))  # type: ignore[no-any-return]  # HERE


class Holder(nn.Module):
    """Holds the odd network as a part."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 1)
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return self.part(self.stem(x))  # type: ignore[no-any-return]


def line_of(kind: type[nn.Module]) -> str:
    lines, first = inspect.getsourcelines(kind)
    (offset,) = (number for number, line in enumerate(lines) if "# HERE" in line)
    return f"test_refusals.py:{first + offset}"


def refused(net: nn.Module, channels: int = 3) -> ModelError:
    with pytest.raises(ModelError) as caught:
        ChannelMap.trace(net, torch.zeros(2, channels, 8, 8))
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("kind", [Branching, Counting])
@pytest.mark.parametrize("held", [False, True])
def test_control_flow_that_depends_on_data(
    kind: type[nn.Module], held: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    error = refused(Holder(kind()) if held else kind())
    assert isinstance(error, UnsupportedModelError)
    assert re.match(rf"{'Holder' if held else kind.__name__} cannot be traced", str(error))
    assert line_of(kind) in str(error)
    assert "torch.where" in str(error)
    assert ("in module 'part'" in str(error)) == held
    assert capfd.readouterr() == ("", "")


def test_several_inputs() -> None:
    error = refused(TwoInputs())
    assert isinstance(error, UnsupportedModelError)
    assert "TwoInputs needs several inputs (x, other;" in str(error)
    assert line_of(TwoInputs) in str(error)
    assert "wrap it in a module" in str(error)


def test_what_export_cannot_follow() -> None:
    error = refused(Holder(Numpy()))
    assert line_of(Numpy) in str(error)
    assert "in module 'part'" in str(error)


def test_an_unknown_operator() -> None:
    error = refused(Holder(Odd()))
    assert isinstance(error, UnsupportedModelError)
    assert "renorm" in str(error)
    assert "in module 'part'" in str(error)
    assert line_of(Odd) in str(error)
    assert "unknown='freeze'" in str(error)


class Failing(Plain):
    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        if y.shape[1] == 6:
            raise KeyError("missing")  # HERE
        return self.head(y)  # type: ignore[no-any-return]


class Unfitting(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)[:, :5])  # type: ignore[no-any-return]  # HERE


@pytest.mark.parametrize("kind", [Failing, Unfitting])
def test_an_error_of_the_forward_names_line_and_layer(kind: type[nn.Module]) -> None:
    layer = "part" if kind is Failing else "part.head"
    classifier = Classifier(Holder(kind()), ("a", "b"), (3, 8, 8))
    with pytest.raises(ModelError, match="does not take images") as tried_out:
        classifier.check()
    for error in (refused(classifier.net), tried_out.value):
        assert line_of(kind) in str(error)
        assert f"in module {layer!r}" in str(error)
        assert "mend its forward" in str(error)


class Linear(nn.Module):  # HERE
    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.only(x.mean((1, 2)))  # type: ignore[no-any-return]


def test_a_network_without_convolution_is_named_with_its_line_and_layers() -> None:
    error = str(refused(Linear()))
    assert re.match(r"Linear \(.*\) has no convolution among its layers \('only' Linear\)", error)
    assert line_of(Linear) in error
    with pytest.raises(ModelError, match="no convolution or linear layer") as nothing:
        ChannelMap.trace(nn.Flatten(), torch.zeros(1, 3, 8, 8), units="all")
    assert "--units" not in str(nothing.value)


def test_of_many_layers_without_a_convolution_some_are_named() -> None:
    error = str(refused(nn.Sequential(nn.Flatten(), *[nn.Dropout() for _ in range(6)])))
    assert re.search(r"layers \('0' Flatten, .* '3' Dropout and 3 more\)", error)


def test_no_convolution() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.ReLU(), nn.Linear(5, 2))
    assert 'units="all"' in str(refused(net))
    channels = ChannelMap.trace(net, torch.zeros(2, 3, 8, 8), units="all")
    assert channels.unit_count == 5


def test_a_wrong_number_of_image_channels() -> None:
    error = refused(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(256, 2)), channels=1)
    assert "with an input of shape (2, 1, 8, 8)" in str(error)


class Keyword(nn.Module):
    """Calls its layers by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(input=torch.relu(self.a(input=x))).mean((2, 3))  # type: ignore[no-any-return]


def test_layers_may_be_called_by_keyword() -> None:
    net = Keyword()
    channels = ChannelMap.trace(net, torch.zeros(1, 3, 8, 8))
    selection = channels.random_selection(0.5, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 8, 8)
    masked, cut = masked_forward(net, channels, selection, x), extract(net, channels, selection)(x)
    assert torch.allclose(masked, cut, atol=1e-6)
    assert channels.unit_count == 6


class Restless(Keyword):
    """Drops also in evaluation mode."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x), 0.5)


def test_a_network_that_gives_other_outputs_every_time() -> None:
    net, state = Restless(), torch.get_rng_state()
    with pytest.raises(UnsupportedModelError, match="other outputs every time"):
        ChannelMap.trace(net, torch.zeros(1, 3, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)
