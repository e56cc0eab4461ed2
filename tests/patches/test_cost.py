import pytest
import torch

from cnnsplitter.calibration import LearnedCalibration
from cnnsplitter.cost import measure_cost
from cnnsplitter.inference import predict
from cnnsplitter.patches.combining import opened
from cnnsplitter.patches.cost import measure_patch_cost, run_shares, timed_images, ungated
from cnnsplitter.patches.gating import Gate
from cnnsplitter.patches.patching import Patch, PatchedModel
from toys import SHAPE, class_module, classifier, image_set

RULE = LearnedCalibration("learned", 1.0, 0.0, 0.5, 0.5)
IMAGES = image_set(40)


def patched(*gates: Gate | None) -> PatchedModel:
    strong = classifier()
    parts = zip(("cat", "dog"), gates, strict=False)
    patches = [Patch(name, class_module(strong, name), RULE, gate) for name, gate in parts]
    return PatchedModel(classifier(seed=1), patches, "renormalise")


def half_open() -> Gate:
    """A gate that opens for half of the images."""
    doubt = -predict(classifier(seed=1), IMAGES).log_softmax(1).amax(1)
    return Gate("unsure", doubt.median().item() + 1e-7)


def test_mean_multiply_adds_are_those_of_what_is_run() -> None:
    model = patched(half_open(), None)
    found = measure_patch_cost(model, IMAGES, latency=True)
    share = found.run_share["cat"]
    assert 0.3 < share < 0.7
    assert found.run_share["dog"] == 1
    weak, *modules = (
        measure_cost(part, SHAPE).multiply_adds for part in (model.weak, *model.class_modules)
    )
    assert found.models["patched"].multiply_adds == weak + sum(modules)
    mean = weak + share * modules[0] + modules[1]
    assert found.models["gated"].multiply_adds == pytest.approx(mean, abs=1)
    assert found.patch_share == pytest.approx((1 + share) / 2, abs=0.01)
    assert all(cost.latency_ms for cost in found.models.values())
    weak_row, patched_row, gated_row = found.rows()
    assert (weak_row["model"], patched_row["model"]) == ("weak, cat, dog", "patched, cat, dog")
    assert gated_row["model"] == f"gated, runs cat on {share:.0%}, dog on 100% of the images"
    assert gated_row["multiply_adds"] == found.models["gated"].multiply_adds
    assert {row["images_at_once"] for row in found.rows()} == {len(IMAGES)}


def test_without_gates_all_is_run() -> None:
    found = measure_patch_cost(patched(None, None), IMAGES)
    assert list(found.models) == ["weak", "patched"]
    assert found.run_share == {"cat": 1, "dog": 1}
    assert found.patch_share == 1
    assert found.models["patched"].latency_ms is None


def test_shares_are_those_of_the_gates() -> None:
    model = patched(half_open())
    logits = predict(model.weak, IMAGES)
    expected = opened(model.joint, logits, model.layout).double().mean().item()
    assert run_shares(model, IMAGES) == {"cat": expected}
    free = ungated(model)
    assert free.patches[0].gate is None
    assert torch.equal(predict(free.without("cat"), IMAGES), logits.softmax(1))


@pytest.mark.parametrize("doubt", ["score", "rank", "margin", "unsure"])
def test_an_exported_gate_gives_the_same(doubt: str) -> None:
    """The exported graph runs the class module on all images and masks what is shut."""
    model = patched(Gate(doubt, -1.0))
    batch = next(IMAGES.batches(8))[0]
    exported = torch.export.export(model, (batch,)).module()
    assert torch.allclose(exported(batch), model(batch), atol=1e-6)


def test_the_images_that_are_timed_are_of_all_classes() -> None:
    images = image_set(900)
    by_class = images.take(images.labels.argsort())
    timed = timed_images(by_class)
    assert len(timed) == 256
    assert timed.counts().max() - timed.counts().min() <= 1
    assert torch.equal(timed.rows, timed_images(by_class).rows)
