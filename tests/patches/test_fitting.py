from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnsplitter.errors import SettingsError
from cnnsplitter.patches.combining import Observations, outputs_of
from cnnsplitter.patches.fitting import Fitting, fit, folds_of, held_out_outputs
from cnnsplitter.patches.guard import verdicts_of
from observed import observations


def poor(n: int = 400, patched: tuple[int, ...] = (1,)) -> Observations:
    """Return a weak model that tells nothing of the patched classes and prefers another one."""
    seen = observations(n, patched=patched, blind=2.0)
    return replace(seen, logits=seen.logits + torch.tensor([3.0, 0.0, 0.0, 0.0]))


def kind(seen: Observations, gate: float | None = None) -> str:
    return fit(Fitting("auto", gate=gate), seen).calibrations[0].kind


def test_auto_takes_the_linear_layer_where_the_other_classes_gain_by_it() -> None:
    assert kind(poor()) == "linear"
    assert kind(poor(), gate=0.9) == "linear"


@settings(max_examples=12)
@given(seed=st.integers(0, 1000), blind=st.floats(0, 2), n=st.sampled_from([40, 120]))
def test_auto_is_the_better_on_images_held_out(seed: int, blind: float, n: int) -> None:
    seen = observations(n, seed=seed, blind=blind)
    (learned,), (linear,) = (verdicts_of(Fitting(name), seen) for name in ("learned", "linear"))
    gains = linear.f1.estimate >= learned.f1.estimate - 1e-12
    gains = gains and linear.other.estimate > learned.other.estimate + 1e-12
    chosen = Fitting("linear" if gains else "learned")
    assert fit(Fitting("auto"), seen) == fit(chosen, seen)


def test_several_patches_are_learned_so_that_each_can_be_taken_away() -> None:
    seen = poor(patched=(1, 2))
    assert fit(Fitting("auto"), seen) == fit(Fitting(), seen)


def test_a_single_image_of_the_class_decides_nothing() -> None:
    seen = poor()
    few = seen.take((seen.labels != 1) | (seen.labels == 1).cumsum(0).eq(1))
    assert kind(few) == "learned"


def test_what_judges_a_choice_has_no_part_in_it() -> None:
    seen = poor(100)
    fold = folds_of(seen.labels)
    alone = fit(Fitting("auto"), seen.take(fold != 0))
    found = held_out_outputs(Fitting("auto"), seen)
    assert torch.equal(found[fold == 0], outputs_of(alone, seen.take(fold == 0)))


def test_auto_has_no_bias_to_set() -> None:
    with pytest.raises(SettingsError, match="use calibration 'learned'"):
        Fitting("auto", objective="f1")
