"""How the weak model's logits and the scores of class modules become one output per class."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cnnsplitter.calibration import Calibration, LearnedCalibration, LinearCalibration
from cnnsplitter.errors import SettingsError, require_known
from cnnsplitter.patches.gating import Gate


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
        layer = self.layer
        if layer and set(self.calibrations) != {layer}:
            raise SettingsError("patches with a linear layer must all have the same; patch anew")
        if layer and len(self.gates) > 1 and any(self.gates):
            raise SettingsError(
                "a linear layer needs the scores of all patches for every image, so that only a "
                "single patch can have a gate; use calibration 'learned'"
            )

    @property
    def layer(self) -> LinearCalibration | None:
        """The layer that all patches share, if they are calibrated by one."""
        layers = (c for c in self.calibrations if isinstance(c, LinearCalibration))
        return next(layers, None)


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

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the patched classes."""
        return tuple(self.classes[column] for column in self.patched)

    def known(self, patch: int) -> int | None:
        """Return which of the weak model's logits a patch scores anew; None if it has none."""
        column = self.patched[patch]
        return self.weak.index(column) if column in self.weak else None

    @property
    def rescored(self) -> tuple[int, ...]:
        """Which of the weak model's logits some patch scores anew."""
        return tuple(i for i, column in enumerate(self.weak) if column in self.patched)

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

    def all_scores(self) -> Tensor:
        """Return float[n, N]: the weak model's logits, with scores for the patched classes."""
        return all_scores(self.logits, self.scores, self.layout)

    def only(self, kept: Sequence[int]) -> "Observations":
        """Return the patches at the positions ``kept``."""
        return Observations(
            self.logits, self.scores[:, list(kept)], self.labels, self.layout.only(kept)
        )

    def opinion(self, patch: int) -> Tensor | None:
        """Return ``weak_opinion`` of the class of a patch against the classes not patched."""
        return weak_opinion(self.logits, self.layout.known(patch), self.layout.rescored)


def all_scores(logits: Tensor, scores: Tensor, layout: Layout) -> Tensor:
    """Return float[B, N]: the logits [B, weak], with the scores [B, P] for patched classes."""
    columns = torch.tensor(layout.patched, device=logits.device, dtype=torch.int64)
    return layout.spread(logits, 0.0).index_copy(1, columns, scores.to(logits.dtype))


def weak_opinion(logits: Tensor, column: int | None, rescored: Sequence[int]) -> Tensor | None:
    """Return the weak model's log p of a class and of all classes that are not scored anew.

    Args:
        logits: The weak model's, float[B, weak].
        column: Of the class among the logits; None if the weak model lacks it.
        rescored: The columns of all classes that patches compare, with ``column``. For one patch
            the second figure is log(1 - p); where no class is left it is 0, so that it drops out.

    Returns:
        float[B, 2]; None where there is no opinion.
    """
    if column is None or logits.shape[1] < 2:
        return None
    shares = logits.log_softmax(dim=1)
    own = shares[:, column]
    if len(rescored) == logits.shape[1]:
        return torch.stack([own, torch.zeros_like(own)], dim=1)
    gone = torch.tensor(rescored, device=logits.device)
    return torch.stack([own, shares.index_fill(1, gone, -torch.inf).logsumexp(dim=1)], dim=1)


def opened(joint: Joint, logits: Tensor, layout: Layout) -> Tensor:
    """Return for which images each patch is to be run, bool[B, P]."""
    # In an exported graph the batch has no fixed length, so nothing may ask for it by len().
    every = torch.ones_like(logits[:, 0], dtype=torch.bool)
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
    columns = torch.tensor(layout.patched, device=logits.device)
    where = torch.zeros_like(plain, dtype=torch.bool).index_copy(1, columns, open_)
    if joint.layer:
        odds = joint.layer(all_scores(logits, scores, layout))
        outputs = rule.outputs(plain, odds, rule.of_logits(odds), where)
    else:
        outputs = _by_patch(joint, logits, scores, where, layout)
    if all(gate is None for gate in joint.gates):
        return outputs
    return torch.where(open_.any(dim=1, keepdim=True), outputs, plain)


