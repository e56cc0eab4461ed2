"""How the weak model's logits and the scores of class modules become one output per class."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cnnsplitter.calibration import Calibration
from cnnsplitter.errors import require_known
from cnnsplitter.gating import Gate


@dataclass(frozen=True)
class Joint:
    """How one or more patches are brought together with a weak model.

    Attributes:
        calibrations: One per patch.
        gates: One per patch; None for a patch that is always run.
        rule: One of ``RULES``.
    """

    calibrations: tuple[Calibration, ...]
    gates: tuple[Gate | None, ...]
    rule: str

    def __post_init__(self) -> None:
        require_known("rule", self.rule, RULES)


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the classes of a weak model and of its patches stand among the N outputs.

    Attributes:
        classes: The N class names.
        weak: The output column of each of the weak model's logits.
        patched: The output column of each patch.
    """

    classes: tuple[str, ...]
    weak: tuple[int, ...]
    patched: tuple[int, ...]

    @classmethod
    def of(
        cls, classes: tuple[str, ...], weak: tuple[str, ...], targets: Iterable[str]
    ) -> "Layout":
        """Return where classes stand, by their names."""
        columns = {name: column for column, name in enumerate(classes)}
        return cls(
            tuple(classes), tuple(columns[c] for c in weak), tuple(columns[t] for t in targets)
        )

    @property
    def size(self) -> int:
        """N."""
        return len(self.classes)

    def known(self, patch: int) -> int | None:
        """Return which of the weak model's logits a patch scores anew; None if it has none."""
        column = self.patched[patch]
        return self.weak.index(column) if column in self.weak else None

    def spread(self, values: Tensor, fill: float) -> Tensor:
        """Put [B, weak] in its columns of [B, N]; the others are filled."""
        if self.weak == tuple(range(self.size)):
            return values
        wide = values.new_full((values.shape[0], self.size), fill)
        return wide.index_copy(1, torch.tensor(self.weak, device=values.device), values)

    def only(self, kept: Sequence[int]) -> "Layout":
        """Return the layout with some of the patches; all N columns stay."""
        return Layout(self.classes, self.weak, tuple(self.patched[i] for i in kept))


@dataclass(frozen=True, eq=False)
class Observations:
    """What a weak model and class modules say about labelled images.

    Attributes:
        logits: float[n, weak], the weak model's.
        scores: float[n, P], the raw scores of the class modules.
        labels: int64[n], the true columns.
        layout: Where they stand.
    """

    logits: Tensor
    scores: Tensor
    labels: Tensor
    layout: Layout

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> "Observations":
        """Return the images at ``rows`` (int64[k] or bool[n])."""
        return Observations(self.logits[rows], self.scores[rows], self.labels[rows], self.layout)

    def only(self, kept: Sequence[int]) -> "Observations":
        """Return the patches at the positions ``kept``."""
        return Observations(
            self.logits, self.scores[:, list(kept)], self.labels, self.layout.only(kept)
        )

    def opinion(self, patch: int) -> Tensor | None:
        """Return ``weak_opinion`` of the class of a patch."""
        return weak_opinion(self.logits, self.layout.known(patch))


def weak_opinion(logits: Tensor, column: int | None) -> Tensor | None:
    """Return log p and log(1 - p) of a class, float[B, 2]; None where there is no opinion."""
    if column is None or logits.shape[1] < 2:
        return None
    shares = logits.log_softmax(dim=1)
    here = torch.tensor([column], device=logits.device)
    return torch.stack(
        [shares[:, column], shares.index_fill(1, here, -torch.inf).logsumexp(dim=1)], dim=1
    )


def opened(joint: Joint, logits: Tensor, layout: Layout) -> Tensor:
    """Return for which images each patch is to be run, bool[B, P]."""
    # len() would write the number of images into an exported graph.
    every = torch.ones(logits.shape[0], dtype=torch.bool, device=logits.device)
    parts = [
        every if gate is None else gate.opens(logits, layout.known(i))
        for i, gate in enumerate(joint.gates)
    ]
    return torch.stack(parts, dim=1) if parts else every[:, None][:, :0]


def combine(joint: Joint, logits: Tensor, scores: Tensor, open_: Tensor, layout: Layout) -> Tensor:
    """Return one output per class, float[B, N].

    Args:
        joint: How the patches are brought together.
        logits: float[B, weak].
        scores: Raw scores float[B, P]; what stands where a patch is not open does not matter.
        open_: bool[B, P], where each patch counts.
        layout: Where everything stands.
    """
    plain = layout.spread(logits.softmax(dim=1), 0.0)
    if not layout.patched:
        return plain
    rule = RULES[joint.rule]
    parts = [
        rule.value(calibration, scores[:, i], weak_opinion(logits, layout.known(i)))
        for i, calibration in enumerate(joint.calibrations)
    ]
    columns = torch.tensor(layout.patched, device=logits.device)
    values = torch.zeros_like(plain).index_copy(1, columns, torch.stack(parts, 1).to(plain.dtype))
    where = torch.zeros_like(plain, dtype=torch.bool).index_copy(1, columns, open_)
    outputs = rule.outputs(plain, layout.spread(logits, -torch.inf), values, where)
    if all(gate is None for gate in joint.gates):
        return outputs
    return torch.where(open_.any(dim=1, keepdim=True), outputs, plain)


def outputs_of(joint: Joint, seen: Observations, without: int | None = None) -> Tensor:
    """Return the outputs float[n, N] for observations, with the gates of ``joint``.

    Args:
        joint: How the patches are brought together.
        seen: The observations.
        without: A patch that is to be kept shut.
    """
    open_ = opened(joint, seen.logits, seen.layout)
    if without is not None:
        open_[:, without] = False
    outputs = combine(joint, seen.logits, seen.scores, open_, seen.layout)
    plain = seen.layout.spread(seen.logits.softmax(dim=1), 0.0)
    return torch.where(open_.any(dim=1, keepdim=True), outputs, plain)


@dataclass(frozen=True)
class Rule:
    """A way to bring calibrated scores and the weak model together.

    Attributes:
        value: (calibration, raw scores [B], weak opinion) -> what it goes by, [B].
        outputs: (weak probabilities [B, N], logits [B, N], values [B, N], where bool[B, N]) ->
            outputs [B, N]; the values count where ``where`` says so.
    """

    value: Callable[[Calibration, Tensor, Tensor | None], Tensor]
    outputs: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _replace(plain: Tensor, logits: Tensor, values: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, values, plain)


def _renormalise(plain: Tensor, logits: Tensor, values: Tensor, where: Tensor) -> Tensor:
    # Each value is the log-odds of its class against the unpatched ones: a single patch keeps its
    # share exactly and the others share the rest in the weak model's proportions; several patches
    # compete by their odds, in no order.
    others = logits.masked_fill(where, -torch.inf).log_softmax(dim=1)
    return torch.where(where, values, others).softmax(dim=1)


RULES: Mapping[str, Rule] = {
    "replace": Rule(lambda c, scores, weak: c(scores, weak), _replace),
    "renormalise": Rule(lambda c, scores, weak: c.log_odds(scores, weak), _renormalise),
}
"""``"replace"``: the target's column is replaced, the others keep the probabilities of the weak
model (the paper's). ``"renormalise"``: the others are scaled so that every row sums to 1."""
