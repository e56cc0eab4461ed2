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

    The strong model's likeliest wrong classes alone would not do: a class module that has lost
    units may score high on images that the strong model never takes for its class.

    Attributes:
        images: int64[k], which training image.
        classes: int64[k, 1 + wrong], whose modules score it; the first is the true class.
        labels: int64[k].
        strong: float32[k, classes], the strong model's logits.
    """

    images: Tensor
    classes: Tensor
    labels: Tensor
    strong: Tensor

    @classmethod
    def draw(
        cls,
        labels: Tensor,
        strong: Tensor,
        count: int,
        *,
        hard: int,
        chance: int,
        generator: Generator,
    ) -> "Pairs":
        """Draw images at random, with wrong classes: the hardest, and some of the others.

        Args:
            labels: int64[m], of all training images.
            strong: float32[m, classes], the strong model's logits.
            count: Pairs in all; whole images are drawn, at least one.
            hard: Wrong classes of each image that the strong model finds likeliest.
            chance: Wrong classes drawn from the rest; together at most all of them.
            generator: Source of randomness.
        """
        classes = strong.shape[1]
        hard = min(hard, classes - 1)
        wrong = min(hard + chance, classes - 1)
        images = torch.randint(len(labels), (max(1, count // (1 + wrong)),), generator=generator)
        true = labels[images, None]
        ranked = strong[images].scatter(1, true, torch.inf).argsort(dim=1, descending=True)
        rest = ranked[:, 1 + hard :]
        drawn = torch.rand(rest.shape, generator=generator).argsort(dim=1)[:, : wrong - hard]
        chosen = torch.cat([ranked[:, : 1 + hard], rest.gather(1, drawn)], dim=1)
        return cls(images, chosen, labels[images], strong[images])

    def loss(self, scores: Tensor, competing: Tensor, form: Form) -> Tensor:
        """Return what is minimised.

        ``"match"`` wants the strong model's own logits, in units of their variance, and so takes
        the classes one by one. ``"cross-entropy"`` wants the true class to win against the hard
        negatives and, with the strong model's logits for them, the other classes. ``"sigmoid"`` is
        GradSplitter's: cross-entropy of sigmoids, which cannot go to 0 (method.md section 4).

        Args:
            scores: float[k, 1 + wrong], the modules' own-class scores.
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
