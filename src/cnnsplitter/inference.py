"""Running a model over images without leaving a trace on it."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from cnnsplitter.data import ImageSet
from cnnsplitter.errors import DataError, ModelError
from cnnsplitter.nets import eval_mode

T = TypeVar("T")
Precision = Literal["float32", "bfloat16"]
WantedPrecision = Literal["auto", "float32", "bfloat16"]
"""``auto`` is bfloat16 where the device computes in it natively."""

_NO_MEMORY = ("can't allocate memory", "std::bad_alloc", "CUDA error: out of memory")
"""What errors say for which PyTorch has no type of its own."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread in the block: how sums are shared out must not change them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def device_of(model: nn.Module) -> torch.device:
    """Return where the first parameter or buffer of ``model`` lies; the CPU if it has none."""
    tensor = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def best_device() -> torch.device:
    """Return the CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def native_bfloat16(device: torch.device) -> bool:
    """Return whether ``device`` computes in bfloat16 itself, so that it is faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    # PyTorch has no public name for these two processor features yet.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def precision_on(device: torch.device, wanted: WantedPrecision) -> Precision:
    """Return what ``wanted`` means on ``device``."""
    if wanted == "auto":
        return "bfloat16" if native_bfloat16(device) else "float32"
    return wanted


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """Move images [B, C, H, W] in the channels-last layout, in which convolutions are faster."""
    layout = torch.channels_last if images.ndim == 4 else torch.preserve_format
    return images.to(device, memory_format=layout)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether there was no memory left; PyTorch does not always have a type for that."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


def in_parts(
    run: Callable[[Tensor], Tensor], images: Tensor, most: int
) -> tuple[list[Tensor], int]:
    """Run images [B, C, H, W], fewer at once where memory does not do for them.

    Args:
        run: Maps images [b, C, H, W] to outputs [b, ...].
        images: All of them.
        most: At once.

    Returns:
        The outputs, and how many images fit at once.

    Raises:
        ModelError: Not even one does.
    """
    outputs: list[Tensor] = []
    start = 0
    while start < len(images):
        try:
            outputs.append(run(images[start : start + most]))
            start += most
            continue
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if most == 1:
                raise ModelError(_no_memory(1)) from error
        # Only now has the error let go of what was computed.
        most = max(1, min(most, len(images) - start) // 2)
        _empty_cache()
    return outputs, most


def in_more_parts(
    run: Callable[[int], T], parts: int, images: int, *, least: int = 1
) -> tuple[T, int]:
    """Do a step with a batch cut into parts, into more where memory does not do for them.

    Args:
        run: Does the whole step with so many parts; it is called again where it broke off.
        parts: At first; twice as many each time.
        images: In the batch.
        least: Images in a part.

    Returns:
        What ``run`` returns, and the number of parts.

    Raises:
        ModelError: Not even the smallest parts fit.
    """
    most = images // least
    while True:
        try:
            return run(parts), parts
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if parts >= most:
                raise ModelError(_no_memory(least)) from error
        # Only now has the error let go of what was computed.
        parts = min(2 * parts, most)
        _empty_cache()


def _no_memory(images: int) -> str:
    few = "one image fits" if images == 1 else f"{images} images fit"
    return f"not even {few} into memory; use a smaller network or smaller images"


def _empty_cache() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def predict(
    model: nn.Module,
    data: ImageSet,
    *,
    batch_size: int = 256,
    precision: Precision = "float32",
) -> Tensor:
    """Run ``model`` in eval mode over all images; the model and the grad mode stay as they are.

    Args:
        model: Takes raw images uint8 or float [B, C, H, W], as the data holds them, on the
            device of its weights.
        data: n images.
        batch_size: Images at a time; fewer if they do not fit into memory.
        precision: Of convolutions and matrix products; weights stay as they are.

    Returns:
        The outputs float32[n, ...] in the order of ``data``, on the CPU.

    Raises:
        DataError: There are no images.
        ModelError: Not even one image fits into memory.
    """
    if len(data) == 0:
        raise DataError(f"{data.images.name}: no images to run the model on")
    device = device_of(model)
    outputs: list[Tensor] = []
    with (
        eval_mode(model),
        torch.inference_mode(),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        most = batch_size
        for images, _ in data.batches(batch_size):
            parts, most = in_parts(
                lambda part: model(to_device(part, device)).float().cpu(), images, most
            )
            outputs += parts
    # Outside inference mode the result is a tensor that autograd accepts.
    return torch.cat(outputs)
