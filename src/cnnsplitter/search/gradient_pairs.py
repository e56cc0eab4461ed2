"""Pairs of an image and a class module, and what the modules' scores on them should be."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy, mse_loss, pad

Form = Literal["match", "cross-entropy", "both", "sigmoid"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """k images, each with the modules of its true class and of some wrong ones.

    Attributes:
        images: int64[k], which training image.
        classes: int64[k, 1 + negatives], whose modules score it; the first is the true class.
        labels: int64[k].
        strong: float32[k, classes], the strong model's logits.
    """

    images: Tensor
    classes: Tensor
    labels: Tensor
    strong: Tensor

    @classmethod
    def draw(
        cls, labels: Tensor, strong: Tensor, count: int, negatives: int, generator: Generator
    ) -> "Pairs":
        """Draw images at random, with the wrong classes that the strong model finds likeliest.

        Args:
            labels: int64[m], of all training images.
            strong: float32[m, classes], the strong model's logits.
            count: Pairs in all; whole images are drawn, at least one.
            negatives: Wrong classes of each image; at most all of them.
            generator: Source of randomness.
        """
        negatives = min(negatives, strong.shape[1] - 1)
        images = torch.randint(
            len(labels), (max(1, count // (1 + negatives)),), generator=generator
        )
        true = labels[images, None]
        wrong = strong[images].scatter(1, true, -torch.inf).topk(negatives, dim=1).indices
        return cls(images, torch.cat([true, wrong], dim=1), labels[images], strong[images])

    def loss(self, scores: Tensor, competing: Tensor, form: Form) -> Tensor:
        """Return what is minimised.

        ``"match"`` wants the strong model's own logits, in units of their variance, and so takes
        the classes one by one. ``"cross-entropy"`` wants the true class to win against the hard
        negatives and, with the strong model's logits for them, the other classes. ``"sigmoid"`` is
        GradSplitter's: cross-entropy of sigmoids, which cannot go to 0 (method.md section 4).

        Args:
            scores: float[k, 1 + negatives], the modules' own-class scores.
            competing: The same after each class's scale and bias, for the forms that compete.
            form: See above; ``"both"`` is the sum of the first two.
        """
        row = self.strong.scatter(1, self.classes, competing)
        if row.shape[1] == 1:
            # a margin competes with 0: its logistic loss
            row = pad(row, (0, 1))
        if form == "sigmoid":
            return cross_entropy(row.sigmoid(), self.labels)
        if form == "cross-entropy":
            return cross_entropy(row, self.labels)
        wanted = self.strong.gather(1, self.classes)
        match = mse_loss(scores, wanted) / self.strong.var().clamp(min=1e-12)
        return match if form == "match" else match + cross_entropy(row, self.labels)
