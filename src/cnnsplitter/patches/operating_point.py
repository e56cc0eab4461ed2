"""Set a patch's bias for precision, recall or F1, with a floor under the other classes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cnnsplitter.patches.combining import RULES, Joint, Observations, outputs_of


@dataclass(frozen=True, eq=False)
class Counts:
    """What each of k biases gives on n images; all float64[k].

    Attributes:
        shift: What is added to the bias.
        hits: Images of the class that are found.
        alarms: Images of others that are taken for it.
        others: Share of the others that are right.
        size: Images of the class.
    """

    shift: Tensor
    hits: Tensor
    alarms: Tensor
    others: Tensor
    size: int


def best_shift(objective: str, floor: float, joint: Joint, seen: Observations, patch: int) -> float:
    """Return what to add to the log-odds of a patch.

    Args:
        objective: One of ``OBJECTIVES``.
        floor: Least change of the accuracy on the other classes, against the model without the
            patch; for ``likelihood``, which moves nothing for the patch's sake, against the weak
            model, because among many good patches each takes a little from the rest. Where no bias
            reaches it, it is the best that there is.
        joint: The fitted patches, without gates.
        seen: Calibration images.
        patch: Which patch.

    Returns:
        Of equally good shifts that nearest 0, so that ``"likelihood"`` gives 0 if the floor allows.
    """
    counts = _counts(joint, seen, patch)
    is_other = seen.labels != seen.layout.patched[patch]
    before = outputs_of(joint, seen, without=patch).argmax(1)
    plain = seen.layout.spread(seen.logits.softmax(1), 0.0).argmax(1)
    right = ((plain if objective == "likelihood" else before) == seen.labels) & is_other
    least = (right.sum() / is_other.sum().clamp(min=1)).item() + floor
    allowed = counts.others >= min(least, counts.others.max().item()) - 1e-12
    if objective == "precision":
        found = (before == seen.labels)[~is_other].sum()
        enough = counts.hits >= min(found.item(), counts.hits.max().item())
        allowed = allowed & enough if (allowed & enough).any() else allowed
    values = torch.where(allowed, OBJECTIVES[objective](counts), -torch.inf)
    best = (values >= values.max() - 1e-12).nonzero().flatten()
    return float(counts.shift[best[counts.shift[best].abs().argmin()]])


def _counts(joint: Joint, seen: Observations, patch: int) -> Counts:
    """Count for 0 and for every bias between two images that it decides."""
    column = seen.layout.patched[patch]
    gap, right_without = _gaps(joint, seen, patch)
    order = gap.argsort()
    sorted_gap = gap[order]
    middle = (sorted_gap[1:] + sorted_gap[:-1]) / 2
    ends = torch.stack([sorted_gap[0] - 1, sorted_gap[-1] + 1])
    shift = torch.cat([torch.zeros(1, dtype=gap.dtype), ends, middle[middle.isfinite()]])
    is_target = seen.labels == column
    lost = right_without & ~is_target
    taken = torch.searchsorted(sorted_gap, shift)
    hits, alarms, losses = (
        torch.cat([torch.zeros(1, dtype=torch.float64), what[order].double().cumsum(0)])[taken]
        for what in (is_target, ~is_target, lost)
    )
    others = (lost.sum() - losses) / (~is_target).sum().clamp(min=1)
    return Counts(shift, hits, alarms, others, int(is_target.sum()))


def _gaps(joint: Joint, seen: Observations, patch: int) -> tuple[Tensor, Tensor]:
    """Return how much the patch lacks to win each image, and which are right without it."""
    column = seen.layout.patched[patch]
    levels = RULES[joint.rule].levels(outputs_of(joint, seen))
    own = levels[:, column]
    rivals = levels.clone()
    rivals[:, column] = -torch.inf
    best = rivals.max(dim=1)
    return best.values - own, best.indices == seen.labels


def _f1(counts: Counts) -> Tensor:
    return 2 * counts.hits / (counts.hits + counts.alarms + counts.size)


def _precision(counts: Counts) -> Tensor:
    return counts.hits / (counts.hits + counts.alarms).clamp(min=1)


OBJECTIVES: Mapping[str, Callable[[Counts], Tensor]] = {
    "likelihood": lambda counts: -counts.shift.abs(),
    "f1": _f1,
    "recall": lambda counts: counts.hits,
    "precision": _precision,
}
"""``likelihood`` leaves the bias of the fit. ``precision`` keeps the recall of the model without
the patch."""
