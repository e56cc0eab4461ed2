from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import toys
from cnnsplitter.channels import ChannelMap
from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.compensation import compensating, moments
from cnnsplitter.compensation.compensating import compensate
from cnnsplitter.errors import DataError, SelectionError, SettingsError
from cnnsplitter.inference import predict
from cnnsplitter.nets import eval_mode
from cnnsplitter.selection import Selection
from cnnsplitter.splitting import trace
from cnnsplitter.subtasks.networks import cut as narrowed
from cnnsplitter.subtasks.networks import restrict
from cnnsplitter.surgery import extract

DATA = toys.image_set(40)
ALL = 10**6


def two_layers(*, norm: bool = True, bias: bool = False, seed: int = 0) -> Classifier:
    """The second convolution alone reads channels that can be cut."""
    first, second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1, bias=bias)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    norms = (nn.BatchNorm2d(4),) if norm else ()
    return toys.own_classifier(nn.Sequential(first, nn.ReLU(), second, *norms, *head), seed)


def cut(strong: Classifier, channels: ChannelMap, keep: Tensor) -> ClassModule:
    selection = Selection(keep, channels.fingerprint)
    net = extract(strong.net, channels, selection)
    return ClassModule.of(strong, "cat", net, selection)


def some_of_the_first(channels: ChannelMap, count: int, seed: int = 0) -> Tensor:
    units = channels.groups[0].units
    keep = torch.ones(channels.unit_count, dtype=torch.bool)
    keep[units[torch.randperm(6, generator=torch.Generator().manual_seed(seed))[count:]]] = False
    return keep


def second_layer(model: Classifier | ClassModule) -> Tensor:
    """What follows the second convolution, and its norm if there is one."""
    assert isinstance(model.net, nn.Sequential)
    stop = 4 if isinstance(model.net[3], nn.BatchNorm2d) else 3
    (images, _), *_ = DATA.batches(len(DATA))
    with eval_mode(model.net), torch.no_grad():
        return torch.as_tensor(model.net[:stop](model.preprocessing(images)))


def compensated(
    strong: Classifier, channels: ChannelMap, module: ClassModule, **changes: int
) -> ClassModule:
    settings = {"samples": ALL} | changes
    return compensate({"cat": module}, strong, channels, DATA, seed=0, **settings)["cat"]


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 99), count=st.integers(1, 5), norm=st.booleans(), bias=st.booleans())
def test_a_layer_is_never_further_from_the_strong_one(
    seed: int, count: int, norm: bool, bias: bool
) -> None:
    strong = two_layers(norm=norm, bias=bias, seed=seed)
    channels = toys.traced(strong)
    plain = cut(strong, channels, some_of_the_first(channels, count, seed))
    wanted = second_layer(strong)
    before, after = (
        (second_layer(module) - wanted).square().mean()
        for module in (plain, compensated(strong, channels, plain))
    )
    assert after <= before * (1 + 1e-4)


@pytest.mark.parametrize("most", [moments.MOST_FEATURES, 1])
def test_a_channel_that_others_hold_is_not_missed(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "MOST_FEATURES", most)
    monkeypatch.setattr(compensating, "RIDGE", 1e-9)
    strong = two_layers()
    first = strong.net[0]  # type: ignore[index]
    with torch.no_grad():
        first.weight[5], first.bias[5] = 2 * first.weight[1], 2 * first.bias[1]
    channels = toys.traced(strong)
    keep = torch.ones(channels.unit_count, dtype=torch.bool)
    keep[channels.layers[0].units[5]] = False
    module = cut(strong, channels, keep)
    wanted = predict(strong, DATA)[:, module.index]
    assert not torch.allclose(predict(module, DATA), wanted, atol=1e-3)
    torch.testing.assert_close(
        predict(compensated(strong, channels, module), DATA), wanted, atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("name", ["resnet20", "simcnn", "lenet5"])
def test_networks_come_nearer_to_the_strong_model_and_cost_the_same(name: str) -> None:
    strong = toys.classifier(name, width=0.25, shape=(3, 32, 32))
    data = toys.image_set(40, shape=(3, 32, 32))
    plain = toys.class_module(strong, share=0.7)
    channels = toys.traced(strong)
    better = compensate({"cat": plain}, strong, channels, data, seed=0)["cat"]
    wanted = predict(strong, data)[:, plain.index]
    before, after = ((predict(m, data) - wanted).square().mean() for m in (plain, better))
    assert after < before
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (plain, better)]
    assert shapes[0] == shapes[1]
    assert better.selection == plain.selection


