"""What a model costs: kernels, parameters, multiply-adds, and the time for one image."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cnnsplitter.inference import device_of
from cnnsplitter.nets import eval_mode

LATENCY_SECONDS = 0.5
"""How long a model is timed."""


@dataclass(frozen=True)
class CostRatio:
    """The cost of one model as multiples of another's: below 1 it is the cheaper one.

    Attributes:
        kernels: Likewise for each attribute of ``Cost``; NaN if the other model has none.
        parameters: Of the parameters.
        multiply_adds: Of the multiply-adds.
        latency: Of the time for one image, or None if it was not measured for both.
    """

    kernels: float
    parameters: float
    multiply_adds: float
    latency: float | None


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Attributes:
        kernels: Output channels of all its 2d convolutions.
        parameters: Numbers in its weights and biases; shared ones count once.
        multiply_adds: Of its convolutions and matrix products, for one image.
        latency_ms: Median milliseconds for one image, or None if not measured.
    """

    kernels: int
    parameters: int
    multiply_adds: int
    latency_ms: float | None = None

    def relative_to(self, other: "Cost") -> CostRatio:
        """Return this cost divided by ``other``.

        A class module relative to its strong model gives the shares kept; a patched model relative
        to its weak model gives the growth that the patches cause.
        """
        latency = None
        if self.latency_ms is not None and other.latency_ms is not None:
            latency = _ratio(self.latency_ms, other.latency_ms)
        return CostRatio(
            kernels=_ratio(self.kernels, other.kernels),
            parameters=_ratio(self.parameters, other.parameters),
            multiply_adds=_ratio(self.multiply_adds, other.multiply_adds),
            latency=latency,
        )

    def kept_of(self, whole: "Cost") -> dict[str, int | float]:
        """Return its kernels, and the shares of ``whole`` that it keeps, for a table."""
        ratio = self.relative_to(whole)
        return {
            "kernels": self.kernels,
            "kept_kernels": ratio.kernels,
            "kept_parameters": ratio.parameters,
            "kept_macs": ratio.multiply_adds,
        }


def measure_cost(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    latency: bool = False,
    batch_size: int = 1,
) -> Cost:
    """Count what ``model`` costs, in eval mode; it is left as it was.

    Args:
        model: Any network that takes images [B, C, H, W], those of this package included.
        input_shape: (C, H, W) of one image.
        latency: Whether to measure the time too; it takes about half a second and depends on the
            machine, its load, and ``torch.get_num_threads()``.
        batch_size: Images run at a time while measuring the time.
    """
    with eval_mode(model), torch.no_grad():
        latency_ms = latency_of(model, _images(model, batch_size, input_shape)) if latency else None
        return Cost(
            kernels=sum(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            multiply_adds=_multiply_adds(model, _images(model, 1, input_shape)),
            latency_ms=latency_ms,
        )


def _images(model: nn.Module, batch_size: int, shape: tuple[int, int, int]) -> Tensor:
    dtype = next((parameter.dtype for parameter in model.parameters()), None)
    return torch.zeros(batch_size, *shape, dtype=dtype, device=device_of(model))


def _multiply_adds(model: nn.Module, images: Tensor) -> int:
    counter = _Counter()
    with counter:
        model(images)
    # A multiply-add is two floating point operations.
    return counter.operations // 2


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts floating point operations as PyTorch's ``FlopCounterMode`` does.

    That imports PyTorch's compiler, three seconds, only to keep it away from itself.

    Attributes:
        operations: So many so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        count, named = flop_registry.get(func._overloadpacket), dict(kwargs or {})
        if count is None:  # in inference mode, one that consists of others
            with self:
                result = func.decompose(*args, **named)
            return func(*args, **named) if result is NotImplemented else result
        result = func(*args, **named)
        self.operations += count(*args, **named, out_val=result)
        return result


def latency_of(model: nn.Module, images: Tensor) -> float:
    """Return the median milliseconds for one of ``images`` [B, C, H, W] when they are run at once.

    It takes ``LATENCY_SECONDS``; the model must be in eval mode.
    """
    from torch.utils.benchmark import Timer

    timer = Timer(
        "model(images)",
        globals={"model": model, "images": images},
        num_threads=torch.get_num_threads(),
    )
    return timer.blocked_autorange(min_run_time=LATENCY_SECONDS).median * 1000 / len(images)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
