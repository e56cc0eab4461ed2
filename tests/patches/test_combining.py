"""Laws of how patches and a weak model meet."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cnnsplitter.calibration import IsotonicCalibration, LearnedCalibration
from cnnsplitter.patches.combining import Joint, Layout, Observations, outputs_of
from cnnsplitter.patches.fitting import Fitting, fit, held_out_outputs
from cnnsplitter.patches.gating import Gate
from cnnsplitter.patches.likelihood import fit_learned
from observed import observations

WEAK = LearnedCalibration("learned", 0.0, 0.0, 1.0, 1.0)
seeds = st.integers(0, 1000)
subsets = st.sets(st.integers(0, 3), min_size=1).map(lambda columns: tuple(sorted(columns)))


def loss(outputs: Tensor, labels: Tensor) -> float:
    return -outputs[torch.arange(len(labels)), labels].log().mean().item()


def confused(n: int = 640, seed: int = 0, skill: float = 0.0) -> Observations:
    """Eight classes; the weak model takes 0 for 1 and 2 for 3 often, and knows the pairs well."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 8
    hot = torch.nn.functional.one_hot(labels, 8).double()
    mix = torch.eye(8, dtype=torch.float64)
    for one, other in ((0, 1), (2, 3)):
        mix[one, other] = mix[other, one] = 0.9
    noise = torch.randn(2, n, 8, generator=generator, dtype=torch.float64)
    names = tuple("abcdefgh")
    layout = Layout.of(names, names, names[:7])
    return Observations(4 * hot @ mix + noise[0], (skill * hot + noise[1])[:, :7], labels, layout)


@given(seeds, subsets, st.lists(st.sampled_from([-9.0, 0.4, 9.0, None]), min_size=4, max_size=4))
def test_the_weak_models_own_weights_give_the_weak_model(
    seed: int, patched: tuple[int, ...], thresholds: list[float | None]
) -> None:
    """However many patches there are, and whichever gates are shut."""
    seen = observations(40, seed=seed, patched=patched)
    gates = [None if t is None else Gate("unsure", t) for t in thresholds[: len(patched)]]
    joint = Joint((WEAK,) * len(patched), tuple(gates), "renormalise")
    assert torch.allclose(outputs_of(joint, seen), seen.logits.softmax(1), atol=1e-12)
    alone = Joint((WEAK,) * len(patched), tuple(gates), "replace")
    assert torch.allclose(outputs_of(alone, seen), seen.logits.softmax(1), atol=1e-12)


@given(seeds, st.integers(0, 3), st.lists(st.floats(0, 3), min_size=3, max_size=3))
def test_one_patch_is_the_sigmoid_of_its_log_odds(
    seed: int, column: int, weights: list[float]
) -> None:
    seen = observations(40, seed=seed, patched=(column,))
    scale, own, rest = weights
    rule = LearnedCalibration("learned", scale, -1.0, own, rest)
    weak = seen.logits.softmax(1)
    p = weak[:, column]
    odds = scale * seen.scores[:, 0] - 1 + own * p.log() - rest * torch.log1p(-p)
    expected = weak * ((1 - odds.sigmoid()) / (1 - p))[:, None]
    expected[:, column] = odds.sigmoid()
    found = outputs_of(Joint((rule,), (None,), "renormalise"), seen)
    assert torch.allclose(found, expected, atol=1e-9)


def test_class_modules_without_skill_lose_nothing_beyond_noise() -> None:
    seen = confused()
    plain, found = seen.logits.softmax(1), held_out_outputs(Fitting(floor=-1), seen)
    assert loss(found, seen.labels) < loss(plain, seen.labels) + 0.02
    right = [(outputs.argmax(1) == seen.labels).double().mean() for outputs in (plain, found)]
    assert right[1] > right[0] - 0.02


def test_more_good_class_modules_are_better() -> None:
    seen = confused(skill=3.0)
    losses = [
        loss(held_out_outputs(Fitting(floor=-1), seen.only(range(count))), seen.labels)
        for count in (1, 7)
    ]
    assert losses == sorted(losses, reverse=True)


def test_a_share_among_shut_patches_is_kept() -> None:
    seen = observations(40, patched=(0, 1, 2, 3))
    share = IsotonicCalibration("isotonic", (0.0,), (0.3,))
    shut = Gate("unsure", 99.0)
    outputs = outputs_of(Joint((share,) * 4, (shut, None, shut, shut), "renormalise"), seen)
    assert outputs[:, 1].tolist() == pytest.approx([0.3] * 40)
    rest, weak = outputs[:, [0, 2, 3]], seen.logits[:, [0, 2, 3]].softmax(1)
    assert torch.allclose(rest / 0.7, weak)


@settings(max_examples=20)
@given(seeds, st.booleans())
def test_an_added_class_that_is_shut_leaves_the_others(seed: int, learned: bool) -> None:
    seen = observations(80, seed=seed, patched=(0, 1, 2, 3), lacking=(3,))
    joint = fit(Fitting("learned" if learned else "isotonic"), seen)
    outputs = outputs_of(joint, seen, without=3)
    assert torch.allclose(outputs.sum(1), torch.ones(80, dtype=torch.float64))
    assert (outputs[:, 3] == 0).all()
    gated = Joint(joint.calibrations, (None, None, None, Gate("unsure", 99.0)), "renormalise")
    assert torch.equal(outputs_of(gated, seen), outputs)


def test_a_fit_without_the_added_class_leaves_its_images_out() -> None:
    seen = observations(200, patched=(0, 1, 2, 3), lacking=(3,)).only([0, 1, 2])
    found, again = (
        fit_learned("learned", images, ridge=1e-9) for images in (seen, seen.take(seen.labels != 3))
    )
    for ours, theirs in zip(found, again, strict=True):
        assert ours.scale == pytest.approx(theirs.scale, rel=1e-3)
        assert (ours.rest, theirs.rest) == (0, 0)
