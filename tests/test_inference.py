import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cnnsplitter.data import ImageSet
from cnnsplitter.errors import DataError
from cnnsplitter.inference import (
    best_device,
    device_of,
    native_bfloat16,
    predict,
    to_device,
)
from cnnsplitter.models import initialise
from cnnsplitter.nets import eval_mode


def _net() -> nn.Sequential:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 5)
    )
    initialise(net, torch.Generator().manual_seed(0))
    return net


def _data(n: int) -> ImageSet:
    images = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return ImageSet.from_arrays(images, torch.zeros(n, dtype=torch.int64), ("a", "b"))


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 20), batch_size=st.integers(1, 25))
def test_equals_one_forward_in_eval_mode(n: int, batch_size: int) -> None:
    net, data = _net(), _data(n)
    with torch.no_grad():
        expected = copy.deepcopy(net).eval()(data.images.read(data.rows))
    torch.testing.assert_close(predict(net, data, batch_size=batch_size), expected)


@pytest.mark.parametrize("grad", [True, False])
def test_leaves_flags_buffers_weights_and_grad_mode(grad: bool) -> None:
    net = _net()
    net[1].eval()
    before = copy.deepcopy(net.state_dict())
    with torch.set_grad_enabled(grad):
        predict(net, _data(5))
        assert torch.is_grad_enabled() == grad
    assert [m.training for m in net.modules()] == [True, True, False, True, True, True]
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_the_result_can_be_trained_on() -> None:
    weight = torch.ones(5, requires_grad=True)
    outputs = predict(_net(), _data(3))
    (grad,) = torch.autograd.grad((outputs * weight).sum(), weight)
    assert torch.equal(grad, outputs.sum(dim=0))


def test_bfloat16_is_rounded_and_float32_ignores_an_outer_autocast() -> None:
    net, data = _net(), _data(4)
    exact = predict(net, data)
    rounded = predict(net, data, precision="bfloat16")
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0.05, atol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(predict(net, data), exact)


def test_images_come_channels_last_and_raw() -> None:
    class Probe(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert images.dtype == torch.uint8
            assert images.is_contiguous(memory_format=torch.channels_last)
            assert not self.training
            return images[:, 0]

    images = torch.arange(3 * 2 * 4, dtype=torch.uint8).reshape(1, 3, 2, 4).repeat(2, 1, 1, 1)
    data = ImageSet.from_arrays(images, [0, 1], ("a", "b"))
    outputs = predict(Probe(), data)
    assert torch.equal(outputs, images[:, 0].float())


def test_no_images_are_refused() -> None:
    with pytest.raises(DataError, match="arrays: no images"):
        predict(_net(), _data(2).take(torch.tensor([], dtype=torch.int64)))


def test_eval_mode_restores_every_flag_also_after_an_error() -> None:
    a, b = _net(), _net()
    a[1].eval()
    b.eval()
    b[2].train()
    before = [m.training for net in (a, b) for m in net.modules()]

    def fail_inside() -> None:
        with eval_mode(a, b):
            assert not any(m.training for net in (a, b) for m in net.modules())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert [m.training for net in (a, b) for m in net.modules()] == before


def test_eval_mode_restores_shared_and_nested_modules() -> None:
    net = _net()
    with eval_mode(net, net[0], net):
        assert not net[0].training
    assert all(m.training for m in net.modules())


def test_devices() -> None:
    assert device_of(nn.ReLU()) == torch.device("cpu")
    assert device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert device_of(nn.BatchNorm1d(1, affine=False, device="meta")) == torch.device("meta")
    assert best_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_native_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not native_bfloat16(torch.device("meta"))
    for avx, amx in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda avx=avx: avx)
        monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda amx=amx: amx)
        assert native_bfloat16(torch.device("cpu")) == (avx or amx)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: True)
    assert native_bfloat16(torch.device("cuda"))


def test_to_device_keeps_other_ranks() -> None:
    assert to_device(torch.zeros(2, 3), torch.device("cpu")).shape == (2, 3)
