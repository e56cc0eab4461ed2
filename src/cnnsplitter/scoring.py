"""The scores step: own-class scores of many candidate class modules on the search images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cnnsplitter.channels import ChannelMap
from cnnsplitter.channels.cutting import narrow_copy
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet
from cnnsplitter.inference import device_of, eval_mode, predict

NETS_AT_ONCE = 16
"""Narrow networks alive at a time: each batch of images is read once for all of them."""


@dataclass(frozen=True, eq=False)
class CutScorer:
    """Cuts each candidate into a real narrow network and runs it (method.md, section 2, step 5).

    Attributes:
        strong: The strong model.
        channels: Channel map of ``strong.net``.
        data: The search images.
        batch_size: Images at a time.
    """

    strong: Classifier
    channels: ChannelMap
    data: ImageSet
    batch_size: int = 256

    def __call__(self, owner: Tensor, keep: Tensor) -> Tensor:
        """Score candidates.

        Args:
            owner: int64[k], the class of each candidate.
            keep: bool[k, units].

        Returns:
            float32[k, n], the owner's logit for each of the n images.
        """
        starts = range(0, len(owner), NETS_AT_ONCE)
        chunks = (slice(start, start + NETS_AT_ONCE) for start in starts)
        return torch.cat([self._score(owner[chunk], keep[chunk]) for chunk in chunks])

    def whole(self) -> Tensor:
        """Return the scores float32[classes, n] of class modules that keep everything.

        They are all the strong model, so one forward pass scores them.
        """
        return predict(self.strong, self.data, batch_size=self.batch_size).T

    def _score(self, owner: Tensor, keep: Tensor) -> Tensor:
        device = device_of(self.strong)
        layout = torch.channels_last
        scores = torch.empty(len(owner), len(self.data))
        with torch.inference_mode(), eval_mode(self.strong):
            nets = [narrow_copy(self.strong.net, self.channels, row) for row in keep]
            nets = [net.to(memory_format=layout) for net in nets]
            start = 0
            for images, _ in self.data.batches(self.batch_size):
                x = self.strong.preprocessing(images.to(device)).contiguous(memory_format=layout)
                stop = start + len(x)
                for row, (net, column) in enumerate(zip(nets, owner.tolist(), strict=True)):
                    scores[row, start:stop] = net(x)[:, column].float().cpu()
                start = stop
        return scores
