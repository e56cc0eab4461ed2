"""Why a network cannot be traced: what its author wrote where, and what to do."""

from torch import nn

from cnnsplitter.authorship import class_of, place_of
from cnnsplitter.channels.shadow import DataNeededError
from cnnsplitter.errors import ModelError, UnsupportedModelError, first_line


def refusal(shadow: nn.Module, shape: tuple[int, ...], error: Exception) -> ModelError:
    """Return the typed error for an ``error`` of the trace of ``shadow``."""
    name, place = type(shadow).__name__, place_of(error, shadow)
    if isinstance(error, DataNeededError):
        return UnsupportedModelError(
            f"{name} cannot be traced: its control flow depends on data{place}; "
            "decide by shapes only, or use torch.where"
        )
    return ModelError(
        f"{name} cannot be traced with an input of shape {shape}{place}: {first_line(error)}; "
        "mend its forward or give other images"
    )


def no_convolution(model: nn.Module, *, linear_units: bool) -> ModelError:
    """Return the typed error for a network in which nothing can be selected."""
    held = [(path, type(part).__name__) for path, part in model.named_modules() if path]
    layers = ", ".join(f"{path!r} {kind}" for path, kind in held[:_SHOWN])
    more = f" and {len(held) - _SHOWN} more" if len(held) > _SHOWN else ""
    kind = "convolution or linear layer" if linear_units else "convolution"
    what = f"{class_of(model)} has no {kind} among its layers ({layers or 'none'}{more})"
    remedy = (
        "give a network with convolutions"
        if linear_units
        else "give one with convolutions, or select the rows of hidden linear layers by "
        '--units all or units="all"'
    )
    return ModelError(f"{what}: nothing to select; {remedy}")


_SHOWN = 4
