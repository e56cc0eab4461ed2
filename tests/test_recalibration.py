import pytest
import torch
from hypothesis import given, settings
from torch import nn

import hazards
import toys
from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.errors import DataError, ModelError
from cnnsplitter.recalibration import has_batch_norm, norms_of, recalibrate
from strategies import Spec, build, specs

DATA = toys.image_set(60)


def norm_net() -> Classifier:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
    )
    net(torch.zeros(2, *toys.SHAPE))
    return toys.own_classifier(net)


def test_statistics_are_those_of_the_images() -> None:
    model = norm_net()
    again = recalibrate(model, DATA, seed=0, batch_size=60)
    (images, _), *_ = DATA.batches(60)
    with torch.no_grad():
        inner = model.net[0](model.preprocessing(images))  # type: ignore[index]
    (norm,) = norms_of(again)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, inner.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, inner.var((0, 2, 3)), rtol=1e-4, atol=1e-6)


def test_statistics_are_the_mean_over_batches_of_any_past() -> None:
    model = norm_net()
    parts = [recalibrate(model, DATA, seed=0, batch_size=20), model]
    parts[1] = recalibrate(
        recalibrate(model, toys.image_set(9), seed=5), DATA, seed=0, batch_size=20
    )
    one, two = (next(norms_of(part)) for part in parts)
    assert one.running_mean is not None
    assert two.running_mean is not None
    assert torch.equal(one.running_mean, two.running_mean)
    assert one.num_batches_tracked is not None
    assert int(one.num_batches_tracked) == 3
    assert one.momentum == 0.1


def test_a_class_module_keeps_all_but_its_statistics() -> None:
    module = toys.class_module(toys.classifier("resnet20", width=0.25))
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    random = torch.get_rng_state()
    again = recalibrate(module, DATA, seed=0)
    assert isinstance(again, ClassModule)
    assert (again.source_class, again.selection) == (module.source_class, module.selection)
    for key, tensor in again.state_dict().items():
        assert torch.equal(module.state_dict()[key], before[key])
        statistic = "running_" in key or "num_batches" in key
        assert torch.equal(tensor, before[key]) != statistic, key
    assert not any(part.training for part in again.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_equal_seeds_give_equal_statistics() -> None:
    module = toys.class_module(toys.classifier("resnet20", width=0.25))
    one, two, other = (
        recalibrate(module, DATA, seed=seed, images=30).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


@settings(max_examples=15)
@given(specs())
def test_any_network_can_be_recalibrated(spec: Spec) -> None:
    model = Classifier(build(spec).float(), ("a", "b", "c", "d"), (3, 8, 8))
    data = toys.image_set(12, classes=model.classes, shape=(3, 8, 8))
    again = recalibrate(model, data, seed=0, batch_size=6)
    x = torch.rand(3, 3, 8, 8)
    assert again(x).isfinite().all()
    assert has_batch_norm(model) == any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    if not has_batch_norm(model):
        assert torch.equal(again(x), model(x))


def test_one_image_is_not_enough() -> None:
    with pytest.raises(DataError, match="at least two images"):
        recalibrate(toys.classifier(), DATA.take(torch.tensor([0])), seed=0)


def test_batches_that_do_not_fit_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    model = norm_net()
    expected = recalibrate(model, DATA, seed=0, batch_size=10).state_dict()
    hazards.little_memory(monkeypatch, nn.Linear, 12, 12)  # behind the norm, which has seen them
    found = recalibrate(model, DATA, seed=0, batch_size=40).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_two_images_must_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = norm_net()
    hazards.little_memory(monkeypatch, nn.Conv2d, 1, 1)
    with pytest.raises(ModelError, match="not even 2 images fit into memory"):
        recalibrate(model, DATA, seed=0)
