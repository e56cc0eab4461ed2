"""A batch that does not fit into memory is halved, and the run goes on."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hazards
import toys
from cnnsplitter.engines import Processes
from cnnsplitter.errors import ModelError
from cnnsplitter.importance import Importance, measure_importance
from cnnsplitter.inference import in_parts, is_out_of_memory, predict
from cnnsplitter.masked_scoring import MaskedImages
from cnnsplitter.pipeline import save_modules
from cnnsplitter.scoring import CutScorer
from cnnsplitter.search import GeneticSearch
from cnnsplitter.splitting import split
from cnnsplitter.taylor import measure_taylor
from cnnsplitter.training import Training, train
from toy_runs import contents

SEARCH = {"population": 6, "parents": 2, "elites": 1, "generations": 2}
ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("std::bad_alloc"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
)
KINDS = ["GPU", "Python", "processor", "start", "C++", "system"]


class Tight(nn.Module):
    """A layer that takes so many images at once."""

    def __init__(self, most: int, error: Exception = ERRORS[0]) -> None:
        super().__init__()
        self.most, self.error = most, error
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        if len(x) > self.most:
            raise self.error
        return x


def tight(most: int, error: Exception = ERRORS[0]) -> tuple[nn.Module, Tight]:
    """A classifier without batch norm whose first layer is tight."""
    model, layer = toys.classifier("lenet5"), Tight(most, error)
    model.net = nn.Sequential(layer, model.net)
    return model, layer


@pytest.mark.parametrize(
    "error", ERRORS, ids=["GPU", "Python", "processor", "start", "C++", "system"]
)
def test_predictions_are_the_same(error: Exception) -> None:
    data = toys.image_set(40)
    model, layer = tight(6, error)
    expected = predict(toys.classifier("lenet5"), data, batch_size=32)
    found = predict(model, data, batch_size=32)
    torch.testing.assert_close(found, expected)
    assert layer.batches[:4] == [32, 16, 8, 4], "halved"
    assert max(layer.batches[4:]) == 4, "and what fits is not tried again"


def test_training_goes_on_with_the_same_gradient() -> None:
    # bfloat16 rounds each part's gradient, so that equal steps soon lead elsewhere
    settings = Training(
        epochs=2, batch_size=16, schedule="constant", momentum=0.0, precision="float32"
    )
    data = toys.image_set(32)
    model, _ = tight(5)
    start, _ = tight(10**6)
    found = train(model, data, None, settings, seed=0).classifier  # type: ignore[arg-type]
    expected = train(start, data, None, settings, seed=0).classifier  # type: ignore[arg-type]
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "error", ERRORS, ids=["GPU", "Python", "processor", "start", "C++", "system"]
)
def test_one_image_that_does_not_fit_is_said(error: Exception) -> None:
    model, _ = tight(0, error)
    with pytest.raises(ModelError, match="not even one image fits into memory"):
        predict(model, toys.image_set(4))
    with pytest.raises(ModelError, match="not even one image fits into memory"):
        train(model, toys.image_set(8), None, Training(epochs=1), seed=0)  # type: ignore[arg-type]


def test_other_errors_are_not_hidden() -> None:
    model, _ = tight(0, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        predict(model, toys.image_set(4))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_class_modules_are_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    strong, data = toys.classifier(), toys.image_set(20)
    channels = toys.traced(strong)
    keep = channels.random_selection(0.5, generator=torch.Generator().manual_seed(0)).keep[None]
    expected = CutScorer(strong, channels, data)(torch.tensor([1]), keep)
    forward: Callable[..., Tensor] = nn.Conv2d.forward

    def most_seven(layer: nn.Conv2d, x: Tensor) -> Tensor:
        if len(x) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(layer, x)

    monkeypatch.setattr(nn.Conv2d, "forward", most_seven)
    found = CutScorer(strong, channels, data)(torch.tensor([1]), keep)
    torch.testing.assert_close(found, expected)


def test_parts_are_all_images_in_order() -> None:
    images = torch.arange(13.0)[:, None, None, None]
    for most in range(1, 14):
        layer = Tight(most)
        outputs, fits = in_parts(layer, images, 13)
        assert torch.equal(torch.cat(outputs), images)
        assert fits <= max(most, 1)


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let convolutions take seven images at once, and three where a gradient is wanted."""
    forward: Callable[..., Tensor] = nn.Conv2d.forward

    def limited(layer: nn.Conv2d, x: Tensor) -> Tensor:
        if len(x) > (3 if torch.is_grad_enabled() else 7):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(layer, x)

    monkeypatch.setattr(nn.Conv2d, "forward", limited)


@pytest.mark.parametrize("measure", [measure_importance, measure_taylor])
def test_importance_is_measured_in_parts(
    measure: Callable[..., Importance], request: pytest.FixtureRequest
) -> None:
    strong, data = toys.classifier(), toys.image_set(20)
    channels = toys.traced(strong)
    expected = measure(strong, channels, data, batch_size=16).scores
    request.getfixturevalue("little")
    found = measure(strong, channels, data, batch_size=16).scores
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_masked_class_modules_are_run_in_parts_with_the_same_gradient(
    request: pytest.FixtureRequest,
) -> None:
    strong, data = toys.classifier(), toys.image_set(20)
    channels = toys.traced(strong)
    masks = torch.rand(10, channels.unit_count, generator=torch.Generator().manual_seed(0))
    images, owner = torch.arange(10) * 2, torch.arange(10) % 3

    def run() -> tuple[Tensor, Tensor]:
        scored = MaskedImages(strong, channels, data)
        for _ in range(2):  # the second time it is known that they do not fit
            wanted = masks.clone().requires_grad_()
            scores = scored(images, owner, wanted)
            (slopes,) = torch.autograd.grad(scores.square().sum(), wanted)
        return scores.detach(), slopes

    expected = run()
    request.getfixturevalue("little")
    torch.testing.assert_close(run(), expected, rtol=1e-3, atol=1e-5)


def test_a_search_whose_workers_run_out_of_memory_ends_with_the_same_bytes(tmp_path: Path) -> None:
    data, search = toys.splits(24), GeneticSearch.model_validate(SEARCH)
    poor = replace(data, search=hazards.starving(data.search, tmp_path, ["PyTorch", "NumPy"]))
    for name, images in (("undisturbed", data), ("disturbed", poor)):
        folder = tmp_path / name
        found = split(
            toys.classifier("lenet5", width=0.5),
            images,
            search=search,
            seed=0,
            engine=Processes(2),
            checkpoint=folder / "search.checkpoint",
        )
        save_modules(found, folder / "modules", {"seed": 0})
    assert not [path for path in tmp_path.iterdir() if path.is_file()], "some did not run out"
    assert contents(tmp_path / "disturbed") == contents(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("images", "classes", "population", "most_mb"),
    [(4000, 10, 10, 400), pytest.param(100_000, 100, 40, 2000, marks=pytest.mark.large)],
)
def test_images_by_memory_map_are_searched_in_bounded_memory(
    images: int, classes: int, population: int, most_mb: int, tmp_path: Path
) -> None:
    """The large one makes 4,000 selections a generation."""
    sizes = [str(number) for number in (images, classes, population)]
    program = [sys.executable, "-m", "trust.mapped", str(tmp_path / "data.npz"), *sizes]
    root = Path(__file__).parents[2]
    places = [str(root / "tests"), str(root), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    for _ in range(2):
        done = subprocess.run(program, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["grown_mb"] < most_mb
