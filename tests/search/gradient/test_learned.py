import torch

from cnnsplitter.search.gradient.learned import Learned, learned_from

START = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def test_what_is_learned_begins_with_the_logits() -> None:
    learned = Learned.read(learned_from(START))
    assert torch.equal(learned.logits, START)
    scores = torch.tensor([7.0, 8.0])
    assert torch.equal(learned.scaled(scores, torch.tensor([1, 0])), scores)


def test_scores_get_their_owners_scale_and_bias() -> None:
    values = learned_from(START)
    values[:, -2:] = torch.tensor([[0.0, 1.0], [torch.tensor(2.0).log(), -1.0]])
    scaled = Learned.read(values).scaled(torch.tensor([3.0, 3.0]), torch.tensor([0, 1]))
    torch.testing.assert_close(scaled, torch.tensor([4.0, 5.0]))