def _by_patch(
    joint: Joint, logits: Tensor, scores: Tensor, where: Tensor, layout: Layout
) -> Tensor:
    """Return the outputs where each patch has a calibration of its own."""
    rule, plain = RULES[joint.rule], layout.spread(logits.softmax(dim=1), 0.0)
    columns = torch.tensor(layout.patched, device=logits.device)
    odds = layout.spread(_weak_odds(logits, layout.rescored), -torch.inf)
    spare = _log_mass(odds.masked_fill(where, -torch.inf))
    parts = [
        rule.value(calibration, scores[:, i], _opinion(rule, logits, layout, i), spare)
        for i, calibration in enumerate(joint.calibrations)
    ]
    values = torch.zeros_like(plain).index_copy(1, columns, torch.stack(parts, 1).to(plain.dtype))
    return rule.outputs(plain, odds, values, where)


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
        together: Whether patched classes are held against those that are not patched, instead of
            each against all others.
        value: (calibration, raw scores [B], weak opinion, log-odds [B] of all classes that no open
            patch scores) -> what it goes by, [B].
        of_logits: Logits [B, N] of all classes -> the values of all classes.
        outputs: (weak probabilities [B, N], weak log-odds [B, N], values [B, N], where
            bool[B, N]) -> outputs [B, N]; the values count where ``where`` says so.
        levels: Outputs -> levels in the same order, of which a bias moves that of its own class
            alone, by as much.
    """

    together: bool
    value: Callable[[Calibration, Tensor, Tensor | None, Tensor], Tensor]
    of_logits: Callable[[Tensor], Tensor]
    outputs: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    levels: Callable[[Tensor], Tensor]


def _opinion(rule: Rule, logits: Tensor, layout: Layout, patch: int) -> Tensor | None:
    known = layout.known(patch)
    alone = () if known is None else (known,)
    return weak_opinion(logits, known, layout.rescored if rule.together else alone)


def _weak_odds(logits: Tensor, rescored: Sequence[int]) -> Tensor:
    """Return the log-odds [B, weak] of every class against all that are not scored anew."""
    left = [i for i in range(logits.shape[1]) if i not in rescored]
    against = logits[:, left] if left else logits
    return logits - against.logsumexp(dim=1, keepdim=True)


def _log_mass(odds: Tensor) -> Tensor:
    """Return the log of the summed odds, [B]; 0 where there are none, to be finite."""
    mass = odds.logsumexp(dim=1)
    return mass.where(mass.isfinite(), 0.0)


def _shares(logits: Tensor) -> Tensor:
    return logits.softmax(dim=1)


def _replace(plain: Tensor, odds: Tensor, values: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, values, plain)


def _renormalise(plain: Tensor, odds: Tensor, values: Tensor, where: Tensor) -> Tensor:
    # A single patch keeps its share exactly and the others share the rest in the weak model's
    # proportions; several patches compete by their odds, in no order.
    return torch.where(where, values, odds).softmax(dim=1)


def _odds_value(
    calibration: Calibration, scores: Tensor, weak: Tensor | None, spare: Tensor
) -> Tensor:
    odds = calibration.log_odds(scores, weak)
    # Learned ones are fitted on the scale of the weak odds; a share is one among what is spare.
    return odds if isinstance(calibration, LearnedCalibration) else odds + spare


def _logits(outputs: Tensor) -> Tensor:
    return outputs.double().logit(eps=1e-15)


def _logs(outputs: Tensor) -> Tensor:
    return outputs.double().clamp(min=1e-300).log()


RULES: Mapping[str, Rule] = {
    "replace": Rule(False, lambda c, scores, weak, _: c(scores, weak), _shares, _replace, _logits),
    "renormalise": Rule(True, _odds_value, lambda logits: logits, _renormalise, _logs),
}
"""``"replace"``: the target's column is replaced, the others keep the probabilities of the weak
model (the paper's). ``"renormalise"``: the others are scaled so that every row sums to 1."""
