from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import toys
from cnnsplitter.channels import ChannelMap
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet
from cnnsplitter.errors import DataError, SettingsError, StorageError
from cnnsplitter.files import write_tensors
from cnnsplitter.importance import Importance, measure_importance, uniform_importance
from cnnsplitter.progress import Step
from strategies import Spec, build, specs

CLASSES = ("a", "b", "c", "d")


class Doubled(nn.Module):
    """Runs a network in float64, in which sums do not depend on their order."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.double())  # type: ignore[no-any-return]


def model_of(net: nn.Module) -> tuple[Classifier, ChannelMap]:
    strong = Classifier(Doubled(net.double()), CLASSES, (3, 8, 8))
    return strong, ChannelMap.trace(strong.net, strong.example())


def data(count: int = 24, seed: int = 0) -> ImageSet:
    return toys.image_set(count, classes=CLASSES, shape=(3, 8, 8), seed=seed)


def plain() -> nn.Sequential:
    """A network in the way of SimCNN, whose readers see the maps after ReLU.

    It answers each class about equally often, with a certainty of about a quarter.
    """
    generator = torch.Generator().manual_seed(3)
    head = nn.Linear(7 * 64, 4)
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(5, 7, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        head,
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
        logits = net(next(data(80).batches(80))[0] / 255)
        head.weight /= logits.std(0).mean()
        head.bias.copy_((head.bias - logits.mean(0)) / logits.std(0).mean())
    return net


def by_hand(strong: Classifier, images: ImageSet, confidence: float) -> tuple[Tensor, Tensor]:
    """One image at a time, from hooks on the activations: scores by class, and counts."""
    maps: list[Tensor] = []
    hooks = [
        m.register_forward_hook(lambda _m, _a, out: maps.append(out))
        for m in strong.modules()
        if isinstance(m, nn.ReLU)
    ]
    per_class: list[list[Tensor]] = [[] for _ in strong.classes]
    for image, label in images.batches(1):
        maps.clear()
        with torch.no_grad():
            probability = strong(image).softmax(1)[0, label.item()].item()
        if probability >= confidence:
            per_class[int(label)].append(torch.cat([m.abs().mean((0, 2, 3)) for m in maps]))
    for hook in hooks:
        hook.remove()
    scores = torch.stack([torch.stack(rows).mean(0) for rows in per_class])
    return scores, torch.tensor([len(rows) for rows in per_class])


@pytest.mark.parametrize("confidence", [0.0, 0.3])
def test_equals_the_mean_map_after_relu(confidence: float) -> None:
    strong, channels = model_of(plain())
    images = data(80)
    found = measure_importance(strong, channels, images, confidence=confidence)
    scores, counts = by_hand(strong, images, confidence)
    order = torch.cat([layer.units for layer in channels.layers])
    torch.testing.assert_close(found.scores[:, order], scores.float(), rtol=1e-6, atol=1e-7)
    assert torch.equal(found.samples, counts)
    assert found.confident.all()
    assert (counts.sum() < 80) == (confidence > 0)


@settings(max_examples=8)
@given(specs(), st.integers(1, 30))
def test_the_batch_size_does_not_matter(spec: Spec, batch_size: int) -> None:
    strong, channels = model_of(build(spec))
    images = data()
    whole = measure_importance(strong, channels, images, confidence=0.3)
    parts = measure_importance(strong, channels, images, confidence=0.3, batch_size=batch_size)
    torch.testing.assert_close(parts.scores, whole.scores, rtol=1e-5, atol=1e-7)
    assert torch.equal(parts.samples, whole.samples)
    assert torch.equal(parts.confident, whole.confident)
    assert whole.scores.shape == (4, channels.unit_count)
    assert whole.scores.isfinite().all()
    assert (whole.scores >= 0).all()
    assert whole.fingerprint == channels.fingerprint


@settings(max_examples=8)
@given(specs(), st.integers(0, 2**31))
def test_permuting_kernels_permutes_scores(spec: Spec, seed: int) -> None:
    net = build(spec)
    strong, channels = model_of(net)
    before = measure_importance(strong, channels, data())
    # The kernels of a group are permuted by exchanging all that their units touch.
    generator = torch.Generator().manual_seed(seed)
    new_place = torch.arange(channels.unit_count)
    sizes = channels.kernels_per_unit
    for group in channels.groups:
        for size in set(sizes[group.units].tolist()):
            alike = group.units[sizes[group.units] == size]
            new_place[alike] = alike[torch.randperm(len(alike), generator=generator)]
    permute(strong.net, channels, new_place)
    after = measure_importance(strong, channels, data())
    torch.testing.assert_close(after.scores[:, new_place], before.scores, rtol=1e-5, atol=1e-7)


def permute(net: nn.Module, channels: ChannelMap, new_place: Tensor) -> None:
    """Move what each unit owns along every axis to its new place."""
    tensors = dict(net.named_parameters()) | dict(net.named_buffers())
    with torch.no_grad():
        for axis in channels.axes:
            source = torch.arange(len(axis.units))
            for unit in set(axis.units[axis.units >= 0].tolist()):
                to = (axis.units == new_place[unit]).nonzero().flatten()
                source[to] = (axis.units == unit).nonzero().flatten()
            tensor = tensors[axis.tensor]
            tensor.copy_(tensor.index_select(axis.axis, source).clone())


def test_unconfident_samples_do_not_count() -> None:
    strong, channels = model_of(plain())
    images = data(80)
    sure = torch.cat([strong(x).softmax(1) for x, _ in images.batches(80)])
    sure = sure.gather(1, images.labels[:, None])[:, 0] >= 0.3
    assert 0 < sure.sum() < 80
    found = measure_importance(strong, channels, images, confidence=0.3)
    alone = measure_importance(strong, channels, images.take(sure), confidence=0.0)
    torch.testing.assert_close(found.scores, alone.scores)


def test_a_class_without_confident_samples_uses_all() -> None:
    net = plain()
    with torch.no_grad():
        net.get_parameter("5.bias")[0] -= 100  # class a is never recognised
    strong, channels = model_of(net)
    found = measure_importance(strong, channels, data(), confidence=0.01)
    everything = measure_importance(strong, channels, data(), confidence=0.0)
    assert found.confident.tolist() == [False, True, True, True]
    assert found.samples[0] == 6
    torch.testing.assert_close(found.scores[0], everything.scores[0])
    assert everything.confident.all()


def test_missing_classes_are_named() -> None:
    strong, channels = model_of(plain())
    with pytest.raises(DataError, match="noise: no image of b, d, but importance needs"):
        measure_importance(strong, channels, data().only(["a", "c"]))
    with pytest.raises(SettingsError, match="the model has a, b, c, d"):
        measure_importance(strong, channels, data().relabel(CLASSES[::-1]))


def interrupt(step: Step, /) -> None:
    raise KeyboardInterrupt


def test_the_model_is_left_as_it_was() -> None:
    strong, channels = model_of(nn.Sequential(plain(), nn.Dropout()))
    strong.train()
    strong.net.net[0][0].eval()  # type: ignore[index, union-attr]
    flags = [m.training for m in strong.modules()]
    weights = {name: tensor.clone() for name, tensor in strong.state_dict().items()}
    measure_importance(strong, channels, data())
    with pytest.raises(KeyboardInterrupt):
        measure_importance(strong, channels, data(), progress=interrupt)
    assert [m.training for m in strong.modules()] == flags
    assert not any(m._forward_pre_hooks for m in strong.modules())
    assert all(torch.equal(weights[name], t) for name, t in strong.state_dict().items())


def test_progress_is_told_after_every_batch() -> None:
    strong, channels = model_of(plain())
    steps: list[Step] = []
    measure_importance(strong, channels, data(24), batch_size=10, progress=steps.append)
    assert [(s.stage, s.done, s.total) for s in steps] == [("importance", i, 3) for i in (1, 2, 3)]


def test_uniform_importance() -> None:
    _, channels = model_of(plain())
    uniform = uniform_importance(channels, 4)
    assert torch.equal(uniform.scores, torch.ones(4, 12))
    assert uniform.fingerprint == channels.fingerprint
    assert not uniform.confident.any()


def test_saved_importance_is_the_same(tmp_path: Path) -> None:
    strong, channels = model_of(plain())
    found = measure_importance(strong, channels, data(), confidence=0.3)
    found.save(tmp_path / "importance")
    again = Importance.load(tmp_path / "importance", channels)
    for name in ("scores", "samples", "confident"):
        assert torch.equal(getattr(again, name), getattr(found, name))


def test_importance_of_something_else_is_refused(tmp_path: Path) -> None:
    _, channels = model_of(plain())
    _, other = model_of(
        nn.Sequential(nn.Conv2d(3, 4, 8), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten())
    )
    path = tmp_path / "importance"
    uniform_importance(channels, 4).save(path)
    with pytest.raises(StorageError, match="importance: holds no importance of this network"):
        Importance.load(path, other)
    write_tensors(path, {}, {"kind": "importance", "fingerprint": channels.fingerprint})
    with pytest.raises(StorageError, match="importance: is incomplete"):
        Importance.load(path, channels)