def test_the_network_of_a_sub_task_is_compensated_for_all_its_logits() -> None:
    strong = restrict(toys.classifier("resnet20", width=0.25), ("dog", "bird"))
    data = DATA.relabel(strong.classes)
    channels = trace(strong)
    generator = torch.Generator().manual_seed(0)
    narrow = narrowed(strong, channels, channels.random_selection(0.7, generator=generator))
    better = compensate({"task": narrow}, strong, channels, data, seed=0)["task"]
    wanted = predict(strong, data)
    before, after = ((predict(m, data) - wanted).square().mean() for m in (narrow, better))
    assert after < before


def test_what_is_whole_stays_as_it_is() -> None:
    strong = toys.classifier("resnet20", width=0.25)
    channels = toys.traced(strong)
    whole = cut(strong, channels, channels.full_selection().keep)
    same = compensated(strong, channels, whole)
    pairs = zip(whole.state_dict().values(), same.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_inputs_are_left_as_they_were_and_seeds_decide() -> None:
    strong = toys.classifier("resnet20", width=0.25)
    plain, channels = toys.class_module(strong), toys.traced(strong)
    states = [{k: v.clone() for k, v in m.state_dict().items()} for m in (strong, plain)]
    random = torch.get_rng_state()
    few = {"images": 20, "samples": 200}
    first, again = (compensated(strong, channels, plain, **few) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), random)
    for model, state in zip((strong, plain), states, strict=True):
        assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    pairs = zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("samples", [ALL, 300])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.Linear], ids=["first", "last"])
def test_batches_that_do_not_fit_are_as_if_smaller_ones_had_been_asked_for(
    kind: type[nn.Module], samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it breaks off, what was added up and drawn until then is forgotten."""
    strong = toys.classifier("resnet20", width=0.25)
    channels = toys.traced(strong)
    forward: Callable[..., Tensor] = kind.forward

    def measured(batch_size: int) -> list[Tensor]:
        settings = {"seed": 0, "samples": samples, "batch_size": batch_size}
        found = moments.measure_moments(strong, channels, DATA, **settings)
        assert len(found) == 19
        return [tensor for known in found.values() for tensor in (known.mean, known.covariance)]

    def limited(layer: nn.Module, x: Tensor) -> Tensor:
        if len(x) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(layer, x)

    expected = measured(5)
    monkeypatch.setattr(kind, "forward", limited)
    assert all(torch.equal(a, b) for a, b in zip(measured(20), expected, strict=True))


def test_what_cannot_be_compensated_is_refused() -> None:
    strong = toys.classifier("resnet20", width=0.25)
    plain, channels = toys.class_module(strong), toys.traced(strong)
    with pytest.raises(DataError, match="compensation needs images"):
        compensate({"cat": plain}, strong, channels, DATA.take(torch.arange(0)), seed=0)
    with pytest.raises(SettingsError, match="at least one image"):
        compensated(strong, channels, plain, images=0)
    with pytest.raises(SettingsError, match="selection of 'cat' is not known"):
        compensated(strong, channels, ClassModule.of(strong, "cat"))
    other = toys.class_module(toys.classifier("lenet5", width=1.0))
    with pytest.raises(SelectionError, match="'cat' was cut out of another network"):
        compensated(strong, channels, other)
