"""What cannot be traced is refused in one line that says what, where, and what to do."""

import inspect
import re

import pytest
import torch
from torch import Tensor, nn

from cnnsplitter.channels import ChannelMap
from cnnsplitter.errors import ModelError, UnsupportedModelError


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
    assert 'unknown="freeze"' in str(error)


def test_no_convolution() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.ReLU(), nn.Linear(5, 2))
    assert 'units="all"' in str(refused(net))
    channels = ChannelMap.trace(net, torch.zeros(2, 3, 8, 8), units="all")
    assert channels.unit_count == 5


def test_a_wrong_number_of_image_channels() -> None:
    error = refused(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(256, 2)), channels=1)
    assert "with an input of shape (2, 1, 8, 8)" in str(error)
