"""Calibrations fitted by maximum likelihood on the calibration images of all classes.

One softmax model holds all patches: the log-odds of each patched class against the unpatched ones
are linear in its class module's score, in the weak model's log p of the class and in its log p of
all unpatched ones together; these weights are what ``LearnedCalibration`` holds. With the weights
(0, 0, 1, 1) the model is the weak model, however many patches there are. The cross-entropy is
convex in the weights, so that the fit has one answer; with a single patch it is a logistic
regression.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnsplitter.calibration import IsotonicCalibration, LearnedCalibration, LinearCalibration
from cnnsplitter.errors import DataError
from cnnsplitter.patches.combining import Observations

RIDGE = 0.1
"""Pull towards the weak model alone, on standardised features; one image weighs about 1."""
_NEVER = -1e4
"""Logit of a class that no calibration image shows, under a linear layer."""

_FEATURES: Mapping[str, tuple[tuple[float, ...], ...]] = {
    "learned": ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)),
    # One inverse temperature for the weak model's log-odds.
    "temperature": ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 1)),
}
"""What each fitted weight is, in terms of scale, bias, own and rest."""


def fit_learned(
    kind: str, seen: Observations, *, ridge: float = RIDGE
) -> tuple[LearnedCalibration, ...]:
    """Fit the calibrations of all patches together.

    Args:
        kind: ``"learned"`` or ``"temperature"``, which has one weight for the weak model's
            log-odds instead of two.
        seen: Calibration images.
        ridge: Strength of the pull towards the weak model; it keeps the weights finite where the
            classes can be told apart without a mistake.

    Raises:
        DataError: No image of a patched class, or scores that are not finite.
    """
    from scipy.optimize import minimize

    _require_fit(seen)
    basis = torch.tensor(_FEATURES[kind], dtype=torch.float64)
    features, centre, spread = _features(seen)
    problem = _Problem.of(seen, features @ basis.T, ridge)
    signs = [(None, None) if k == 1 else (0, None) for k in range(len(basis))]
    found = minimize(
        problem,
        problem.start.flatten().numpy(),
        jac=True,
        method="L-BFGS-B",
        bounds=signs * len(problem.start),
        options={"maxiter": 1000, "ftol": 1e-13, "gtol": 1e-8},
    )
    weights = torch.from_numpy(found.x).view_as(problem.start) @ basis
    weights *= (features != 0).any(0)  # The weak model has no weight where it has no opinion.
    weights[:, 0] /= spread
    weights[:, 1] -= weights[:, 0] * centre
    return tuple(LearnedCalibration(kind, *values) for values in weights.tolist())


@dataclass(frozen=True, eq=False)
class _Problem:
    """The penalised cross-entropy of weights [P, K], and its slope.

    Attributes:
        features: float64[n, P, K].
        groups: int64[n], the patch of every image, or P for the unpatched classes.
        closed: Whether the weak model has no unpatched class.
        start: float64[P, K], the weights of the weak model alone.
        pull: float64[P, K], the strength of the pull towards them.
    """

    features: Tensor
    groups: Tensor
    closed: bool
    start: Tensor
    pull: Tensor

    @classmethod
    def of(cls, seen: Observations, features: Tensor, ridge: float) -> "_Problem":
        count, width = features.shape[1:]
        patch_of = torch.full((seen.layout.size,), count)
        patch_of[list(seen.layout.patched)] = torch.arange(count)
        closed = len(seen.layout.rescored) == len(seen.layout.weak)
        number = torch.arange(width)
        pull = ridge * (features.var(0, correction=0) + (number == 1))
        start = (number > 1).double().expand(count, -1)
        return cls(features, patch_of[seen.labels], closed, start, pull)

    def __call__(self, flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights = torch.from_numpy(flat).view_as(self.start)
        odds = (self.features * weights).sum(2)
        if not self.closed:
            odds = torch.cat([odds, odds.new_zeros(len(odds), 1)], 1)
        # Images of a class that nothing scores have no column, and no part in the loss.
        right = torch.nn.functional.one_hot(self.groups, len(weights) + 1).double()
        right = right[:, : odds.shape[1]]
        wrong = (odds.softmax(1) * right.sum(1, keepdim=True) - right)[:, : len(weights)]
        pulled = self.pull * (weights - self.start)
        loss = -(odds.log_softmax(1) * right).sum() + (pulled * (weights - self.start)).sum() / 2
        slope = torch.einsum("np,npk->pk", wrong, self.features) + pulled
        return loss.item(), slope.flatten().numpy()


def fit_isotonic(seen: Observations, patch: int) -> IsotonicCalibration:
    """Fit the share of the class among images of the same score, never falling with the score.

    Shares stay away from 0 and 1 by 1 / (n + 2), because n images prove no certainty.

    Raises:
        DataError: No image of the class, or scores that are not finite.
    """
    from sklearn.isotonic import IsotonicRegression

    _require_fit(seen)
    least = 1 / (len(seen) + 2)
    rule = IsotonicRegression(y_min=least, y_max=1 - least)
    scores = seen.scores[:, patch].double().numpy()
    rule.fit(scores, (seen.labels == seen.layout.patched[patch]).double().numpy())
    return IsotonicCalibration(
        "isotonic", tuple(rule.X_thresholds_.tolist()), tuple(rule.y_thresholds_.tolist())
    )


def fit_linear(seen: Observations) -> LinearCalibration:
    """Fit a linear layer over the scores of all classes, as the re-test trains it.

    It is a multinomial logistic regression on standardised scores with a unit ridge (MODA, arXiv
    2411.01074, gives no details). A part of what it gains is that of retraining the last layer.

    Raises:
        DataError: No image of a patched class, or scores that are not finite.
    """
    from sklearn.linear_model import LogisticRegression

    _require_fit(seen)
    if (seen.labels == seen.labels[0]).all():
        raise DataError("all calibration images are of one class; a linear layer needs others, too")
    scores = seen.all_scores().double()
    centre, spread = scores.mean(0), scores.std(0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)
    layer = LogisticRegression(max_iter=1000)
    layer.fit(((scores - centre) / spread).numpy(), seen.labels.numpy())
    slopes, offsets = torch.from_numpy(layer.coef_), torch.from_numpy(layer.intercept_)
    if len(layer.classes_) == 2:  # scikit-learn keeps the difference of the two only
        slopes, offsets = (torch.cat([-each, each]) / 2 for each in (slopes, offsets))
    weights = torch.zeros(seen.layout.size, seen.layout.size, dtype=torch.float64)
    biases = torch.full((seen.layout.size,), _NEVER, dtype=torch.float64)
    weights[layer.classes_] = slopes / spread
    biases[layer.classes_] = offsets - slopes @ (centre / spread)
    return LinearCalibration("linear", tuple(map(tuple, weights.tolist())), tuple(biases.tolist()))


def _features(seen: Observations) -> tuple[Tensor, Tensor, Tensor]:
    """Return float64[n, P, 4], and the mean and spread by which the scores are standardised."""
    scores = seen.scores.double()
    centre, spread = scores.mean(0), scores.std(0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)
    features = torch.zeros(*scores.shape, 4, dtype=torch.float64)
    features[..., 0] = (scores - centre) / spread
    features[..., 1] = 1
    for patch in range(scores.shape[1]):
        opinion = seen.opinion(patch)
        if opinion is not None:
            features[:, patch, 2] = opinion[:, 0].double()
            features[:, patch, 3] = -opinion[:, 1].double()
    return features, centre, spread


def _require_fit(seen: Observations) -> None:
    if not seen.scores.isfinite().all() or not seen.logits.isfinite().all():
        raise DataError(
            "scores on the calibration images hold NaN or infinite values; check the models"
        )
    for column in seen.layout.patched:
        if not (seen.labels == column).any():
            raise DataError(
                f"class {seen.layout.classes[column]!r} has no calibration image; add some"
            )
