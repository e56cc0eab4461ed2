"""Quick shapes are PyTorch's own, or none."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cnnsplitter.channels.quick_shapes import quick_shape

ATEN = torch.ops.aten
small = st.integers(1, 4)


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def same(operator: Callable[..., Tensor], *args: object) -> None:
    """The quick result must be PyTorch's; None where PyTorch has none."""
    quick = quick_shape(operator, args)
    try:
        expected = operator(*args)
    except RuntimeError:
        assert quick is None
        return
    assert quick is not None
    assert (quick.shape, quick.dtype) == (expected.shape, expected.dtype)
    assert quick.device.type == "meta"
    assert quick.is_contiguous()
    assert expected.is_contiguous()


@settings(max_examples=50, deadline=None)
@given(small, small, small, small, st.integers(0, 2), st.integers(1, 2))
def test_convolutions(
    channels: int, groups: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    x = meta(2, channels * groups, 9, 8)
    weight = meta(2 * groups, channels, kernel, kernel)
    pairs = [[stride, stride], [padding, padding], [dilation, dilation]]
    same(ATEN.conv2d.default, x, weight, meta(2 * groups), *pairs, groups)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 4), small, st.integers(0, 1))
def test_pools(kernel: int, stride: int, padding: int) -> None:
    x, sizes = meta(2, 3, 9, 8), ([kernel] * 2, [stride] * 2, [padding] * 2)
    same(ATEN.max_pool2d.default, x, *sizes)
    same(ATEN.avg_pool2d.default, x, *sizes)
    same(ATEN.max_pool2d.default, x, sizes[0])
    same(ATEN.adaptive_avg_pool2d.default, x, [kernel, stride])


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5, 4)])
def test_norms_and_what_keeps_the_shape(shape: tuple[int, ...]) -> None:
    x, row = meta(*shape), meta(3)
    same(ATEN.batch_norm.default, x, row, row, row, row, False, 0.1, 1e-5, True)
    same(ATEN.relu.default, x)
    same(ATEN.add.Tensor, x, meta(*shape))
    for operator, others in ((ATEN.relu_.default, ()), (ATEN.add_.Tensor, (meta(*shape),))):
        assert quick_shape(operator, (x, *others)) is x
    same(ATEN.linear.default, meta(2, 3), meta(7, 3), meta(7))


@pytest.mark.parametrize(
    ("operator", "args"),
    [
        (ATEN.conv2d.default, (meta(2, 3, 8, 8), meta(4, 2, 3, 3))),
        (ATEN.conv2d.default, (meta(2, 3, 2, 2), meta(4, 3, 3, 3))),
        (ATEN.batch_norm.default, (meta(2, 3), *[meta(4)] * 4, False, 0.1, 1e-5, True)),
        (ATEN.linear.default, (meta(2, 3), meta(7, 4))),
        (ATEN.add.Tensor, (meta(2, 3), meta(2, 4))),
    ],
)
def test_what_does_not_fit_is_left_to_pytorch(
    operator: Callable[..., Tensor], args: tuple[Tensor, ...]
) -> None:
    assert quick_shape(operator, args) is None
    with pytest.raises((RuntimeError, AssertionError)):
        operator(*args)


@pytest.mark.parametrize(
    ("operator", "args"),
    [
        (ATEN.relu.default, (torch.ones(2),)),
        (ATEN.relu.default, (meta(2, 3, 4, 4).to(memory_format=torch.channels_last),)),
        (ATEN.conv2d.default, (meta(2, 3, 8, 8), meta(4, 3, 3, 3), meta(5))),
        (ATEN.sigmoid.default, (meta(2),)),
        (ATEN.add.Tensor, (meta(2, 3), meta(3))),
        (ATEN.max_pool2d.default, (meta(2, 3, 8, 8), [2], [2], [0], [1], True)),
    ],
)
def test_what_has_no_quick_shape(operator: Callable[..., Tensor], args: tuple[object, ...]) -> None:
    assert quick_shape(operator, args) is None
