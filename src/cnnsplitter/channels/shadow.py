"""Networks with shapes but no numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from cnnsplitter.channels.quick_shapes import quick_shape
from cnnsplitter.errors import ModelError
from cnnsplitter.nets import copied

_DECIDING = ("aten::item", "aten::is_nonzero", "aten::_local_scalar_dense", "aten::equal")

RUN_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)
"""What a network raises that does not fit its own shapes."""


class DataNeededError(RuntimeError):
    """A network asks for a number where there are only shapes."""


class ShapeMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs operators on tensors without data (meta device), for the shapes of their results.

    It sees operators as the network calls them, not what PyTorch makes of them, if it runs inside
    ``torch.inference_mode``.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep PyTorch from importing its compiler, seconds, only to keep it away from here."""
        return False

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        operator: Any = func
        given = (args, kwargs or {})
        tensors = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
        empty = [tensor.is_meta for tensor in tensors]
        if any(empty) and operator.name() in _DECIDING:
            raise DataNeededError(f"{operator.name()} needs data")
        if any(empty) and not all(empty):  # a constant that the network made on the processor
            given = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), given)
        args, keywords = given
        known = None if keywords else quick_shape(operator, args)
        return operator(*args, **keywords) if known is None else known


def _without_numbers(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def without_data(model: nn.Module) -> nn.Module:
    """Copy a network to the meta device, in evaluation mode; nothing of its size is allocated.

    Raises:
        ModelError: It has parameters without a size.
        UnsupportedModelError: PyTorch cannot copy it.
    """
    memo: dict[int, Any] = {}
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise ModelError(f"parameter {name!r} has no size yet; run the network once on images")
        empty = _without_numbers(parameter)
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = _without_numbers(buffer)
    return copied(model, memo).eval()


def run_shapes(model: nn.Module, shape: tuple[int, ...]) -> Any:
    """Run a network on an image batch of ``shape`` for the shapes alone; no number is computed.

    Raises:
        RuntimeError: Or another error of the network, if its shapes do not fit together.
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    empty = {name: _without_numbers(tensor) for name, tensor in tensors.items()}
    dtype = next(model.parameters(), torch.empty(0)).dtype
    image = torch.empty(shape, dtype=dtype, device="meta")
    with torch.inference_mode(), ShapeMode():  # type: ignore[no-untyped-call]
        return functional_call(model, empty, (image,))
