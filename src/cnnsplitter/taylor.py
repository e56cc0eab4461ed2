"""First-order importance: how much a class's logit changes when a unit is dropped.

Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, with the logit of
one class in place of the loss.
"""

from functools import partial

import torch
from torch import Tensor

from cnnsplitter.channels import ChannelMap
from cnnsplitter.channels.masking import masked
from cnnsplitter.classifier import Classifier, require_finite
from cnnsplitter.data import ImageSet
from cnnsplitter.errors import DataError
from cnnsplitter.importance import Importance
from cnnsplitter.inference import device_of, in_parts, to_device
from cnnsplitter.masked_scoring import constant_weights
from cnnsplitter.nets import eval_mode
from cnnsplitter.progress import Progress, Step, silent


def measure_taylor(
    strong: Classifier,
    channels: ChannelMap,
    data: ImageSet,
    *,
    batch_size: int = 64,
    progress: Progress = silent,
) -> Importance:
    """Measure the mean size of the slope of each class's logit along each unit's mask.

    Unlike the feature maps of a class's own images it tells what a class module needs on images of
    all classes, to score them low as well as high. It costs a backward pass per class.

    Args:
        strong: The strong model; left untouched.
        channels: Channel map of ``strong.net``.
        data: A few hundred images of the strong model's classes.
        batch_size: Images at a time, fewer if they do not fit into memory.
        progress: Called after every batch.

    Raises:
        SettingsError: Images of other classes.
        DataError: No images.
        ModelError: Weights that are not finite, or not even one image fits into memory.
    """
    require_finite(strong.net)
    strong.require_classes(data.classes)
    if not len(data):
        raise DataError(f"{data.images.name}: no images to measure importance on; add some")
    classes = len(strong.classes)
    total = torch.zeros(classes, channels.unit_count, dtype=torch.float64)
    batches, most = -(-len(data) // batch_size), batch_size
    for number, (images, _) in enumerate(data.batches(batch_size)):
        parts, most = in_parts(partial(_slopes, strong, channels), images, most)
        for part in parts:
            total += part
        progress(Step("importance", number + 1, batches))
    return Importance(
        (total / len(data)).float(),
        torch.full((classes,), len(data)),
        torch.zeros(classes, dtype=torch.bool),
        channels.fingerprint,
        strong.weights_digest(),
    )


def _slopes(strong: Classifier, channels: ChannelMap, images: Tensor) -> Tensor:
    """Return float64[classes, units], the sizes of the slopes, summed over images [B, C, H, W]."""
    device, slopes = device_of(strong), []
    mask = torch.ones(
        len(images), channels.unit_count, dtype=strong.example().dtype, device=device
    ).requires_grad_()
    with torch.enable_grad():
        with eval_mode(strong), constant_weights(strong), masked(strong.net, channels, mask):
            logits = strong(to_device(images, device))
        outputs = logits.sum(dim=0).unbind()
    for output in outputs:
        (slope,) = torch.autograd.grad(output, mask, retain_graph=True)
        slopes.append(slope.abs().sum(dim=0).double().cpu())
    return torch.stack(slopes)
