"""Importance measured in batches against a loop that runs one image at a time.

The loop runs each image once to see whether the strong model is confident, then once more to take
its feature maps, and takes the mean L1 of one kernel's map after the other, as the formula is read.
``ratio_by_layer`` is against the same loop when it takes all kernels of a layer at once.
"""

import argparse
import json
from functools import partial

import torch
from torch import Tensor

from benchmarks.plain import simcnn, timed
from cnnsplitter.channels import ChannelMap
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet
from cnnsplitter.importance import measure_importance


def one_by_one(
    strong: Classifier, channels: ChannelMap, data: ImageSet, *, by_kernel: bool
) -> Tensor:
    """Return float[classes, units], from the confident images of each class."""
    seen: dict[str, Tensor] = {}
    sums = torch.zeros(len(data.classes), channels.unit_count)
    counts = torch.zeros(len(data.classes))
    for image, label in data.batches(1):
        with torch.no_grad():
            sure = strong(image).softmax(dim=1)[0, label].item()
        if sure < 0:
            continue  # all images of random networks count
        handles = [
            strong.net.get_submodule(reader.name).register_forward_pre_hook(
                lambda module, args, name=reader.name: seen.update({name: args[0]})
            )
            for reader in channels.readers
        ]
        with torch.no_grad():
            strong(image)
        for handle in handles:
            handle.remove()
        counts[label] += 1
        for reader in channels.readers:
            maps = seen[reader.name][0]
            values = (
                torch.tensor([kernel.abs().mean().item() for kernel in maps])
                if by_kernel
                else maps.flatten(1).abs().mean(1)
                if maps.ndim > 1
                else maps.abs()
            )
            for_units = reader.units >= 0
            sums[int(label)].index_add_(0, reader.units[for_units], values[for_units])
    return sums / counts[:, None]


def main(arguments: list[str] | None = None) -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--images", type=int, default=1000, help="images measured in batches")
    parser.add_argument("--loop-images", type=int, default=40, help="images of the loop")
    options = parser.parse_args(arguments)
    strong, channels, data = simcnn(options.width, 10, options.images)
    some = data.take(torch.arange(options.loop_images))
    measure_importance(strong, channels, some, confidence=0)
    _, *both = timed(lambda: measure_importance(strong, channels, data, confidence=0))
    per_image = [seconds / len(data) for seconds in both]
    result: dict[str, object] = {"threads": torch.get_num_threads()}
    for name, by_kernel in (("ratio", True), ("ratio_by_layer", False)):
        _, seconds, cpu = timed(partial(one_by_one, strong, channels, some, by_kernel=by_kernel))
        result[name] = round(seconds / len(some) / per_image[0], 2)
        result[f"{name}_cpu"] = round(cpu / len(some) / per_image[1], 2)
    slow = one_by_one(strong, channels, some, by_kernel=False)
    again = measure_importance(strong, channels, some, confidence=0)
    result["same"] = torch.allclose(slow, again.scores, rtol=1e-3, atol=1e-6)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
