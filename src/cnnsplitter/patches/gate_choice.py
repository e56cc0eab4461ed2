"""Choose the gate that runs a class module least often and keeps a share of its gain in F1."""

from dataclasses import replace

import torch
from torch import Tensor

from cnnsplitter.patches.combining import Joint, Observations, outputs_of
from cnnsplitter.patches.gating import DOUBTS, Gate, doubts_for

_LARGEST_SHARE = 0.999
"""Beyond it a gate that falls short among others is taken away."""


def choose_gates(joint: Joint, seen: Observations, keep: float) -> tuple[Gate | None, ...]:
    """Return a gate for every patch, chosen in turn by what the gates before it leave.

    While some patch falls short with all gates that are chosen, its own gate, or another one if it
    has none, is chosen anew to keep more, and in the end taken away, so that every patch keeps its
    share with the gates that are left.

    Args:
        joint: The fitted patches; their gates are not looked at.
        seen: Calibration images.
        keep: Share of the gain in F1 that each patch must keep; its gain is that of the patch
            without gates.
    """
    patches = sorted(range(len(joint.gates)), key=seen.layout.patched.__getitem__)
    free = replace(joint, gates=(None,) * len(patches))
    least = [_least_f1(free, seen, patch, keep) for patch in patches]
    chosen = free
    for patch in patches:
        chosen = _with_gate(chosen, patch, choose_gate(chosen, seen, patch, keep))
    shares = [keep] * len(patches)
    while True:
        gated = [patch for patch in patches if chosen.gates[patch] is not None]
        short = [
            patch
            for patch, f1 in zip(patches, least, strict=True)
            if _f1_of(chosen, seen, patch) < f1 - 1e-12
        ]
        if not short or not gated:
            return chosen.gates
        # A patch without a gate may still be spoilt by those of others.
        patch = ([p for p in short if p in gated] or gated)[0]
        chosen = _with_gate(chosen, patch, None)
        shares[patch] = (1 + shares[patch]) / 2
        if shares[patch] <= _LARGEST_SHARE:
            gate = choose_gate(chosen, seen, patch, shares[patch])
            chosen = _with_gate(chosen, patch, gate)


def choose_gate(joint: Joint, seen: Observations, patch: int, keep: float) -> Gate | None:
    """Return the gate that opens for the fewest images.

    Args:
        joint: The fitted patches, with the gates of others; ``patch`` has none.
        seen: Calibration images.
        patch: Which patch.
        keep: Share of the gain in F1 that must be kept at this and every lower threshold.

    Returns:
        None if the patch gains nothing, so that there is nothing to keep, or if no gate keeps it.
    """
    column = seen.layout.patched[patch]
    after = outputs_of(joint, seen).argmax(1) == column
    before = outputs_of(joint, seen, without=patch).argmax(1) == column
    target = seen.labels == column
    best: tuple[int, Gate] | None = None
    known = seen.layout.known(patch)
    for name in doubts_for(known):
        doubt = DOUBTS[name](seen.logits, known).double()
        found = _least(doubt, before, after, target, keep)
        if found is not None and (best is None or found[0] < best[0]):
            best = found[0], Gate(name, found[1])
    return best and best[1]


def _with_gate(joint: Joint, patch: int, gate: Gate | None) -> Joint:
    gates = joint.gates
    return replace(joint, gates=(*gates[:patch], gate, *gates[patch + 1 :]))


def _least_f1(joint: Joint, seen: Observations, patch: int, keep: float) -> float:
    """Return the F1 that a patch must keep of what it gains without gates."""
    before = _f1_of(joint, seen, patch, without=patch)
    return before + keep * (_f1_of(joint, seen, patch) - before)


def _f1_of(joint: Joint, seen: Observations, patch: int, without: int | None = None) -> float:
    column = seen.layout.patched[patch]
    found = outputs_of(joint, seen, without=without).argmax(1) == column
    target = seen.labels == column
    return float(2 * (found & target).sum() / (found.sum() + target.sum()).clamp(min=1))


def _least(
    doubt: Tensor, before: Tensor, after: Tensor, target: Tensor, keep: float
) -> tuple[int, float] | None:
    """Return how many images the gate opens for, and its threshold; None if for all of them."""
    order = doubt.argsort(descending=True, stable=True)
    f1 = _f1_by_opened(before[order], after[order], target[order])
    gain = f1 - f1[0]
    if not gain[-1] > 0:
        return None
    levels = doubt[order]
    # Equal doubts open together.
    steps = (levels[1:] < levels[:-1]).nonzero().flatten() + 1
    cuts = torch.cat([steps, torch.tensor([len(levels)])])
    short = (gain[cuts] < keep * gain[-1]).nonzero().flatten()
    cut = int(cuts[int(short[-1]) + 1 if len(short) else 0])
    if cut == len(levels):
        return None
    return cut, float((levels[cut - 1] + levels[cut]) / 2)


def least_opened(
    doubt: Tensor, before: Tensor, after: Tensor, target: Tensor, keep: float
) -> int | None:
    """Return for how few images a gate on ``doubt`` can open; None if it must for all.

    Args:
        doubt: float[n].
        before: bool[n], which images are taken for the class without the patch.
        after: bool[n], likewise with it.
        target: bool[n], which images show the class.
        keep: Share of the gain in F1 that must be kept at this and every lower threshold.
    """
    found = _least(doubt.double(), before, after, target, keep)
    return found and found[0]


def _f1_by_opened(before: Tensor, after: Tensor, target: Tensor) -> Tensor:
    """Return the F1 when the first 0, 1, ... n images go through the patch, float64[n + 1]."""

    def counted(now: Tensor, then: Tensor) -> Tensor:
        change = then.double() - now.double()
        return now.sum() + torch.cat([torch.zeros(1, dtype=torch.float64), change.cumsum(0)])

    hits = counted(before & target, after & target)
    return 2 * hits / (counted(before, after) + target.sum()).clamp(min=1)
