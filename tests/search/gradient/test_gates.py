import pytest
import torch

from cnnsplitter.search.gradient.gates import open_gates

LOGITS = torch.tensor([[3.0, 1.0, -1.0, -2.0], [0.0, 5.0, 1.0, 2.0]])
KEEP = torch.tensor([[True, True, False, False], [False, True, False, True]])


def gates(kind: str, heat: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    logits = LOGITS.clone().requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    masks = open_gates(kind, logits, KEEP, heat=heat, generator=generator)  # type: ignore[arg-type]
    (slope,) = torch.autograd.grad(masks.sum(), logits)
    return masks, slope


def test_straight_through_gates_are_the_selection() -> None:
    masks, slope = gates("straight-through")
    assert torch.equal(masks, KEEP.float())
    assert torch.equal(slope, torch.ones(2, 4))


def test_hard_concrete_gates_lie_between_0_and_1_and_reach_both() -> None:
    drawn = torch.stack([gates("hard-concrete", seed=seed)[0] for seed in range(200)])
    assert drawn.min() == 0
    assert drawn.max() == 1
    assert ((drawn > 0) & (drawn < 1)).any()
    mean = drawn.mean(0)
    assert mean[0].tolist() == sorted(mean[0].tolist(), reverse=True)
    assert (gates("hard-concrete")[1] >= 0).all()


@pytest.mark.parametrize("kind", ["sigmoid", "hard-concrete"])
def test_cold_gates_are_the_selection(kind: str) -> None:
    masks, _ = gates(kind, heat=1e-3)
    assert torch.equal(masks, KEEP.float())


def test_sigmoid_gates_are_half_open_between_kept_and_dropped() -> None:
    masks, slope = gates("sigmoid", heat=2.0)
    torch.testing.assert_close(masks[0], torch.tensor([1.5, 0.5, -0.5, -1.0]).sigmoid())
    assert (slope > 0).all()


def test_gates_of_a_whole_or_empty_selection() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    keep = torch.ones(1, 3, dtype=torch.bool)
    masks = open_gates("hard-concrete", logits, keep, heat=0.01, generator=torch.Generator())
    assert torch.equal(masks, torch.ones(1, 3))
