import torch

from cnnsplitter.search.gradient_learned import Learned, learned_from

START = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def test_what_is_learned_begins_with_the_logits() -> None:
    for common in (False, True):
        learned = Learned.read(learned_from(START), common=common)
        assert torch.equal(learned.logits, START)
        scores = torch.tensor([7.0, 8.0])
        assert torch.equal(learned.scaled(scores, torch.tensor([1, 0])), scores)


def test_the_common_part_moves_all_classes() -> None:
    values = learned_from(START)
    values[2, 1] = 10
    assert torch.equal(Learned.read(values, common=False).logits, START)
    moved = Learned.read(values, common=True).logits
    assert torch.equal(moved - START, torch.tensor([[0.0, 10.0, 0.0]] * 2))


def test_scores_get_their_owners_scale_and_bias() -> None:
    values = learned_from(START)
    values[:2, -2:] = torch.tensor([[0.0, 1.0], [torch.tensor(2.0).log(), -1.0]])
    learned = Learned.read(values, common=True)
    scaled = learned.scaled(torch.tensor([3.0, 3.0]), torch.tensor([0, 1]))
    torch.testing.assert_close(scaled, torch.tensor([4.0, 5.0]))
