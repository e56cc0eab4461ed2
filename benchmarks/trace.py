"""How long tracing and cutting networks takes, and how much memory.

Absolute seconds depend on the machine and on what else it does; the ratio to one ``torch.export``
of the same run does so less.
"""

import ctypes
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from cnnsplitter.channels import ChannelMap
from cnnsplitter.models import build_model
from cnnsplitter.results import machine, versions
from cnnsplitter.surgery import extract

NAMES = (
    *("resnet18", "resnet50", "resnext50_32x4d", "densenet121", "densenet201", "googlenet"),
    *("squeezenet1_1", "mobilenet_v2", "mobilenet_v3_large", "mnasnet1_0", "shufflenet_v2_x1_0"),
    *("efficientnet_b0", "efficientnet_b4", "efficientnet_v2_s", "regnet_y_400mf"),
    "regnet_y_3_2gf",
)
"""Of torchvision, up to the size of a ResNet-50."""
STATUS = Path("/proc/self/status")


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Networks of torchvision.")] = None,
    size: Annotated[int, typer.Option(help="Height and width of the images.")] = 224,
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 2,
) -> None:
    """Print one line of JSON: per network what tracing and cutting cost."""
    torch.set_num_threads(threads)
    measure("squeezenet1_1", 64)  # the first trace also loads what tracing needs
    figures = {name: measure(name, size) for name in names or NAMES}
    setting = {"image": size, "threads": threads, "machine": machine(), "versions": versions()}
    typer.echo(json.dumps({"benchmark": "trace", **setting, "networks": figures}))


def measure(name: str, size: int) -> dict[str, float]:
    """Return seconds, ratios of time to one export, and peaks of memory to the network's own.

    The peaks are beside the network itself, which is held all the time.
    """
    net, _ = build_model(f"torchvision:{name}", 1000, (3, size, size))
    net.eval()
    x = torch.zeros(2, 3, size, size)
    _, export = timed(lambda: torch.export.export(net, (x,), strict=False))
    (channels, trace), trace_peak = peak(lambda: timed(lambda: ChannelMap.trace(net, x)))
    selection = channels.random_selection(0.6, generator=torch.Generator().manual_seed(0))
    (_, cut), cut_peak = peak(lambda: timed(lambda: extract(net, channels, selection)))
    own = sum(tensor.nbytes for tensor in net.state_dict().values())
    return {
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "trace_seconds": round(trace, 3),
        "extract_seconds": round(cut, 3),
        "trace_by_export": round(trace / export, 3),
        "trace_peak_by_model": round(trace_peak / own, 2),
        "extract_peak_by_model": round(cut_peak / own, 2),
    }


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of ``run`` and the seconds of processor time that it took."""
    start = time.process_time()
    result = run()
    return result, time.process_time() - start


def peak(run: Callable[[], Any]) -> tuple[Any, int]:
    """Return the result of ``run`` and the most bytes that the process held beside the start.

    Linux only: elsewhere 0.
    """
    if not STATUS.exists():
        return run(), 0
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free already would hide what the run needs
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    result = run()
    return result, resident("VmHWM") - before


def resident(kind: str) -> int:
    """Return the bytes of memory that this process holds (VmRSS), or has held at most (VmHWM)."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    typer.run(main)
