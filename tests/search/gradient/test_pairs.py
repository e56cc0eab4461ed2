import pytest
import torch

from cnnsplitter.search.gradient.pairs import Pairs

STRONG = torch.tensor([[5.0, 4.0, 1.0, 0.0], [0.0, 2.0, 3.0, 6.0], [1.0, 9.0, 2.0, 8.0]])
LABELS = torch.tensor([0, 2, 1])


def pairs(count: int = 60, hard: int = 2, chance: int = 0) -> Pairs:
    generator = torch.Generator().manual_seed(0)
    return Pairs.draw(LABELS, STRONG, count, hard=hard, chance=chance, generator=generator)


def test_true_class_comes_first_then_the_likeliest_wrong_ones() -> None:
    drawn = pairs()
    assert len(drawn.images) == 20
    expected = torch.tensor([[0, 1, 2], [2, 3, 1], [1, 3, 2]])
    assert torch.equal(drawn.classes, expected[drawn.images])
    assert torch.equal(drawn.labels, LABELS[drawn.images])
    assert torch.equal(drawn.strong, STRONG[drawn.images])
    assert set(drawn.images.tolist()) == {0, 1, 2}


def test_more_negatives_than_classes_are_all_of_them() -> None:
    drawn = pairs(hard=99, chance=99)
    assert drawn.classes.sort(dim=1).values.tolist() == [[0, 1, 2, 3]] * len(drawn.images)
    assert pairs(count=1, hard=0).classes.shape == (1, 1)


def test_wrong_classes_by_chance_are_others_than_the_hard_ones() -> None:
    drawn = pairs(count=300, hard=1, chance=1)
    hardest = torch.tensor([1, 3, 3])
    assert torch.equal(drawn.classes[:, 1], hardest[drawn.images])
    rest = torch.tensor([[2, 3], [0, 1], [0, 2]])[drawn.images]
    assert (drawn.classes[:, 2:] == rest).any(1).all()
    for image in range(3):
        found = drawn.classes[drawn.images == image, 2]
        assert 0.3 < (found == found[0]).double().mean() < 0.7


def test_the_strong_models_scores_have_no_loss_to_match() -> None:
    drawn = pairs()
    scores = drawn.strong.gather(1, drawn.classes)
    assert drawn.loss(scores, scores, "match") == 0
    worse = scores + 1
    assert drawn.loss(worse, worse, "match").item() == pytest.approx(1 / drawn.strong.var().item())


def test_cross_entropy_sees_the_classes_without_a_pair() -> None:
    drawn = pairs(hard=1)
    scores = drawn.strong.gather(1, drawn.classes)
    expected = torch.nn.functional.cross_entropy(drawn.strong, drawn.labels)
    assert drawn.loss(scores, scores, "cross-entropy") == expected
    assert drawn.loss(scores, scores, "both") == expected
    better = scores + torch.tensor([1.0, -1.0])
    assert drawn.loss(scores, better, "cross-entropy") < expected


def test_sigmoids_keep_the_published_loss_above_zero() -> None:
    drawn = pairs(hard=3)
    perfect = torch.full(drawn.classes.shape, -1e3)
    perfect[:, 0] = 1e3
    assert drawn.loss(perfect, perfect, "cross-entropy") == 0
    assert drawn.loss(perfect, perfect, "sigmoid") > 0.7
