import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from cnnsplitter.calibration import LearnedCalibration
from cnnsplitter.errors import DataError, SettingsError
from cnnsplitter.patches.combining import Joint, Layout, Observations, outputs_of
from cnnsplitter.patches.fitting import Fitting, fit
from cnnsplitter.patches.gating import Gate
from cnnsplitter.patches.likelihood import fit_isotonic, fit_learned, fit_linear
from observed import NAMES, observations

seeds = st.integers(0, 1000)
kinds = st.sampled_from(["learned", "temperature"])


def joint(*calibrations: LearnedCalibration) -> Joint:
    return Joint(calibrations, (None,) * len(calibrations), "renormalise")


def loss(found: tuple[LearnedCalibration, ...], seen: Observations) -> float:
    """The mean cross-entropy of patched classes and the rest."""
    outputs = outputs_of(joint(*found), seen)
    columns = list(seen.layout.patched)
    rest = 1 - outputs[:, columns].sum(1)
    of_class = outputs[torch.arange(len(seen)), seen.labels]
    shares = torch.where(torch.isin(seen.labels, torch.tensor(columns)), of_class, rest)
    return -shares.log().mean().item()


def opinion(seen: Observations) -> Tensor:
    values = seen.opinion(0)
    assert values is not None
    return values


@settings(max_examples=15)
@given(seeds, st.integers(0, 3), st.floats(0, 2))
def test_one_patch_is_a_logistic_regression(seed: int, column: int, blind: float) -> None:
    seen = observations(seed=seed, patched=(column,), skill=1.0, blind=blind)
    (ours,) = fit_learned("learned", seen, ridge=1e-9)
    weak = opinion(seen)
    features = torch.stack([seen.scores[:, 0], weak[:, 0], -weak[:, 1]], 1).numpy()
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000)
    theirs.fit(features, (seen.labels == column).numpy())
    if (theirs.coef_ >= 0).all():  # The package keeps the weights from turning their sense.
        expected = theirs.predict_proba(features)[:, 1]
        assert ours(seen.scores[:, 0], weak).numpy() == pytest.approx(expected, abs=1e-4)
    else:
        assert min(ours.scale, ours.own, ours.rest) == pytest.approx(0, abs=1e-6)


@settings(max_examples=15)
@given(seeds, kinds, st.sampled_from([(0,), (2, 1), (0, 1, 3), (0, 1, 2, 3)]), seeds)
def test_no_other_weights_are_likelier(
    seed: int, kind: str, patched: tuple[int, ...], other: int
) -> None:
    seen = observations(seed=seed, patched=patched, skill=1.0)
    found = fit_learned(kind, seen, ridge=1e-9)
    noise = torch.randn(len(found), 3, generator=torch.Generator().manual_seed(other)).tolist()
    for size in (0.01, 0.3):
        moved = tuple(
            LearnedCalibration(
                kind,
                c.scale * (1 + size * x),
                c.bias + size * y,
                max(0.0, c.own + size * z),
                max(0.0, c.rest + size * (z if kind == "temperature" else x)),
            )
            for c, (x, y, z) in zip(found, noise, strict=True)
            if abs(x * size) < 1
        )
        if len(moved) == len(found):
            assert loss(found, seen) <= loss(moved, seen) + 1e-9


@settings(max_examples=10)
@given(seeds, kinds)
def test_a_strong_pull_leaves_the_weak_model(seed: int, kind: str) -> None:
    seen = observations(seed=seed, patched=(2,))
    outputs = outputs_of(joint(*fit_learned(kind, seen, ridge=1e9)), seen)
    assert torch.allclose(outputs, seen.logits.softmax(1), atol=1e-5)


@settings(max_examples=10)
@given(seeds, kinds, st.permutations(range(3)))
def test_the_order_of_patches_and_images_does_not_matter(
    seed: int, kind: str, order: list[int]
) -> None:
    seen = observations(seed=seed, patched=(0, 1, 3))
    images = torch.randperm(len(seen), generator=torch.Generator().manual_seed(seed))
    found = fit_learned(kind, seen)
    again = fit_learned(kind, seen.only(order).take(images))
    for place, patch in enumerate(order):
        ours, theirs = vars(again[place]), vars(found[patch])
        assert ours.pop("kind") == theirs.pop("kind")
        assert ours == pytest.approx(theirs, abs=2e-3)


