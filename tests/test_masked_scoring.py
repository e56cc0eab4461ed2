import pytest
import torch
from hypothesis import given, settings
from torch.nn.functional import cross_entropy

import toys
from cnnsplitter.channels import ChannelMap
from cnnsplitter.classifier import Classifier
from cnnsplitter.cost import measure_cost
from cnnsplitter.errors import ModelError
from cnnsplitter.inference import predict
from cnnsplitter.masked_scoring import MaskedImages, MaskedMargins
from cnnsplitter.scoring import CutScorer
from cnnsplitter.search.gradient.pairs import Pairs
from strategies import Spec, build, specs

CLASSES = ("a", "b", "c", "d")


def masked_images(strong: Classifier) -> MaskedImages:
    channels = ChannelMap.trace(strong.net, strong.example())
    data = toys.image_set(9, classes=strong.classes, shape=strong.input_shape)
    return MaskedImages(strong, channels, data)


def random_masks(channels: ChannelMap, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    keep = [channels.random_selection(0.6, generator=generator).keep for _ in range(count)]
    return torch.stack(keep).float()


@settings(max_examples=8)
@given(specs())
def test_every_pair_is_scored_by_its_own_class_module(spec: Spec) -> None:
    strong = Classifier(build(spec).float(), CLASSES, (3, 8, 8))
    masked = masked_images(strong)
    owner = torch.tensor([0, 1, 2, 3, 1])
    images = torch.tensor([8, 0, 0, 5, 8])
    masks = random_masks(masked.channels, 5)
    expected = CutScorer(strong, masked.channels, masked.data)(owner, masks.bool())
    scores = masked(images, owner, masks)
    found = expected[torch.arange(5), images]
    torch.testing.assert_close(scores, found, rtol=1e-4, atol=1e-4)


class Still(torch.nn.Sequential):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            out: torch.Tensor = super().forward(input)  # type: ignore[no-untyped-call]
        return out


def test_networks_without_gradients_are_refused() -> None:
    net = Still(
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.Conv2d(4, 4, 3),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 4),
    )
    masked = masked_images(Classifier(net, CLASSES, (1, 8, 8)))
    masks = random_masks(masked.channels, 1)
    masked(torch.tensor([0]), torch.tensor([0]), masks)
    with pytest.raises(ModelError, match=r"no gradient flows .* such as genetic"):
        masked(torch.tensor([0]), torch.tensor([0]), masks.requires_grad_())


def test_gradients_reach_the_masks_of_each_pair_and_nothing_else() -> None:
    strong = toys.classifier("resnet20", classes=CLASSES, width=0.3).train()
    masked = masked_images(strong)
    masks = random_masks(masked.channels, 3).requires_grad_()
    owner = torch.tensor([0, 1, 2])
    scores = masked(torch.tensor([0, 1, 2]), owner, masks)
    (slope,) = torch.autograd.grad(scores[1], masks)
    assert slope[1].any()
    assert not slope[0].any()
    assert not slope[2].any()
    assert all(p.requires_grad and p.grad is None for p in strong.parameters())
    assert strong.training
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in strong.modules())


def test_the_loss_of_margins_is_the_cross_entropy_over_all_classes() -> None:
    strong = toys.classifier("lenet5", classes=CLASSES, width=0.3)
    masked = masked_images(strong)
    margins, images = MaskedMargins(masked), torch.tensor([7, 0, 3])
    masks = random_masks(masked.channels, 3)
    owner = torch.zeros(3, dtype=torch.int64)
    assert torch.equal(margins.labels, torch.zeros(9, dtype=torch.int64))
    pairs = Pairs(images, owner[:, None], owner, margins.logits[images])
    scores = margins(images, owner, masks)[:, None]
    logits = masked.masked_logits(images, masks)
    expected = cross_entropy(logits, masked.labels[images])
    torch.testing.assert_close(pairs.loss(scores, scores, "cross-entropy"), expected)
    whole = margins(images, owner, torch.ones_like(masks))[:, None]
    torch.testing.assert_close(whole, margins.logits[images])
    assert margins.multiply_adds(masks).equal(masked.multiply_adds(masks))


def test_weights_are_given_back_after_an_error() -> None:
    strong = toys.classifier("lenet5", classes=CLASSES, width=0.3)
    masked = masked_images(strong)
    with pytest.raises((RuntimeError, IndexError)):
        masked(torch.tensor([0]), torch.tensor([0]), torch.ones(1, 2))
    assert all(p.requires_grad for p in strong.parameters())


def test_logits_and_labels_are_those_of_the_whole_model() -> None:
    strong = toys.classifier("lenet5", classes=CLASSES, width=0.3)
    masked = masked_images(strong)
    assert torch.equal(masked.logits, predict(strong, masked.data))
    assert torch.equal(masked.labels, masked.data.labels)
    whole = torch.ones(masked.channels.unit_count)
    cost = measure_cost(strong, strong.input_shape).multiply_adds
    assert masked.multiply_adds(whole).item() == cost
