"""The gradient search on real networks."""

from pathlib import Path

import pytest
import torch

import toys
from cnnsplitter.class_modules import compose
from cnnsplitter.inference import predict
from cnnsplitter.progress import Step
from cnnsplitter.search import GradientSearch
from cnnsplitter.splitting import split

SEARCH = GradientSearch(keep=0.5, rounds=3, steps=3, anneal=2, pairs=12, start_pairs=12, rate=0.1)


def interrupt(step: Step, /) -> None:
    if (step.stage, step.done) == ("search", 1):
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_a_network_is_split_within_the_budget_and_left_as_it_was(name: str, tmp_path: Path) -> None:
    strong, data = toys.classifier(name, width=0.5).train(), toys.splits(40)
    state = {key: tensor.clone() for key, tensor in strong.state_dict().items()}
    checkpoint = tmp_path / "search"
    with pytest.raises(KeyboardInterrupt):
        split(strong, data, search=SEARCH, checkpoint=checkpoint, progress=interrupt)
    resumed = split(strong, data, search=SEARCH, checkpoint=checkpoint)
    found = split(strong, data, search=SEARCH, compensate=False)
    assert torch.equal(resumed.result.selections, found.result.selections)
    assert resumed.result.history == found.result.history
    assert max(float(row["kept_kernels"]) for row in found.rows(strong)) <= 0.5
    right = (predict(compose(found), data.search).argmax(1) == data.search.labels).double()
    assert right.mean().item() == found.result.accuracy
    assert all(torch.equal(state[key], tensor) for key, tensor in strong.state_dict().items())
    assert strong.training
    assert all(p.requires_grad and p.grad is None for p in strong.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in strong.modules())
