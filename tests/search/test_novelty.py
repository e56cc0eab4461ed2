import torch
from torch import Tensor

from cnnsplitter.search.novelty import TRIES, make_new


def flip_first(genes: Tensor) -> Tensor:
    changed = genes.clone()
    changed[:, 0] = ~changed[:, 0]
    return changed


def as_is(genes: Tensor) -> Tensor:
    return genes


def test_known_selections_are_mutated_until_new() -> None:
    genes = torch.tensor([[[0, 0], [0, 0], [1, 1]], [[0, 0], [0, 1], [1, 1]]]).bool()
    brood = make_new(genes, 0, frozenset(), as_is, flip_first)
    assert brood.genes.tolist() == [
        [[False, False], [True, False], [True, True]],
        [[False, False], [False, True], [True, True]],
    ]
    assert brood.fresh.all()
    assert brood.source.tolist() == [[0, 1, 2]] * 2
    # equal genes of different classes are different class modules
    assert len(brood.seen) == 6


def test_children_that_stay_known_copy_an_elite() -> None:
    start = make_new(torch.tensor([[[0, 1], [1, 1]]]).bool(), 0, frozenset(), as_is, as_is)
    calls = []

    def useless(genes: Tensor) -> Tensor:
        calls.append(genes)
        return genes

    children = torch.tensor([[[0, 1], [1, 1], [1, 1], [1, 0]]]).bool()
    brood = make_new(children, 2, start.seen, as_is, useless)
    assert brood.fresh.tolist() == [[False, False, False, True]]
    assert brood.source.tolist() == [[0, 1, 0, 3]]
    assert torch.equal(brood.selections[0, 2], brood.selections[0, 0])
    assert len(calls) == TRIES
    assert torch.equal(children[0, 2], torch.tensor([True, True]))


def test_genes_that_express_alike_are_the_same_selection() -> None:
    genes = torch.tensor([[[0, 0], [0, 1]]]).bool()
    brood = make_new(genes, 0, frozenset(), lambda g: g[..., :1], as_is)
    assert brood.fresh.tolist() == [[True, False]]
    assert brood.source.tolist() == [[0, 0]]
