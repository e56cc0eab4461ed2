"""Running a model over images without leaving a trace on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn

from cnnsplitter.data import ImageSet
from cnnsplitter.errors import DataError
from cnnsplitter.nets import eval_mode

Precision = Literal["float32", "bfloat16"]


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


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """Move images [B, C, H, W] in the channels-last layout, in which convolutions are faster."""
    layout = torch.channels_last if images.ndim == 4 else torch.preserve_format
    return images.to(device, memory_format=layout)


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
        batch_size: Images at a time.
        precision: Of convolutions and matrix products; weights stay as they are.

    Returns:
        The outputs float32[n, ...] in the order of ``data``, on the CPU.

    Raises:
        DataError: There are no images.
    """
    if len(data) == 0:
        raise DataError(f"{data.images.name}: no images to run the model on")
    device = device_of(model)
    outputs = []
    with (
        eval_mode(model),
        torch.inference_mode(),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        for images, _ in data.batches(batch_size):
            outputs.append(model(to_device(images, device)).float().cpu())
    # Outside inference mode the result is a tensor that autograd accepts.
    return torch.cat(outputs)
