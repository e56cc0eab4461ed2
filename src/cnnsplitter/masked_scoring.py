"""The strong model on its training images, with masks that gradients flow through."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from cnnsplitter.channels import ChannelMap
from cnnsplitter.channels.masking import masked
from cnnsplitter.classifier import Classifier, logits_of
from cnnsplitter.data import ImageSet
from cnnsplitter.errors import ModelError
from cnnsplitter.inference import device_of, in_parts, is_out_of_memory, predict, to_device
from cnnsplitter.mask_cost import MaskCost
from cnnsplitter.nets import eval_mode


@dataclass(frozen=True, eq=False)
class MaskedImages:
    """Runs masked class modules on training images; what is computed is on the model's device.

    Attributes:
        strong: The strong model; between calls it is as the user left it.
        channels: Channel map of ``strong.net``.
        data: The training images.
    """

    strong: Classifier
    channels: ChannelMap
    data: ImageSet

    @property
    def labels(self) -> Tensor:
        """int64[m], class index of every training image."""
        return self.data.labels

    @cached_property
    def logits(self) -> Tensor:
        """float32[m, classes] of the whole strong model, measured when first asked for."""
        return predict(self.strong, self.data)

    def __call__(self, images: Tensor, owner: Tensor, masks: Tensor) -> Tensor:
        """Return own-class scores float[k], through which gradients reach the masks.

        Args:
            images: int64[k], which training image.
            owner: int64[k], the class of each module.
            masks: float[k, units].
        """
        logits = self.masked_logits(images, masks)
        return logits.gather(1, owner.to(logits.device)[:, None])[:, 0]

    def masked_logits(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return logits float[k, classes], through which gradients reach the masks.

        Where memory does not do for all at once, they are computed part by part, from then on, and
        once more when the gradient is asked for.

        Args:
            images: int64[k], which training image.
            masks: float[k, units].

        Raises:
            ModelError: Not even one image fits into memory, or no gradient flows.
        """
        if self._room.is_tight:
            return self._in_parts(images, masks)
        try:
            return self._logits(images, masks)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Only now has the error let go of what was computed.
        self._room.is_tight = True
        return self._in_parts(images, masks)

    @cached_property
    def _room(self) -> "_Room":
        return _Room()

    def _in_parts(self, images: Tensor, masks: Tensor) -> Tensor:
        def run(rows: Tensor, own: Tensor) -> Tensor:
            return self._logits(images[rows], own)

        found: Tensor = _InParts.apply(masks, run)
        return found

    def _logits(self, images: Tensor, masks: Tensor) -> Tensor:
        device = device_of(self.strong)
        different = torch.tensor(sorted(set(images.tolist())))
        place = torch.searchsorted(different, images)
        pixels = self.data.images.read(self.data.rows[different]).to(device)
        x = to_device(self.strong.preprocessing(pixels)[place.to(device)], device)
        net = self.strong.net
        with eval_mode(net), constant_weights(net), masked(net, self.channels, masks.to(x)):
            logits = logits_of(net(x))
        if torch.is_grad_enabled() and masks.requires_grad and not logits.requires_grad:
            raise ModelError(
                "no gradient flows through the network, which the gradient search follows; "
                "take another search, such as genetic"
            )
        return logits

    def multiply_adds(self, masks: Tensor) -> Tensor:
        """Return the multiply-adds float64[...] for one image, given masks [..., units]."""
        return self._cost(masks)

    @cached_property
    def _cost(self) -> MaskCost:
        return MaskCost.of(self.strong, self.channels)


@dataclass
class _Room:
    """Whether memory did not do for a batch yet."""

    is_tight: bool = False


class _InParts(torch.autograd.Function):
    """Runs rows part by part, and again for the gradient, so that one part is kept at a time."""

    @staticmethod
    def forward(ctx: Any, masks: Tensor, run: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return outputs [k, ...] for masks [k, units]; ``run`` maps rows and their masks to it."""
        ctx.save_for_backward(masks)
        ctx.run = run
        rows = torch.arange(len(masks))
        outputs, ctx.most = in_parts(lambda part: run(part, masks[part]), rows, len(rows))
        return torch.cat(outputs)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the masks."""
        (masks,), (slope,) = ctx.saved_tensors, slopes

        def slope_of(rows: Tensor) -> Tensor:
            own = masks[rows].detach().requires_grad_()
            with torch.enable_grad():
                outputs = ctx.run(rows, own)
            found: Tensor = torch.autograd.grad(outputs, own, slope[rows])[0]
            return found

        parts, _ = in_parts(slope_of, torch.arange(len(masks)), ctx.most)
        return torch.cat(parts), None


@dataclass(frozen=True, eq=False)
class MaskedMargins:
    """Runs masked networks of a sub-task, whose classes all share one mask, on training images.

    The margin is smooth here: the right class's logit less the logarithm of the sum of the others'
    exponentials. Its logistic loss is the cross-entropy over all the classes.

    Attributes:
        masked: Runs the strong model, restricted to the sub-task's classes.
    """

    masked: MaskedImages

    @property
    def labels(self) -> Tensor:
        """int64[m], all 0: the sub-task takes the place of the only class."""
        return torch.zeros_like(self.masked.labels)

    @cached_property
    def logits(self) -> Tensor:
        """float32[m, 1], the margins of the whole strong model."""
        return _smooth_margins(self.masked.logits, self.masked.labels)[:, None]

    def __call__(self, images: Tensor, owner: Tensor, masks: Tensor) -> Tensor:
        """Return margins float[k], through which gradients reach the masks.

        Args:
            images: int64[k], which training image.
            owner: int64[k], all 0.
            masks: float[k, units].
        """
        return _smooth_margins(self.masked.masked_logits(images, masks), self.masked.labels[images])

    def multiply_adds(self, masks: Tensor) -> Tensor:
        """Return the multiply-adds float64[...] for one image, given masks [..., units]."""
        return self.masked.multiply_adds(masks)


def _smooth_margins(logits: Tensor, labels: Tensor) -> Tensor:
    own = labels.to(logits.device)[:, None]
    others = logits.scatter(1, own, -torch.inf).logsumexp(dim=1)
    return logits.gather(1, own)[:, 0] - others


@contextmanager
def constant_weights(net: nn.Module) -> Iterator[None]:
    """Take the weights for constants, which halves the work of the backward pass."""
    learned = [parameter for parameter in net.parameters() if parameter.requires_grad]
    try:
        for parameter in learned:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
