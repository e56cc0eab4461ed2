import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from cnnsplitter.errors import SettingsError
from cnnsplitter.patches.combining import opened, outputs_of
from cnnsplitter.patches.fitting import Fitting, fit
from cnnsplitter.patches.gate_choice import choose_gate
from cnnsplitter.patches.gating import DOUBTS, Gate, doubts_for
from observed import observations

LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])


def test_doubt_by_hand() -> None:
    shares = LOGITS.softmax(1)
    assert torch.allclose(DOUBTS["score"](LOGITS, 2), shares[:, 2].log())
    assert DOUBTS["rank"](LOGITS, 2).tolist() == [-2, -1]
    assert DOUBTS["margin"](LOGITS, 1).tolist() == [-1, -2]
    assert torch.allclose(DOUBTS["unsure"](LOGITS, None), -shares.amax(1).log())


@given(st.sampled_from(sorted(DOUBTS)), st.integers(0, 2), st.floats(-5, 5), st.floats(0, 5))
def test_a_lower_threshold_opens_no_fewer(name: str, column: int, at: float, more: float) -> None:
    few = Gate(name, at).opens(LOGITS, column)
    many = Gate(name, at - more).opens(LOGITS, column)
    assert (few <= many).all()


def test_a_class_that_the_weak_model_lacks_has_one_measure() -> None:
    assert doubts_for(None) == ("unsure",)
    with pytest.raises(SettingsError, match="lacks the class"):
        Gate("score", 0.0).opens(LOGITS, None)


def test_wrong_gates_are_refused() -> None:
    with pytest.raises(SettingsError, match="did you mean 'margin'"):
        Gate("margins", 0.0)
    with pytest.raises(SettingsError, match="threshold must be a finite number"):
        Gate("margin", math.inf)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(0.3, 1), st.booleans())
def test_the_chosen_gate_keeps_its_share(seed: int, keep: float, lacking: bool) -> None:
    seen = observations(n=300, seed=seed, blind=1.0, lacking=(1,) if lacking else ())
    plain = fit(Fitting(), seen)
    gated = fit(Fitting(gate=keep), seen)
    assert gated.calibrations == plain.calibrations

    def f1(outputs: torch.Tensor) -> float:
        return f1_score(seen.labels == 1, outputs.argmax(1) == 1, zero_division=0)  # type: ignore[no-any-return]

    before = f1(outputs_of(plain, seen, without=0))
    full, kept = f1(outputs_of(plain, seen)) - before, f1(outputs_of(gated, seen)) - before
    assert kept >= keep * full - 1e-9
    shut = ~opened(gated, seen.logits, seen.layout)[:, 0]
    weak = seen.layout.spread(seen.logits.softmax(1), 0.0)
    assert torch.equal(outputs_of(gated, seen)[shut], weak[shut])


def test_a_gate_saves_runs_of_a_class_module() -> None:
    seen = observations(n=2000, blind=1.0, skill=3.0)
    gate = choose_gate(fit(Fitting(), seen), seen, 0, 0.9)
    assert gate is not None
    assert gate.opens(seen.logits, 1).double().mean() < 0.6


def test_no_gate_without_a_gain() -> None:
    seen = observations(n=40, skill=0.0)
    assert choose_gate(fit(Fitting(), seen), seen, 0, 0.9) is None


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.7, 0.95, 1.0]))
def test_gates_of_several_patches_keep_their_shares_together(seed: int, keep: float) -> None:
    seen = observations(n=300, seed=seed, blind=1.0, patched=(0, 1, 3))
    plain = fit(Fitting(), seen)
    gated = fit(Fitting(gate=keep), seen)

    def f1(outputs: torch.Tensor, column: int) -> float:
        return f1_score(seen.labels == column, outputs.argmax(1) == column, zero_division=0)  # type: ignore[no-any-return]

    for patch, column in enumerate(seen.layout.patched):
        before = f1(outputs_of(plain, seen, without=patch), column)
        full = f1(outputs_of(plain, seen), column) - before
        assert f1(outputs_of(gated, seen), column) - before >= keep * full - 1e-9


def test_several_gates_save_runs() -> None:
    seen = observations(n=1000, blind=1.0, skill=3.0, patched=(0, 1))
    gated = fit(Fitting(gate=0.9), seen)
    assert opened(gated, seen.logits, seen.layout).double().mean() < 0.9
