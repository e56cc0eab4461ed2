import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cnnsplitter.channels import ChannelMap
from cnnsplitter.channels.masking import masked
from cnnsplitter.errors import SelectionError, UnsupportedModelError
from cnnsplitter.models import MODELS, build_model
from cnnsplitter.nets import eval_mode
from cnnsplitter.selection import Selection
from cnnsplitter.surgery import extract, masked_forward
from strategies import Spec, build, images, randomise, specs

shares = st.floats(0.1, 0.9)
seeds = st.integers(0, 2**31)


def traced(spec: Spec) -> tuple[nn.Sequential, ChannelMap, Tensor]:
    net, x = build(spec), images(spec)
    return net, ChannelMap.trace(net, x), x


def pick(channels: ChannelMap, share: float, seed: int) -> Selection:
    return channels.random_selection(share, generator=torch.Generator().manual_seed(seed))


@given(specs(), shares, seeds)
def test_masked_equals_extracted(spec: Spec, share: float, seed: int) -> None:
    net, channels, x = traced(spec)
    selection = pick(channels, share, seed)
    narrow = extract(net, channels, selection)
    expected = masked_forward(net, channels, selection, x)
    torch.testing.assert_close(narrow(x), expected, atol=1e-12, rtol=1e-12)
    in_float32 = masked_forward(net.float(), channels, selection, x.float())
    torch.testing.assert_close(narrow.float()(x.float()), in_float32, atol=1e-5, rtol=1e-5)


@given(specs())
def test_the_full_selection_extracts_an_identical_model(spec: Spec) -> None:
    net, channels, x = traced(spec)
    whole = extract(net, channels, channels.full_selection())
    assert torch.equal(whole(x), net(x))
    assert whole.state_dict().keys() == net.state_dict().keys()


@given(specs(), shares, seeds)
def test_extraction_keeps_what_the_selection_says(spec: Spec, share: float, seed: int) -> None:
    net, channels, _ = traced(spec)
    selection = pick(channels, share, seed)
    narrow = extract(net, channels, selection)
    kernels = sum(m.out_channels for m in narrow.modules() if isinstance(m, nn.Conv2d))
    assert kernels == channels.kernels(selection)
    for module in narrow.modules():
        if isinstance(module, nn.Conv2d):
            grouped = (module.out_channels, module.in_channels // module.groups)
            assert grouped == module.weight.shape[:2]


@given(specs(), shares, seeds)
def test_a_mask_for_each_sample_equals_one_sample_at_a_time(
    spec: Spec, share: float, seed: int
) -> None:
    net, channels, x = traced(spec)
    selections = [pick(channels, share, seed + i) for i in range(len(x))]
    mask = torch.stack([s.keep for s in selections]).double()
    with masked(net, channels, mask):
        together = net(x)
    alone = [masked_forward(net, channels, s, x[i : i + 1]) for i, s in enumerate(selections)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("units", ["conv", "all"])
def test_every_model_of_the_package(name: str, units: str) -> None:
    width = 0.5 if name.startswith(("weak", "lenet")) else 0.1
    net, _ = build_model(name, 7, (2, 32, 32), width=width)
    net = net.double().eval()
    randomise(net, torch.Generator().manual_seed(3))
    x = torch.randn(2, 2, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    channels = ChannelMap.trace(net, x, units=units)  # type: ignore[arg-type]
    assert all(f.reason == "output of the network" for f in channels.frozen)
    assert units == "all" or channels.frozen == ()
    assert torch.equal(extract(net, channels, channels.full_selection())(x), net(x))
    for share in (0.3, 0.6, 0.9):
        selection = pick(channels, share, 5)
        narrow = extract(net, channels, selection)
        assert channels.kernels(selection) <= channels.kernel_count
        assert share > 0.6 or channels.kernels(selection) < channels.kernel_count
        expected = masked_forward(net, channels, selection, x)
        torch.testing.assert_close(narrow(x), expected, atol=1e-12, rtol=1e-12)


class Picky(nn.Module):
    """Writes numbers of channels into the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.conv(x).mean((2, 3))
        return self.head(pooled.view(len(x), 4))  # type: ignore[no-any-return]


def state(net: nn.Module) -> list[object]:
    return [
        [(n, t.data_ptr(), t.clone()) for n, t in net.state_dict().items()],
        [(m.training, len(m._forward_pre_hooks), dict(vars(m))) for m in net.modules()],
        [p.requires_grad for p in net.parameters()],
    ]


def assert_untouched(net: nn.Module, before: list[object]) -> None:
    after = state(net)
    assert after[1:] == before[1:]
    for (name, address, tensor), (old_name, old_address, old) in zip(
        after[0],
        before[0],
        strict=True,  # type: ignore[call-overload]
    ):
        assert (name, address) == (old_name, old_address)
        assert torch.equal(tensor, old)


@given(specs(), shares, seeds)
def test_the_users_model_is_untouched(spec: Spec, share: float, seed: int) -> None:
    net, channels, x = traced(spec)
    net.train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    before = state(net)
    selection = pick(channels, share, seed)
    extract(net, channels, selection)
    masked_forward(net, channels, selection, x)
    assert_untouched(net, before)
    with pytest.raises(RuntimeError):
        masked_forward(net, channels, selection, x[:, :2])
    assert_untouched(net, before)


def test_a_cut_that_does_not_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Picky()
    # Without the trial at trace time nobody has noticed the number 4 in the forward.
    monkeypatch.setattr("cnnsplitter.channels.map.find_fault", lambda *_: None)
    channels = ChannelMap.trace(net, torch.zeros(2, 3, 8, 8))
    before = state(net)
    with pytest.raises(UnsupportedModelError, match=r"Picky does not run.*number of channels"):
        extract(net, channels, pick(channels, 0.5, 0))
    assert_untouched(net, before)


def test_an_emptied_layer_is_refused_everywhere() -> None:
    net, _ = build_model("weak-simcnn", 3, (3, 16, 16), width=0.1)
    channels = ChannelMap.trace(net, torch.zeros(2, 3, 16, 16))
    empty = Selection(torch.zeros(channels.unit_count, dtype=torch.bool), channels.fingerprint)
    with pytest.raises(SelectionError, match="empty"):
        extract(net, channels, empty)
    with pytest.raises(SelectionError, match="empty"):
        masked_forward(net, channels, empty, torch.zeros(1, 3, 16, 16))


def test_shared_parameters_stay_shared() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Flatten())
    net.append(nn.Linear(16, 2))
    net[2].weight = net[1].weight
    x = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    channels = ChannelMap.trace(net, x)
    selection = pick(channels, 0.5, 1)
    narrow = extract(net, channels, selection)
    assert isinstance(narrow, nn.Sequential)
    assert narrow[2].weight is narrow[1].weight
    with eval_mode(narrow):
        torch.testing.assert_close(narrow(x), masked_forward(net, channels, selection, x))


def test_gradients_reach_the_mask_and_the_copy_is_deep() -> None:
    net, _ = build_model("weak-rescnn", 3, (3, 16, 16), width=0.1)
    channels = ChannelMap.trace(net, torch.zeros(2, 3, 16, 16))
    mask = torch.ones(channels.unit_count, requires_grad=True)
    with masked(net, channels, mask):
        net(torch.ones(2, 3, 16, 16)).sum().backward()
    assert mask.grad is not None
    assert bool((mask.grad != 0).any())
    narrow = extract(net, channels, channels.full_selection())
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        for parameter in narrow.parameters():
            parameter.add_(1)
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())
