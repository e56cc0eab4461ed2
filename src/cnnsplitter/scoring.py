"""The scores step: own-class scores of many candidate class modules on the search images."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from cnnsplitter.channels import ChannelMap
from cnnsplitter.channels.cutting import narrow_copy
from cnnsplitter.classifier import Classifier, logits_of
from cnnsplitter.data import ImageSet
from cnnsplitter.inference import Precision, device_of, in_parts, one_thread, predict
from cnnsplitter.nets import eval_mode

NETS_AT_ONCE = 16
"""Narrow networks alive at a time: each batch of images is read once for all of them."""

PARTS_PER_WORKER = 4
"""Parts into which each worker's share is cut at least, so that none waits long for the last."""


@dataclass(frozen=True, eq=False)
class CutScorer:
    """Cuts each candidate into a real narrow network and runs it (method.md, section 2, step 5).

    A candidate runs on one thread of the processor, on batches that always begin at the same
    images: how many run beside it, here or elsewhere, changes no bit of its scores. On the
    processor as many run at a time as PyTorch has threads.

    Attributes:
        strong: The strong model.
        channels: Channel map of ``strong.net``.
        data: The search images.
        batch_size: Images at a time.
        early_precision: Of convolutions and matrix products where ``images`` is given, as the early
            generations of a search do; everything else is float32.
    """

    strong: Classifier
    channels: ChannelMap
    data: ImageSet
    batch_size: int = 64
    early_precision: Precision = "float32"

    def __call__(self, owner: Tensor, keep: Tensor, images: int | None = None) -> Tensor:
        """Score candidates.

        Args:
            owner: int64[k], the class of each candidate.
            keep: bool[k, units].
            images: Run only so many, the first ones.

        Returns:
            float32[k, n], the owner's logit for each of the n images.
        """
        data = self.data if images is None else self.data.take(torch.arange(images))
        bfloat16 = images is not None and self.early_precision == "bfloat16"
        threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        scores = torch.empty(len(owner), len(data))

        def fill(part: slice) -> None:
            # which precision is used is each thread's own
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
                scores[part] = self._score(owner[part], keep[part], data)

        parts = equal_parts(len(owner), threads)
        with eval_mode(self.strong), one_thread():
            if threads == 1:
                for part in parts:
                    fill(part)
            else:
                with ThreadPoolExecutor(threads, initializer=_use_one_thread) as pool:
                    list(pool.map(fill, parts))
        return scores

    @property
    def device(self) -> torch.device:
        """Where the strong model lies."""
        return device_of(self.strong)

    def on(self, device: torch.device | str) -> "CutScorer":
        """Return a scorer that runs a copy of the strong model on ``device``."""
        return replace(self, strong=deepcopy(self.strong).to(device))

    def portable(self) -> "CutScorer":
        """Return a scorer for other processes: a copy of the model, and of no image not needed."""
        return replace(self.on("cpu"), data=self.data.compact())

    def whole(self) -> Tensor:
        """Return the scores float32[classes, n] of class modules that keep everything.

        They are all the strong model, so one forward pass scores them.
        """
        return predict(self.strong, self.data, batch_size=self.batch_size).T

    def _score(self, owner: Tensor, keep: Tensor, data: ImageSet) -> Tensor:
        device, layout = self.device, torch.channels_last
        scores = torch.empty(len(owner), len(data))
        with torch.inference_mode():
            nets = [narrow_copy(self.strong.net, self.channels, row) for row in keep]
            nets = [net.to(memory_format=layout) for net in nets]
            start, most = 0, self.batch_size
            for images, labels in data.batches(self.batch_size):
                x = self.strong.preprocessing(images.to(device)).contiguous(memory_format=layout)
                stop = start + len(x)
                for row, (net, column) in enumerate(zip(nets, owner.tolist(), strict=True)):
                    parts, most = in_parts(partial(_logits, net), x, most)
                    logits = parts[0] if len(parts) == 1 else torch.cat(parts)
                    scores[row, start:stop] = self._read(logits, column, labels).float().cpu()
                start = stop
        return scores

    def _read(self, logits: Tensor, owner: int, labels: Tensor) -> Tensor:
        """Return the scores [B] among the logits [B, classes] of a candidate."""
        return logits[:, owner]


def _logits(net: nn.Module, images: Tensor) -> Tensor:
    return logits_of(net(images))


def equal_parts(count: int, workers: int) -> list[slice]:
    """Cut ``count`` candidates into parts to hand out to ``workers``, none too large to hold."""
    parts = PARTS_PER_WORKER * workers if workers > 1 else 1
    size = min(NETS_AT_ONCE, max(1, -(-count // parts)))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _use_one_thread() -> None:
    # the number is each thread's own
    torch.set_num_threads(1)
