"""What a patch did to a weak model on the test images, as JSON values."""

import base64
import io
from collections.abc import Sequence
from typing import Self

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor

from cnnsplitter.data import ImageSet
from cnnsplitter.evaluation import Comparison, compare
from cnnsplitter.inference import predict
from cnnsplitter.patches.patching import PatchedModel

BINS = 10
FLIPS = 24
"""At most so many images that flipped are shown each way."""


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Flip(_Facts):
    """A test image whose prediction became right or wrong.

    Attributes:
        png: The image, PNG in base64.
        truth: Its class.
        before: What the weak model took it for.
        after: What the patched model takes it for.
    """

    png: str
    truth: str
    before: str
    after: str


class Scores(_Facts):
    """How a model's probability of the target class is spread over the test images.

    Attributes:
        histogram: Two rows of counts per bin: images of the target class, images of others.
        calibration: Two rows, mean probability and share of the target class, per filled bin.
    """

    histogram: list[list[int]]
    calibration: list[list[float]]


class Evidence(_Facts):
    """What a patch did.

    Attributes:
        target: The patched class.
        classes: Of the weak model.
        confusion_before: Counts [true classes][predicted classes].
        confusion_after: Likewise.
        scores_before: Of the weak model.
        scores_after: Of the patched model.
        won_count: How many images became right.
        lost_count: How many images became wrong.
        won: Examples of those that became right.
        lost: Examples of those that became wrong.
    """

    target: str
    classes: list[str]
    confusion_before: list[list[int]]
    confusion_after: list[list[int]]
    scores_before: Scores
    scores_after: Scores
    won_count: int
    lost_count: int
    won: list[Flip]
    lost: list[Flip]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        count = len(self.classes)
        require_table("confusion_before", self.confusion_before, count, count)
        require_table("confusion_after", self.confusion_after, count, count)
        bins = len(self.scores_before.histogram[0]) if self.scores_before.histogram else 0
        for scores in (self.scores_before, self.scores_after):
            require_table("histogram", scores.histogram, 2, bins)
            points = len(scores.calibration[0]) if scores.calibration else 0
            require_table("calibration", scores.calibration, 2, points)
        if not count or not bins:
            raise ValueError("classes and histogram: there are none")
        return self


def require_table(name: str, rows: Sequence[Sequence[float]], height: int, width: int) -> None:
    """Raise ``ValueError`` unless ``rows`` are so many of so many values."""
    if len(rows) != height or any(len(row) != width for row in rows):
        raise ValueError(f"{name}: must have {height} rows of {width} values")


def gather_evidence(patched: PatchedModel, target: str, data: ImageSet) -> Evidence:
    """Compare weak and patched model on test images; errors as for ``evaluation.compare``."""
    weak = patched.unpatched()
    comparison = compare(weak, patched, data, [target])
    column = comparison.before.index(target)
    is_target = comparison.labels == column
    before = predict(weak, data)[:, column]
    after = predict(patched, data)[:, column].clamp(0, 1)
    won, lost = comparison.wrong_to_right, comparison.right_to_wrong
    return Evidence(
        target=target,
        classes=list(comparison.classes),
        confusion_before=comparison.before.confusion.tolist(),
        confusion_after=comparison.after.confusion.tolist(),
        scores_before=_scores(before, is_target),
        scores_after=_scores(after, is_target),
        won_count=len(won),
        lost_count=len(lost),
        won=_flips(comparison, data, won),
        lost=_flips(comparison, data, lost),
    )


def _scores(probability: Tensor, is_target: Tensor) -> Scores:
    bins = (probability * BINS).long().clamp(max=BINS - 1)
    inside = torch.bincount(bins[is_target], minlength=BINS)
    outside = torch.bincount(bins[~is_target], minlength=BINS)
    count = inside + outside
    filled = count > 0
    given = torch.bincount(bins, weights=probability.double(), minlength=BINS)[filled]
    return Scores(
        histogram=[inside.tolist(), outside.tolist()],
        calibration=[
            (given / count[filled]).tolist(),
            (inside[filled] / count[filled]).tolist(),
        ],
    )


def _flips(comparison: Comparison, data: ImageSet, positions: Tensor) -> list[Flip]:
    # Spread over all of them, because images may be sorted by class.
    step = max(1, len(positions) // FLIPS)
    return [_flip(comparison, data, p) for p in positions[::step][:FLIPS].tolist()]


def _flip(comparison: Comparison, data: ImageSet, position: int) -> Flip:
    (images, _) = next(iter(data.take(torch.tensor([position])).batches(1)))
    names: Sequence[str] = comparison.classes
    return Flip(
        png=png_of(images[0]),
        truth=names[int(comparison.labels[position])],
        before=names[int(comparison.predicted_before[position])],
        after=names[int(comparison.predicted_after[position])],
    )


def png_of(image: Tensor) -> str:
    """Return an image uint8 or float [C, H, W] as PNG in base64; floats are stretched to 0..255."""
    if image.is_floating_point():
        low, high = image.amin(), image.amax()
        image = ((image - low) / (high - low).clamp(min=1e-9) * 255).round().to(torch.uint8)
    pixels = image.permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    buffer = io.BytesIO()
    picture.save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()