def test_weights_by_what_is_known() -> None:
    (useless,) = fit_learned("learned", observations(n=4000, skill=0.0))
    assert useless.scale == pytest.approx(0, abs=0.05)
    (alone,) = fit_learned("learned", observations(lacking=(1,)))
    assert (alone.own, alone.rest) == (0, 0)
    assert alone.scale > 0.3
    (same,) = fit_learned("temperature", observations())
    assert same.own == same.rest
    assert fit_learned("learned", observations()) == fit_learned("learned", observations())


def test_classes_that_can_be_told_apart_have_finite_weights() -> None:
    (found,) = fit_learned("learned", observations(skill=50.0))
    assert 0 < found.scale < 100


@settings(max_examples=20)
@given(seeds, st.lists(st.floats(-20, 40), min_size=1, max_size=20))
def test_isotonic_equals_scikit_learn(seed: int, points: list[float]) -> None:
    seen = observations(n=60, seed=seed)
    ours = fit_isotonic(seen, 0)
    least = 1 / 62
    theirs = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
    theirs.fit(seen.scores[:, 0].numpy(), (seen.labels == 1).double().numpy())
    expected = theirs.predict(np.array(points))
    assert ours(torch.tensor(points, dtype=torch.float64)).numpy() == pytest.approx(expected)


def test_what_cannot_be_fitted_is_refused() -> None:
    seen = observations()
    with pytest.raises(DataError, match="class 'cat' has no calibration image"):
        fit_learned("learned", seen.take(seen.labels != 1))
    broken = seen.scores.clone()
    broken[0] = torch.nan
    layout = Layout(NAMES, (0, 1, 2, 3), (1,))
    with pytest.raises(DataError, match="NaN or infinite"):
        fit_isotonic(Observations(seen.logits, broken, seen.labels, layout), 0)


@settings(max_examples=10)
@given(seeds, st.sampled_from([(0,), (2, 1)]), st.sampled_from([(), (1,)]))
def test_the_linear_layer_is_that_of_scikit_learn(
    seed: int, patched: tuple[int, ...], lacking: tuple[int, ...]
) -> None:
    if not set(lacking) <= set(patched):
        return
    seen, images = (
        observations(200, seed=s, patched=patched, lacking=lacking) for s in (seed, seed + 1)
    )
    scores = [part.layout.spread(part.logits, 0.0).clone() for part in (seen, images)]
    for part, all_scores in zip((seen, images), scores, strict=True):
        all_scores[:, list(patched)] = part.scores
    theirs = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    theirs.fit(scores[0].numpy(), seen.labels.numpy())
    found = outputs_of(fit(Fitting("linear"), seen), images)
    assert found.numpy() == pytest.approx(theirs.predict_proba(scores[1].numpy()), abs=1e-9)


def test_the_linear_layer_learns_from_scores_of_all_classes() -> None:
    seen, images = observations(blind=2.0, skill=4.0), observations(seed=1, blind=2.0, skill=4.0)
    weak = (images.logits.argmax(1) == images.labels).double().mean()
    found = outputs_of(fit(Fitting("linear"), seen), images)
    assert (found.argmax(1) == images.labels).double().mean() > weak + 0.1


def test_under_replace_the_linear_layer_moves_its_own_class_only() -> None:
    seen = observations(60, patched=(2,))
    found = outputs_of(fit(Fitting("linear", "replace"), seen), seen)
    rest = [0, 1, 3]
    assert torch.equal(found[:, rest], seen.logits.softmax(1)[:, rest])
    whole = outputs_of(fit(Fitting("linear"), seen), seen)
    assert torch.allclose(found[:, 2], whole[:, 2])


@pytest.mark.parametrize("shown", [(0, 1), (0, 1, 2)])
def test_the_linear_layer_never_names_a_class_that_it_was_not_shown(shown: tuple[int, ...]) -> None:
    seen = observations(120, patched=(0,))
    layer = fit_linear(seen.take(torch.isin(seen.labels, torch.tensor(shown))))
    outputs = layer(seen.all_scores()).softmax(1)
    assert torch.allclose(outputs[:, list(shown)].sum(1), torch.ones(120).double())


def test_the_linear_layer_belongs_to_all_patches_together() -> None:
    layer = fit_linear(observations(60, patched=(0, 1)))
    other = fit_linear(observations(60, seed=1, patched=(0, 1)))
    with pytest.raises(SettingsError, match="must all have the same"):
        Joint((layer, other), (None, None), "renormalise")
    with pytest.raises(SettingsError, match="only a single patch can have a gate"):
        Joint((layer, layer), (None, Gate("unsure", 0.5)), "renormalise")
    gated = Joint((layer,), (Gate("unsure", 99.0),), "renormalise")
    seen = observations(60, patched=(0,))
    assert torch.equal(outputs_of(gated, seen), seen.logits.softmax(1))
