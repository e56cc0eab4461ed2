"""Trace networks of libraries, try the channel map out, and record what it leaves to choose.

Run it again after a stop: a network that is recorded is not done again unless it is named.
"""

import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnsplitter.channels import ChannelMap
from cnnsplitter.channels.shadow import RUN_ERRORS, run_shapes
from cnnsplitter.errors import CnnSplitterError
from cnnsplitter.models import build_model
from cnnsplitter.results import Row, read_json, write_results
from cnnsplitter.surgery import extract, masked_forward
from experiments.network_page import page

HERE = Path(__file__).parent
RESULTS = HERE / "results/networks.json"
PAGE = HERE.parent / "docs/networks.md"
SHARES = (0.3, 0.6, 0.9)
SIZES = {
    "torchvision:inception_v3": 299,
    "timm:inception_v4": 299,
    "timm:botnet26t_256": 256,
    "timm:lambda_resnet26t": 256,
    "timm:bat_resnext26ts": 256,
    "timm:halonet26t": 256,
}
"""Height and width of the images where they are not 224."""
SMALL = 96
MOST_BYTES = 16e9
BYTES_PER_PARAMETER = 20
"""Of a network in double precision, its narrow copy, and what a cut needs for a moment."""


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help="torchvision:NAME or timm:NAME; default: torchvision")
    ] = None,
    out: Annotated[Path, typer.Option(help="Results file.")] = RESULTS,
    only_page: Annotated[bool, typer.Option("--page", help="Only write the page again.")] = False,
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 1,
) -> None:
    """Study networks, smallest first, and write the page."""
    torch.set_num_threads(threads)
    known: list[Row] = read_json(out)["rows"] if out.exists() else []
    rows = {str(row["network"]): row for row in known}
    if not only_page:
        study("torchvision:squeezenet1_1")  # the first trace also loads what tracing needs
        for name in names or [name for name in torchvision_names() if name not in rows]:
            rows[name] = study(name)
            typer.echo(rows[name])
            command = f"python -m experiments.networks --threads {threads}"
            write_results(out, list(rows.values()), command)
    if out == RESULTS:
        PAGE.write_text(page(read_json(out)))


def torchvision_names() -> list[str]:
    """Return all classifiers of torchvision, those with few parameters first."""
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    sizes = {n: models.get_model_weights(n).DEFAULT.meta["num_params"] for n in names}
    return [f"torchvision:{name}" for name in sorted(names, key=sizes.__getitem__)]


def study(name: str) -> Row:
    """Trace one network, cut it three times, and return all figures, or why there are none."""
    size = SIZES.get(name, 224)
    try:
        net, _ = build_model(name, 1000, (3, size, size))
        parameters = sum(p.numel() for p in net.parameters())
        row: Row = {"network": name, "library": _library(name), "parameters": parameters}
        if parameters * BYTES_PER_PARAMETER > MOST_BYTES:
            return {**row, "refused": "not tried: it needs more than 16 GB of memory"}
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, 3, size, size, generator=generator)
        channels, trace_seconds = timed(lambda: ChannelMap.trace(net, x, unknown="freeze"))
    except CnnSplitterError as refusal:
        return {"network": name, "library": _library(name), "refused": str(refusal)}
    selection = channels.random_selection(0.6, generator=generator)
    _, extract_seconds = timed(lambda: extract(net, channels, selection))
    seconds = {"trace_seconds": trace_seconds, "extract_seconds": extract_seconds}
    small = smaller(net.eval(), x)
    calibrate(net, small, generator)
    error = largest_error(net.double(), channels, small.double(), generator)
    return {**row, "image": size, **counts(channels), **seconds, "error": error, "refused": None}


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of ``run`` and the seconds of processor time that it took."""
    start = time.process_time()
    result = run()
    return result, time.process_time() - start


def smaller(net: nn.Module, x: Tensor) -> Tensor:
    """Return ``x`` cropped if ``net`` takes that too: fewer pixels meet the same channels."""
    crop = x[..., :SMALL, :SMALL]
    try:
        run_shapes(net, tuple(crop.shape))
    except RUN_ERRORS:
        return x
    return crop


def calibrate(net: nn.Module, x: Tensor, generator: torch.Generator) -> None:
    """Give ``net`` random biases and gains, and norms the statistics of ``x``, as training does.

    Zero gains and biases, which fresh networks have, would hide a wrong cut.
    """
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.numel() == max(parameter.shape, default=1):
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        net.eval()
        for norm in norms:
            norm.train().momentum = 1.0
        net(x)
    net.eval()


def largest_error(
    net: nn.Module, channels: ChannelMap, x: Tensor, generator: torch.Generator
) -> float:
    """Return the largest difference between masked and cut, relative to the largest output.

    The full selection counts too: there the network itself is the reference.
    """
    with torch.no_grad():
        whole = extract(net, channels, channels.full_selection())
        errors = [difference(net(x), whole(x))]
        del whole
        for share in SHARES:
            selection = channels.random_selection(share, generator=generator)
            expected = masked_forward(net, channels, selection, x)
            errors.append(difference(expected, extract(net, channels, selection)(x)))
    return max(errors)


def difference(expected: object, found: object) -> float:
    """Return the largest difference of two outputs relative to the largest expected value."""
    pairs = zip(tree_leaves(expected), tree_leaves(found), strict=True)
    return max(_relative(a, b) for a, b in pairs if isinstance(a, Tensor))


def _relative(expected: Tensor, found: Tensor) -> float:
    apart, scale = (expected - found).abs().max(), expected.abs().max()
    if not bool(apart.isfinite()):
        return float("inf")
    return float(apart / scale) if scale > 0 else float(apart)


def counts(channels: ChannelMap) -> dict[str, str | int | float]:
    """Return how much a selection can choose, and what it cannot and why."""
    per_unit = channels.kernels_per_unit
    reasons: Counter[str] = Counter()
    for frozen in channels.frozen:
        reasons[frozen.reason] += frozen.kernels
    whole = int(per_unit.sum()) - channels.selectable_kernels
    if whole:
        reasons["a layer's kernels are all tied to each other"] += whole
    return {
        "kernels": channels.kernel_count,
        "units": channels.unit_count,
        "selectable": channels.selectable_kernels / channels.kernel_count,
        "kernels_per_unit": per_unit.double().mean().item() if len(per_unit) else 0.0,
        "most_kernels_per_unit": int(per_unit.max()) if len(per_unit) else 0,
        "frozen": "; ".join(f"{reason} ({n})" for reason, n in reasons.most_common()),
    }


def _library(name: str) -> str:
    library = name.partition(":")[0]
    return f"{library} {version(library)}"


if __name__ == "__main__":
    try:
        typer.run(main)
    except CnnSplitterError as error:
        raise SystemExit(f"error: {error}") from error
