"""What the benchmarks share: the network, the images, the clock."""

import time
from collections.abc import Callable
from typing import TypeVar

import torch

from cnnsplitter.channels import ChannelMap
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet
from cnnsplitter.models import build_model

T = TypeVar("T")


def simcnn(width: float, classes: int, images: int) -> tuple[Classifier, ChannelMap, ImageSet]:
    """Return a SimCNN with random weights, its channel map, and random images 32 x 32 in colour."""
    names = tuple(f"class{number}" for number in range(classes))
    net, architecture = build_model("simcnn", classes, (3, 32, 32), width=width, seed=0)
    strong = Classifier(net.eval(), names, (3, 32, 32), architecture=architecture)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, 3, 32, 32), dtype=torch.uint8, generator=generator)
    data = ImageSet.from_arrays(pixels, torch.arange(images) % classes, names)
    return strong, ChannelMap.trace(net, strong.example()), data


def timed(work: Callable[[], T]) -> tuple[T, float, float]:
    """Return the result of ``work``, its seconds, and the processor's seconds."""
    begun, used = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - begun, time.process_time() - used
