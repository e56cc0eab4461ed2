"""The settings of the gradient search."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from torch import Generator

from cnnsplitter.search.base import MaskedScorer
from cnnsplitter.search.budget import Target
from cnnsplitter.search.gradient.gates import Gate
from cnnsplitter.search.gradient.pairs import Form, Pairs

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class GradientSettings(BaseModel):
    """Settings of `GradientSearch`; the defaults were chosen on search images, not on test images.

    They make a search of a minute or so; a longer one, such as 20 rounds of 100 steps with 16 of
    annealing, may find more.

    Attributes:
        keep: Share of the whole network's cost that every class module may keep.
        target: What the cost counts: ``"kernels"``, or ``"multiply-adds"`` of one image.
        rounds: Rounds at most; each ends with a measurement on the search images.
        steps: Steps of a round.
        anneal: Rounds in which the share kept while learning falls from 1 to ``keep`` and the
            gates cool down.
        cooling: Rounds after which the rate is halved, again and again, once the share is reached.
        pairs: Pairs of an image and a class module in a step.
        hard: Wrong classes that accompany an image's true class, those that the strong model
            finds likeliest.
        chance: Wrong classes drawn from the rest to accompany it, too.
        form: What the scores of pairs should be; see `Pairs.loss`.
        scaled: Whether scores compete after a scale and a bias that are learned for each class.
            The class modules themselves stay without.
        gate: See `open_gates`.
        rate: Learning rate of the logits behind the gates.
        start: Where the logits start: ``"taylor"``, the mean square of the first-order effect on
            the class's score; ``"importance"``; or ``"random"``. All but the last are divided by
            what a unit costs.
        start_pairs: Pairs that ``"taylor"`` looks at.
        best: Which round is returned: that of the highest accuracy on the search images
            (``"accuracy"``), or the ``"last"`` one.
        patience: Stop after so many rounds without a better one; 0 never stops early. The rounds
            of ``anneal`` do not count.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep: float = Field(default=0.7, gt=0, le=1)
    target: Target = "kernels"
    rounds: int = Field(default=3, ge=1)
    steps: int = Field(default=20, ge=1)
    anneal: int = Field(default=2, ge=0)
    cooling: Positive = 1
    pairs: int = Field(default=64, ge=1)
    hard: int = Field(default=3, ge=0)
    chance: int = Field(default=0, ge=0)
    form: Form = "both"
    scaled: bool = False
    gate: Gate = "sigmoid"
    rate: Positive = 0.025
    start: Literal["taylor", "importance", "random"] = "taylor"
    start_pairs: int = Field(default=1280, ge=1)
    best: Literal["accuracy", "last"] = "accuracy"
    patience: int = Field(default=0, ge=0)

    def draw(self, masked: MaskedScorer, generator: Generator) -> Pairs:
        """Draw the pairs of a step."""
        return Pairs.draw(
            masked.labels,
            masked.logits,
            self.pairs,
            hard=self.hard,
            chance=self.chance,
            generator=generator,
        )

    @classmethod
    def paper(cls, keep: float = 0.5) -> Self:
        """Return GradSplitter's choices (arXiv 2311.04438), as far as they are known.

        Every image goes through the modules of all classes, whose outputs pass a sigmoid and then
        cross-entropy; gates are straight-through and start at random; each class has an output
        layer of its own, here a scale and a bias; the last epoch is returned (method.md section 4,
        item 9). The paper adds the share of kernels to the loss where this search has a budget.
        """
        return cls(
            keep=keep,
            rounds=20,
            steps=100,
            form="sigmoid",
            hard=10**6,
            start="random",
            gate="straight-through",
            anneal=0,
            scaled=True,
            best="last",
        )

    @property
    def needs_sensitivity(self) -> bool:
        """Start ratios are not used."""
        return False

    @property
    def needs_importance(self) -> bool:
        """Whether the logits start from it."""
        return self.start == "importance"
