"""Roughly how much memory a command will need."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cnnsplitter.classifier import Classifier
from cnnsplitter.nets import eval_mode
from cnnsplitter.planning.base import Network
from cnnsplitter.search.registry import AnySearch

_BATCH = 64
_FLOAT = 4


def memory_of(
    models: Iterable[Network],
    *,
    trained: int = 0,
    splits: tuple[Classifier, AnySearch, int] | None = None,
) -> int:
    """Return roughly how many bytes the program will need at its peak.

    That is what it has needed so far, libraries and images included, all weights, and the larger
    of what training and splitting hold beside them.

    Args:
        models: All models that live at the same time.
        trained: Images in one training step; 0 for no training.
        splits: The model that is split, how, and on how many images.
    """
    models = list(models)
    weights = sum(_bytes(model.net) for model in models)
    # beside the weights: their gradients, momentum and the best epoch's copy
    training = max((3 * _bytes(m.net) + 2 * trained * _outputs(m) for m in models), default=0)
    splitting = 0 if splits is None else _splitting(*splits)
    running = _BATCH * max((_outputs(model) for model in models), default=0)
    return _so_far() + weights + max(training if trained else 0, splitting, running)


def _splitting(strong: Classifier, search: AnySearch, images: int) -> int:
    classes, population = len(strong.classes), getattr(search, "population", 1)
    cut = _bytes(strong.net) + _BATCH * _outputs(strong)
    scores = classes * population * images * _FLOAT
    return classes * _bytes(strong.net) + torch.get_num_threads() * cut + 2 * scores


def _bytes(net: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in net.parameters())


def _outputs(model: Network) -> int:
    """Return how many bytes all layers give for one image."""
    sizes: list[int] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.nbytes)

    handles = [part.register_forward_hook(note) for part in _leaves(model.net)]
    try:
        with torch.no_grad(), eval_mode(model):
            like = next(model.net.parameters())
            model.net(torch.zeros(1, *model.input_shape, dtype=like.dtype, device=like.device))
    finally:
        for handle in handles:
            handle.remove()
    return sum(sizes)


def _leaves(net: nn.Module) -> Iterator[nn.Module]:
    return (module for module in net.modules() if not list(module.children()))


def _so_far() -> int:
    """Return the most memory that this process has held."""
    if sys.platform == "win32":
        return 0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
