"""Export a model, and compare the file with it before the file takes its place."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cnnsplitter.errors import CnnSplitterError, ModelError, first_line, require_known
from cnnsplitter.exporting.facts import InputType, are_calibrated, facts_of
from cnnsplitter.exporting.formats import Format, Run, format_of
from cnnsplitter.exporting.program import frozen_copy, random_images, trace_program
from cnnsplitter.extras import require_extra
from cnnsplitter.files import replacing, require_new
from cnnsplitter.storage.packing import Model

TOLERANCE = 1e-4
"""Largest difference allowed between file and model, as a share of the largest score."""

_BATCHES = (1, 3)


@dataclass(frozen=True)
class Exported:
    """A file that was written after it had given the scores of its model.

    Attributes:
        path: The file.
        difference: Largest difference between a score of the file and the model's, on random
            images.
        allowed: What it was allowed to be.
        facts: The metadata in the file.
    """

    path: Path
    difference: float
    allowed: float
    facts: Mapping[str, Any]


def export(
    model: Model,
    path: str | Path,
    *,
    input_type: InputType = "uint8",
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
) -> Exported:
    """Write ``model`` to a file that runs without this package, whole and checked or not at all.

    The file takes any number of images [B, C, H, W], contains the preprocessing, and gives what
    the model gives: logits, the score of a class, or probabilities. Its scores for random images
    are compared with the model's for batches of one and three, by onnxruntime for ONNX.

    Args:
        model: A classifier, class module, composed or patched model; it is left as it is.
        path: ``.onnx`` for ONNX or ``.pt2`` for ``torch.export.load``.
        input_type: Of the images: ``"uint8"``, as image files hold them, or ``"float32"`` in
            [0, 1].
        tolerance: Largest difference allowed, as a share of the largest score; for calibrated
            scores and probabilities, of at least 1.
        overwrite: Whether an existing file may be replaced.

    Raises:
        SettingsError: Another ending, another input type, or the extra ``onnx`` is not installed.
        StorageError: The file exists or cannot be written, or it is no model of this package.
        ModelError: The model cannot be exported, or the file's scores differ from its own.
    """
    path = Path(path)
    kind = format_of(path)
    require_known("input type", input_type, ("uint8", "float32"))
    require_extra("onnx", *kind.needs)
    require_new(path, overwrite)
    facts = facts_of(model, input_type)
    frozen = frozen_copy(model)
    with replacing(path) as temporary:
        run = _write(frozen, temporary, kind, input_type, facts)
        difference, allowed = _compare(frozen, run, input_type, tolerance)
        if not difference <= allowed:
            raise ModelError(
                f"{path}: not written, as its scores differ from the model's by {difference:.2g} "
                f"(allowed: {allowed:.2g}); try another format, or a larger tolerance"
            )
    return Exported(path, difference, allowed, facts)


def _write(
    model: Model, path: Path, kind: Format, input_type: InputType, facts: Mapping[str, Any]
) -> Run:
    program = trace_program(model, input_type)
    try:
        kind.write(program, path, json.dumps(facts, allow_nan=False))
        return kind.open(path)
    except (CnnSplitterError, OSError):
        raise
    except Exception as error:  # the exporters raise many types, for operators they do not know
        first: BaseException = error
        # The outer ones tell which step failed; the first names the operator.
        while first.__cause__ is not None:
            first = first.__cause__
        reason = first_line(first)
        raise ModelError(f"the model cannot be exported as {kind.name}: {reason}") from error


def _compare(
    model: Model, run: Run, input_type: InputType, tolerance: float
) -> tuple[float, float]:
    """Return the largest difference of the scores, NaN if they cannot be compared, and its limit.

    Where scores are probabilities, or nearly, differences far below 1 mean nothing, however small
    the largest score is; logits have no such scale of their own.
    """
    difference = torch.tensor(0.0)
    largest = torch.tensor(1.0 if are_calibrated(model) else 0.0)
    for count in _BATCHES:
        images = random_images(model, count, input_type)
        with torch.no_grad():
            expected, given = model(images), run(images)
        if given.shape != expected.shape:
            raise ModelError(
                f"the exported file gives scores of shape {tuple(given.shape)} for {count} images, "
                f"but the model {tuple(expected.shape)}"
            )
        # Unlike Python's max, these keep a NaN.
        difference = torch.maximum(difference, (given - expected).abs().max())
        largest = torch.maximum(largest, expected.abs().max())
    return difference.item(), tolerance * largest.item()
