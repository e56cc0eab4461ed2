import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

import cnnsplitter.scoring
import toys
from cnnsplitter.channels import ChannelMap
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet, load_data
from cnnsplitter.inference import predict
from cnnsplitter.models import build_model
from cnnsplitter.objective import composed_accuracy
from cnnsplitter.scoring import CutScorer
from cnnsplitter.selection import Selection
from cnnsplitter.splitting import as_classifier
from cnnsplitter.surgery import masked_forward
from cnnsplitter.training import Training, train
from strategies import Spec, build, specs

CLASSES = ("a", "b", "c", "d")


def candidates(channels: ChannelMap, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shares = torch.rand(count, generator=generator).tolist()
    keep = [channels.random_selection(share, generator=generator).keep for share in shares]
    return torch.randint(4, (count,), generator=generator), torch.stack(keep)


@settings(max_examples=8)
@given(specs())
def test_equals_the_masked_forward_of_each_candidate(spec: Spec) -> None:
    strong = Classifier(build(spec).float(), CLASSES, (3, 8, 8))
    channels = ChannelMap.trace(strong.net, strong.example())
    data = toys.image_set(7, classes=CLASSES, shape=(3, 8, 8))
    owner, keep = candidates(channels, 5)
    scores = CutScorer(strong, channels, data, batch_size=3)(owner, keep)
    (images, _), *_ = data.batches(7)
    x = strong.preprocessing(images)
    for row, column, units in zip(scores, owner.tolist(), keep, strict=True):
        selection = Selection(units, channels.fingerprint)
        with torch.no_grad():
            expected = masked_forward(strong.net, channels, selection, x)[:, column]
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-5)
    assert scores.dtype == torch.float32
    assert not scores.is_inference()


@settings(max_examples=6)
@given(at_once=st.integers(1, 12), batch_size=st.integers(1, 40))
def test_chunks_do_not_matter(at_once: int, batch_size: int) -> None:
    strong = toys.classifier("lenet5", classes=CLASSES, width=0.3).train()
    channels, data = toys.traced(strong), toys.image_set(30, classes=CLASSES)
    owner, keep = candidates(channels, 10)
    expected = CutScorer(strong, channels, data)(owner, keep)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cnnsplitter.scoring, "NETS_AT_ONCE", at_once)
        scores = CutScorer(strong, channels, data, batch_size)(owner, keep)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
    assert strong.net.training


def test_no_more_images_are_held_than_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    strong, data = toys.classifier("lenet5"), toys.image_set(50)
    read, sizes = data.images.read, []

    def record(rows: torch.Tensor) -> torch.Tensor:
        sizes.append(len(rows))
        return read(rows)

    monkeypatch.setattr(data.images, "read", record)
    channels = toys.traced(strong)
    keep = channels.full_selection().keep.expand(3, -1)
    CutScorer(strong, channels, data, batch_size=8)(torch.arange(3), keep)
    assert sizes == [8, 8, 8, 8, 8, 8, 2]


def test_early_precision_counts_only_where_a_number_of_images_is_given() -> None:
    strong, data = toys.classifier("resnet20", classes=CLASSES), toys.image_set(30, classes=CLASSES)
    channels = toys.traced(strong)
    keep = channels.full_selection().keep[None]
    exact, rough = (
        CutScorer(strong, channels, data, early_precision=precision)
        for precision in ("float32", "bfloat16")
    )
    owner = torch.tensor([2])
    assert torch.equal(rough(owner, keep), exact(owner, keep))
    rounded = rough(owner, keep, 30)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact(owner, keep, 30))
    expected = predict(strong, data, batch_size=64, precision="bfloat16")[:, 2]
    torch.testing.assert_close(rounded[0], expected, rtol=0.05, atol=0.05)


def test_early_precision_ranks_candidates_as_float32_does() -> None:
    """By how well their scores tell their class from the others."""
    digits = load_data("digits", seed=0)
    net, _ = build_model("lenet5", len(digits.classes), digits.input_shape)
    strong = as_classifier(net, digits)
    strong = train(strong, digits.train, None, Training(epochs=3), seed=0).classifier
    channels, data = toys.traced(strong), digits.search
    owner, keep = candidates(channels, 24)
    owner = owner % len(data.classes)
    scorer = CutScorer(strong, channels, data, early_precision="bfloat16")
    own = data.labels == owner[:, None]

    def separation(scores: torch.Tensor) -> list[float]:
        return [roc_auc_score(y, s) for y, s in zip(own, scores, strict=True)]

    exact, rough = separation(scorer(owner, keep)), separation(scorer(owner, keep, len(data)))
    assert spearmanr(exact, rough).statistic > 0.99


def test_composed_accuracy() -> None:
    scores = torch.tensor([[1.0, 0.0, 5.0, 0.0], [0.0, 1.0, 4.0, -1.0]])
    assert composed_accuracy(scores, torch.tensor([0, 1, 1, 0])) == 0.75


def test_the_data_can_be_one_image() -> None:
    strong = toys.classifier("lenet5")
    channels = toys.traced(strong)
    data: ImageSet = toys.image_set(1)
    keep = channels.full_selection().keep[None]
    scores = CutScorer(strong, channels, data)(torch.tensor([2]), keep)
    (image, _), *_ = data.batches(1)
    torch.testing.assert_close(scores[0], strong.eval()(image)[:, 2].detach())
