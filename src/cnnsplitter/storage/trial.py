"""A trial run of a network without data, which takes no memory however large its images are."""

import copy
import math

import torch
from torch import Tensor, nn

from cnnsplitter.channels.shadow import ShapeMode
from cnnsplitter.classifier import Classifier, logits_of
from cnnsplitter.errors import ModelError

_MOST_VALUES = 2**24
"""Of an image, or of a layer's output for it: 64 MB."""


def is_light(classifier: Classifier) -> bool:
    """Return whether the network may be tried out on real images.

    It runs on the meta device, where shapes are all there is.

    Raises:
        ModelError: It is too large to be tried out, and does not work without data or gives other
            outputs than one logit per class.
    """
    largest, outcome = _run(classifier)
    if largest <= _MOST_VALUES:
        return True
    if outcome != (2, len(classifier.classes)):
        raise ModelError(
            f"the network does not take images of shape {classifier.input_shape}: {outcome}"
        )
    return False


def _run(classifier: Classifier) -> tuple[int, object]:
    """Return the values of the largest output, and the logits' shape or what went wrong."""
    largest = math.prod(classifier.input_shape)

    def measure(module: object, inputs: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output[:1].numel())

    try:
        shadow = _shadow_of(classifier.net)
        for module in shadow.modules():
            module.register_forward_hook(measure)
        like = next(classifier.net.parameters(), torch.empty(0))
        images = torch.empty(2, *classifier.input_shape, dtype=like.dtype, device="meta")
        with torch.inference_mode(), ShapeMode():  # type: ignore[no-untyped-call]
            shape = tuple(logits_of(shadow(images)).shape)
        return largest, shape
    except Exception as error:  # the network may be the user's own, with errors of any type
        return largest, (str(error).strip() or type(error).__name__).splitlines()[0]


def _shadow_of(net: nn.Module) -> nn.Module:
    """Return a copy without data, so that nothing that a run keeps for later stays in ``net``."""
    held = (*net.parameters(), *net.buffers())
    return copy.deepcopy(net, {id(tensor): tensor.detach().to("meta") for tensor in held}).eval()
