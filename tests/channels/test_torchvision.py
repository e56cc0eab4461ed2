"""Every CNN classifier of torchvision: the laws of the channel map hold at random weights."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import toys
from cnnsplitter.channels import ChannelMap
from cnnsplitter.channels.cutting import sized_values
from cnnsplitter.channels.masking import masked
from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.models import build_model
from cnnsplitter.recalibration import recalibrate
from cnnsplitter.storage.saving import save
from cnnsplitter.surgery import extract, masked_forward
from strategies import randomise

models = pytest.importorskip("torchvision.models", reason="torchvision cannot be imported")

FAMILIES = (
    *("alexnet", "vgg", "resnet", "resnext", "wide_resnet", "densenet", "googlenet"),
    *("inception", "squeezenet", "mobilenet", "mnasnet", "shufflenet", "efficientnet", "regnet"),
    "convnext",
)
SMALL = {
    *("resnet18", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5"),
    *("regnet_y_400mf", "googlenet"),
}
NAMES = [n for n in models.list_models(module=models) if n.startswith(FAMILIES)]
SELECTABLE = {"squeezenet1_0": 0.99, "squeezenet1_1": 0.99}
"""Whose output is a convolution."""


def size_for(name: str) -> int:
    return 299 if name == "inception_v3" else 72


def cases() -> list[object]:
    large = [n for n in NAMES if n not in SMALL]
    return [*sorted(SMALL), *(pytest.param(n, marks=pytest.mark.large) for n in large)]


def leaves(outputs: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def largest_error(first: object, second: object) -> float:
    pairs = zip(leaves(first), leaves(second), strict=True)
    return max(((a - b).abs().max() / a.abs().max()).item() for a, b in pairs)


@pytest.mark.parametrize("name", cases())
def test_masked_equals_cut_and_the_full_selection_changes_nothing(name: str) -> None:
    size = size_for(name)
    net, _ = build_model(f"torchvision:{name}", 10, (3, size, size))
    generator = torch.Generator().manual_seed(1)
    randomise(net, generator)
    x = torch.randn(2, 3, size, size, generator=generator)
    channels = ChannelMap.trace(net, x)
    frozen = sum(f.kernels for f in channels.frozen)
    assert 1 - frozen / channels.kernel_count >= SELECTABLE.get(name, 1.0), channels.frozen
    double, x64 = copy.deepcopy(net).double().eval(), x.double()
    with torch.no_grad():
        full = extract(double, channels, channels.full_selection())
        assert largest_error(double(x64), full(x64)) == 0
        for share in (0.3, 0.6, 0.9):
            selection = channels.random_selection(share, generator=generator)
            narrow = extract(double, channels, selection).eval()
            expected = masked_forward(double, channels, selection, x64)
            assert largest_error(expected, narrow(x64)) < 1e-9
            kernels = sum(m.out_channels for m in narrow.modules() if isinstance(m, nn.Conv2d))
            assert kernels == channels.kernels(selection)


SAVED = ("shufflenet_v2_x0_5", "mobilenet_v3_small")
IN_A_NEW_PROCESS = """
import sys
from pathlib import Path
import numpy as np
import torch
from cnnsplitter.storage.saving import load
torch.set_num_threads(1)
for path in Path(sys.argv[1]).glob("*.safetensors"):
    images = torch.from_numpy(np.load(path.with_suffix(".images.npy")))
    with torch.no_grad():
        np.save(path.with_suffix(".npy"), load(path)(images).numpy())
"""


def save_class_module(name: str, folder: Path) -> Tensor:
    """Save a class module of a random selection and its images; return its scores."""
    size = size_for(name)
    net, architecture = build_model(f"torchvision:{name}", 3, (3, size, size))
    generator = torch.Generator().manual_seed(1)
    randomise(net, generator)
    strong = Classifier(net, ("a", "b", "c"), (3, size, size), architecture=architecture)
    # Deep networks tell images apart only if their norms know what they see.
    seen = toys.image_set(16, classes=strong.classes, shape=strong.input_shape)
    strong = recalibrate(strong, seen, seed=0)
    channels = ChannelMap.trace(strong.net, strong.example())
    selection = channels.random_selection(0.5, generator=generator)
    sized = sized_values(channels, selection.keep)
    narrow = extract(strong.net, channels, selection)
    module = ClassModule.of(strong, "b", narrow, selection, sized)
    images = torch.rand(2, 3, size, size, generator=generator)
    save(module, folder / f"{name}.safetensors")
    np.save(folder / f"{name}.images.npy", images.numpy())
    with torch.no_grad():
        return module(images)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(SAVED, id="a few"),
        *(pytest.param((n,), marks=pytest.mark.large, id=n) for n in NAMES if n not in SAVED),
    ],
)
def test_class_modules_give_the_same_scores_in_a_new_process(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    scores = {name: save_class_module(name, tmp_path) for name in names}
    command = [sys.executable, "-c", IN_A_NEW_PROCESS, str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    for name, expected in scores.items():
        found = np.load(tmp_path / f"{name}.npy")
        assert np.array_equal(found, expected.numpy()), name
        assert np.isfinite(found).all()
        assert found.std() > 0


OUTPUTS = {"googlenet": 3, "inception_v3": 2}
"""Number of outputs with auxiliary heads."""


@pytest.mark.parametrize("aux", [True, False])
@pytest.mark.parametrize(
    "name", ["googlenet", pytest.param("inception_v3", marks=pytest.mark.large)]
)
def test_auxiliary_heads_are_cut_along_and_all_outputs_agree(name: str, aux: bool) -> None:
    size = size_for(name)
    net = models.get_model(name, weights=None, init_weights=False, aux_logits=aux)
    generator = torch.Generator().manual_seed(2)
    randomise(net, generator)
    x = torch.randn(2, 3, size, size, generator=generator)
    channels = ChannelMap.trace(net, x)
    assert channels.frozen == ()
    assert any("aux" in layer.name.lower() for layer in channels.layers) == aux
    selection = channels.random_selection(0.5, generator=generator)
    net, x = net.double().eval(), x.double()
    narrow = extract(net, channels, selection).eval()
    # The root's own flag alone turns the heads on; the norms keep their statistics.
    net.training = narrow.training = True
    with torch.no_grad(), masked(net, channels, selection.keep.double()):
        expected = net(x)
    with torch.no_grad():
        found = narrow(x)
    assert len(leaves(found)) == (OUTPUTS[name] if aux else 1)
    assert largest_error(expected, found) < 1e-9
