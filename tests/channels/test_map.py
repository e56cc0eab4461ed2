from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cnnsplitter.channels import ChannelMap
from cnnsplitter.errors import ModelError, SelectionError, UnsupportedModelError
from cnnsplitter.models import build_model
from cnnsplitter.selection import Selection
from strategies import Spec, build, images, specs


def trace(net: nn.Module, shape: tuple[int, ...] = (3, 8, 8), **options: str) -> ChannelMap:
    dtype = next(net.parameters()).dtype
    return ChannelMap.trace(net, torch.zeros(2, *shape, dtype=dtype), **options)  # type: ignore[arg-type]


@given(specs())
def test_each_kernel_belongs_to_exactly_one_unit(spec: Spec) -> None:
    channels = trace(build(spec))
    counted = torch.zeros(channels.unit_count, dtype=torch.int64)
    for layer in channels.layers:
        selectable = layer.units[layer.units >= 0]
        counted += torch.bincount(selectable, minlength=channels.unit_count)
    assert torch.equal(counted, channels.kernels_per_unit)
    assert bool((counted > 0).all())
    assert channels.kernel_count == sum(
        m.out_channels for m in build(spec).modules() if isinstance(m, nn.Conv2d)
    )


@given(specs())
def test_groups_partition_the_units(spec: Spec) -> None:
    channels = trace(build(spec))
    units = torch.cat([group.units for group in channels.groups])
    assert torch.equal(units.sort().values, torch.arange(channels.unit_count))
    names = [group.name for group in channels.groups]
    assert len(set(names)) == len(names)


@given(specs())
def test_selectable_kernels_are_those_that_some_selection_drops(spec: Spec) -> None:
    channels = trace(build(spec))
    full, dropped = channels.full_selection(), 0
    for unit in range(channels.unit_count):
        keep = full.keep.clone()
        keep[unit] = False
        selection = Selection(keep, channels.fingerprint)
        with suppress(SelectionError):
            channels.check(selection)
            dropped += channels.kernel_count - channels.kernels(selection)
    assert channels.selectable_kernels == dropped


@given(specs(), st.floats(0.05, 1), st.integers(0, 99))
def test_random_selections_leave_no_layer_empty(spec: Spec, share: float, seed: int) -> None:
    channels = trace(build(spec))
    generator = torch.Generator().manual_seed(seed)
    selection = channels.random_selection(share, generator=generator)
    channels.check(selection)
    for layer in channels.layers:
        assert bool((layer.units < 0).any()) or bool(selection.keep[layer.units].any())
    for reader in channels.readers:
        assert bool((reader.units < 0).any()) or bool(selection.keep[reader.units].any())


@given(specs(), st.integers(0, 99))
def test_fill_turns_on_only_the_best_unit_of_an_emptied_set(spec: Spec, seed: int) -> None:
    channels = trace(build(spec))
    generator = torch.Generator().manual_seed(seed)
    priority = torch.rand(5, channels.unit_count, generator=generator)
    keep = torch.rand(5, channels.unit_count, generator=generator) < 0.1
    filled = channels.fill(keep, priority)
    assert bool((filled >= keep).all())
    assert torch.equal(channels.fill(filled, priority), filled)
    best = {int(r[priority[0, r].argmax()]) for r in channels.required}
    assert set((filled[0] & ~keep[0]).nonzero().flatten().tolist()) <= best


def test_units_of_resnet20_are_tied_along_the_residual_stream() -> None:
    net, _ = build_model("resnet20", 10, (3, 32, 32))
    channels = trace(net, (3, 32, 32))
    assert channels.kernel_count == 688
    # Nine inner layers are free (336 units), the padded stream has 64 units.
    assert channels.unit_count == 336 + 64
    sizes = {g.name: (len(g.units), len(g.layers)) for g in channels.groups if len(g.layers) > 1}
    assert sizes == {"conv1+9": (16, 10), "layer2.0.conv2+5": (16, 6), "layer3.0.conv2+2": (32, 3)}
    assert channels.frozen == ()


@pytest.mark.parametrize(
    ("name", "units", "kernels", "groups"),
    [("simcnn", 4224, 4224, 13), ("rescnn", 3136, 4288, 9)],
)
def test_units_of_the_published_networks(name: str, units: int, kernels: int, groups: int) -> None:
    net, _ = build_model(name, 10, (3, 32, 32))
    channels = trace(net, (3, 32, 32))
    assert (channels.unit_count, channels.kernel_count) == (units, kernels)
    assert len(channels.groups) == groups


def test_hidden_linear_rows_are_units_on_request() -> None:
    net, _ = build_model("simcnn", 10, (3, 8, 8), width=0.1)
    conv, everything = trace(net), trace(net, units="all")
    hidden = [m.out_features for m in net.modules() if isinstance(m, nn.Linear)][:-1]
    assert everything.unit_count == conv.unit_count + sum(hidden)


def test_the_fingerprint_depends_on_the_structure_only() -> None:
    first, _ = build_model("rescnn", 10, (3, 16, 16), width=0.1, seed=1)
    second, _ = build_model("rescnn", 10, (3, 16, 16), width=0.1, seed=2)
    wider, _ = build_model("rescnn", 10, (3, 16, 16), width=0.2)
    shape = (3, 16, 16)
    assert trace(first, shape).fingerprint == trace(second, shape).fingerprint
    assert trace(first, shape).fingerprint != trace(wider, shape).fingerprint


