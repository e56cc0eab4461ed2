"""The strong model on its training images, with one mask per pair of an image and a class."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from cnnsplitter.channels import ChannelMap
from cnnsplitter.channels.masking import masked
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet
from cnnsplitter.inference import device_of, eval_mode, predict, to_device
from cnnsplitter.mask_cost import MaskCost


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
        device = device_of(self.strong)
        different = torch.tensor(sorted(set(images.tolist())))
        place = torch.searchsorted(different, images)
        pixels = self.data.images.read(self.data.rows[different]).to(device)
        x = to_device(self.strong.preprocessing(pixels)[place.to(device)], device)
        net = self.strong.net
        with eval_mode(net), _constant(net), masked(net, self.channels, masks.to(x)):
            logits: Tensor = net(x)
        return logits.gather(1, owner.to(device)[:, None])[:, 0]

    def multiply_adds(self, masks: Tensor) -> Tensor:
        """Return the multiply-adds float64[...] for one image, given masks [..., units]."""
        return self._cost(masks)

    @cached_property
    def _cost(self) -> MaskCost:
        return MaskCost.of(self.strong, self.channels)


@contextmanager
def _constant(net: nn.Module) -> Iterator[None]:
    """Take the weights for constants, which halves the work of the backward pass."""
    learned = [parameter for parameter in net.parameters() if parameter.requires_grad]
    try:
        for parameter in learned:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
