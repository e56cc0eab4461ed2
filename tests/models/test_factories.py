"""Factories in a file of the user's, found in the current folder."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from cnnsplitter.classifier import Architecture
from cnnsplitter.errors import CnnSplitterError, ModelError, SettingsError
from cnnsplitter.models import build_from, build_model, build_with_factory

SOURCE = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self, classes=2, bias=True):
        super().__init__(nn.Conv2d(3, classes, 1, bias=bias), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    @classmethod
    def small(cls):
        return cls(3)

def raises():
    return torch.zeros(2).view(3)

def leaves():
    raise SystemExit("usage")

def returns_weights(**anything):
    return Net().state_dict()

number = 3
"""
FILES = {
    "user_nets.py": SOURCE,
    "user_broken.py": "import torch\nx = 1 / 0\n",
    "user_typo.py": "def make(:\n",
    "user_needs.py": "import user_needs_this\n",
    "user_package/__init__.py": "",
    "user_package/nets.py": "from user_nets import Net\n",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the user's files."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if name.startswith("user_"):
            del sys.modules[name]


def test_gives_the_network_and_leaves_no_trace() -> None:
    path, state = list(sys.path), torch.get_rng_state()
    net = build_with_factory("user_nets:Net", {"classes": 5, "bias": False}, seed=3)
    assert isinstance(net[0], nn.Conv2d)  # type: ignore[index]
    assert (net[0].out_channels, net[0].bias) == (5, None)  # type: ignore[index]
    assert sys.path == path
    assert torch.equal(torch.get_rng_state(), state)
    again = build_with_factory("user_nets:Net", {"classes": 5, "bias": False}, seed=3)
    other = build_with_factory("user_nets:Net", {"classes": 5, "bias": False}, seed=4)
    weights = [next(n.parameters()) for n in (net, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_dotted_names_lead_to_methods_and_through_packages() -> None:
    small = build_with_factory("user_nets:Net.small", {})
    assert small(torch.zeros(1, 3, 4, 4)).shape == (1, 3)
    assert type(build_with_factory("user_package.nets:Net", {})).__name__ == "Net"


def test_the_architecture_tells_the_reference() -> None:
    _, architecture = build_model("user_nets:Net", 4, (3, 8, 8), arguments={"classes": 4})
    assert architecture == Architecture("user_nets:Net", {"classes": 4})


def test_what_a_file_says_is_never_run() -> None:
    with pytest.raises(SettingsError, match="unknown model 'user_nets:Net'"):
        build_from(Architecture("user_nets:Net", {}))
    assert "user_nets" not in sys.modules


CASES: dict[str, tuple[str, dict[str, int], type[CnnSplitterError], str]] = {
    "no module": ("user_none:make", {}, SettingsError, "no module 'user_none' in "),
    "no package": ("user_nets.x:make", {}, SettingsError, "no module 'user_nets.x' in "),
    "no factory": ("user_nets:Nett", {}, SettingsError, r"user_nets.py\) has no 'Nett'; .* 'Net'"),
    "no call": ("user_nets:number", {}, SettingsError, "'number' .* is a int; name a function"),
    "an argument": ("user_nets:Net", {"clases": 3}, SettingsError, r"nets.py:5\): 'clases'; did "),
    "not a network": ("user_nets:returns_weights", {}, ModelError, "returns a OrderedDict, but"),
    "raises": ("user_nets:raises", {}, ModelError, r"raised RuntimeError: .*user_nets.py:14\)$"),
    "leaves": ("user_nets:leaves", {}, ModelError, r"SystemExit: usage .*user_nets.py:17\)$"),
    "broken": ("user_broken:make", {}, ModelError, r"ZeroDivisionError: .*user_broken.py:2\)$"),
    "typo": ("user_typo:make", {}, ModelError, r"raised SyntaxError: .*user_typo.py:1\)$"),
    "needs": ("user_needs:make", {}, ModelError, r"named 'user_needs_this' .*user_needs.py:1\)$"),
}


@pytest.mark.parametrize("case", CASES)
def test_mistakes_are_told_with_file_and_line(case: str) -> None:
    reference, arguments, kind, message = CASES[case]
    with pytest.raises(kind, match=message) as raised:
        build_with_factory(reference, arguments)
    assert reference in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_argument_is_named() -> None:
    (Path.cwd() / "user_more.py").write_text("def make(depth): pass\n")
    message = re.escape("user_more.py:1): missing a required argument: 'depth'")
    with pytest.raises(SettingsError, match=message):
        build_with_factory("user_more:make", {})


def test_width_and_dropout_are_for_our_networks() -> None:
    with pytest.raises(SettingsError, match="'user_nets:Net' has no width or dropout"):
        build_model("user_nets:Net", 2, (3, 8, 8), width=0.5)
    for name in ("resnet20", "torchvision:resnet18"):
        with pytest.raises(SettingsError, match="'classes' cannot be given"):
            build_model(name, 2, (3, 8, 8), arguments={"classes": 3})
    with pytest.raises(SettingsError, match="must be a name, torchvision:NAME"):
        build_model("a/b:c", 2, (3, 8, 8))