class Functional(nn.Module):
    """Uses one convolution twice and slices channels by number."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.twice = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(self.first(x)))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Sliced(Functional):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = torch.cat([x[:, 3:], x[:, :3]], dim=1)
        return self.head(self.twice(x).mean((2, 3)))  # type: ignore[no-any-return]


class Unknown(Functional):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.renorm(self.first(x), 2, 1, 5.0).mean((2, 3)))  # type: ignore[no-any-return]


class DataDependent(Functional):
    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).mean((2, 3))
        return self.head(y) if y.sum() > 0 else self.head(-y)  # type: ignore[no-any-return]


class Added(Functional):
    """Its two convolutions write the same channels; it has one more that no other is tied to."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(6, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head((x + self.twice(self.inner(x).expand(-1, 6, -1, -1))).mean((2, 3)))  # type: ignore[no-any-return]


def test_groups_are_named_by_their_layers() -> None:
    channels = trace(Added())
    assert {group.name: group.layers for group in channels.groups} == {
        "first+twice": ("first", "twice"),
        "inner": ("inner",),
    }
    assert channels.selectable_kernels == 12, "the only channel of the inner one is always needed"


def test_a_layer_used_twice_ties_both_uses() -> None:
    channels = trace(Functional())
    assert channels.unit_count == 6
    assert channels.kernels_per_unit.tolist() == [2] * 6


def test_channels_sliced_by_number_are_frozen_with_the_reason() -> None:
    channels = trace(Sliced())
    assert [(f.layer, f.kernels, f.reason) for f in channels.frozen] == [
        ("first", 6, "channels are sliced by number")
    ]
    assert channels.unit_count == 6


def test_unknown_operators_raise_or_freeze() -> None:
    with pytest.raises(UnsupportedModelError, match=r"renorm.*own forward.*test_map.py:\d+"):
        trace(Unknown())
    channels = trace(Unknown(), unknown="freeze")
    assert channels.unit_count == 0
    assert "renorm" in channels.frozen[0].reason


class Literal(nn.Module):
    """One convolution whose number of kernels is written into the forward, and a free one."""

    def __init__(self) -> None:
        super().__init__()
        self.free = nn.Conv2d(3, 6, 3, padding=1)
        self.tied = nn.Conv2d(6, 8, 3, padding=1)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tied(torch.relu(self.free(x))).mean((2, 3))
        return self.head(x.view(-1, 8))  # type: ignore[no-any-return]


class Block(Literal):
    """The same with the number in an inner module."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Literal()
        self.first = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.relu(self.first(x)))  # type: ignore[no-any-return]


def test_a_number_in_a_forward_freezes_only_the_channels_that_it_counts() -> None:
    channels = trace(Block())
    assert channels.unit_count == 3 + 6
    (frozen,) = channels.frozen
    assert (frozen.layer, frozen.kernels) == ("inner.tied", 8)
    assert frozen.reason == "a number of channels is written into the forward"


class Counting(Literal):
    """Scales by the number of its channels, so that a cut one runs but gives other values."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.free(x))
        x = self.tied(x)
        return self.head((x / x.shape[1]).mean((2, 3)))  # type: ignore[no-any-return]


class CountingLayer(nn.Conv2d):
    """A convolution that scales its input by the number of its channels."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * x.shape[1])


def test_where_masked_and_cut_differ_the_channels_are_frozen() -> None:
    (frozen,) = trace(Counting()).frozen
    assert (frozen.layer, frozen.kernels, frozen.module) == ("tied", 8, "head")
    assert frozen.reason == "masked and cut give different values"


def test_an_inner_module_that_differs_freezes_only_its_own_channels() -> None:
    net = Block()
    net.inner = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), CountingLayer(6, 8, 1), Gap(8))  # type: ignore[assignment]
    channels = trace(net)
    reasons = {f.layer: (f.kernels, f.reason) for f in channels.frozen}
    different = "masked and cut give different values"
    assert reasons == {"inner.0": (6, different), "inner.2": (8, different)}
    assert channels.unit_count == 3


class Gap(nn.Module):
    """Averages over space and classifies."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.head = nn.Linear(channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def test_channels_mixed_by_an_operator_are_frozen_with_the_reason() -> None:
    class Mixed(Functional):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.softmax(self.first(x), dim=1)
            return self.head(self.twice(x).mean((2, 3)))  # type: ignore[no-any-return]

    (frozen,) = trace(Mixed()).frozen
    assert (frozen.layer, frozen.reason) == ("first", "channels compete in a softmax")


def test_control_flow_that_depends_on_data_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="DataDependent cannot be traced"):
        trace(DataDependent())


def test_an_input_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match=r"Functional cannot be traced.*\(2, 1, 8, 8\)"):
        trace(Functional(), (1, 8, 8))


def test_a_network_without_convolutions_is_refused() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.ReLU(), nn.Linear(5, 2))
    with pytest.raises(ModelError, match="Sequential has no convolution"):
        trace(net)


def test_check_refuses_foreign_and_emptying_selections() -> None:
    channels = trace(Functional())
    with pytest.raises(SelectionError, match="another network"):
        channels.check(Selection(torch.ones(6, dtype=torch.bool), "other"))
    with pytest.raises(SelectionError, match="empty layer 'first'"):
        channels.check(Selection(torch.zeros(6, dtype=torch.bool), channels.fingerprint))


@given(specs())
def test_tracing_leaves_the_network_as_it_was(spec: Spec) -> None:
    net = build(spec)
    net[0].train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    flags = [module.training for module in net.modules()]
    trace(net)
    assert [module.training for module in net.modules()] == flags
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert net(images(spec)).shape == (3, 4)
