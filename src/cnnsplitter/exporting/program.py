"""A model as one graph of PyTorch's core operators, for any number of images."""

import copy

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from cnnsplitter.errors import ModelError, first_line
from cnnsplitter.exporting.facts import BATCH, InputType
from cnnsplitter.storage.packing import Model


def frozen_copy(model: Model) -> Model:
    """Return a copy of ``model`` on the CPU, in eval mode, that needs no gradients."""
    return copy.deepcopy(model).cpu().eval().requires_grad_(False)


def random_images(model: Model, count: int, input_type: InputType) -> Tensor:
    """Return noise of the model's input shape, always the same; floats lie in [0, 1]."""
    generator = torch.Generator().manual_seed(count)
    shape = (count, *model.input_shape)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    return images if input_type == "uint8" else images.float() / 255


def trace_program(model: Model, input_type: InputType) -> ExportedProgram:
    """Return the graph of a frozen ``model`` with its preprocessing; the batch size stays open.

    Raises:
        ModelError: The model cannot be traced, or only for one batch size.
    """
    # Two images: from a single one PyTorch would conclude that there is never another.
    example = random_images(model, 2, input_type)
    try:
        with torch.no_grad():
            program = torch.export.export(
                model, (example,), dynamic_shapes=({0: Dim(BATCH, min=1)},), strict=False
            )
    except Exception as error:  # torch.export raises many types, its own and those of the network
        reason = first_line(error)
        raise ModelError(
            f"the model cannot be exported for {input_type} images and any batch size: {reason}"
        ) from error
    for node in program.graph.nodes:
        # It names folders of the machine that exports, which are nobody else's business.
        node.meta.pop("stack_trace", None)
    return program
