import pytest
import torch
from hypothesis import given, settings

import toys
from cnnsplitter.channels import ChannelMap
from cnnsplitter.channels.masking import masked
from cnnsplitter.classifier import Classifier
from cnnsplitter.errors import DataError, SettingsError
from cnnsplitter.taylor import measure_taylor
from strategies import Spec, build, specs

CLASSES = ("a", "b", "c", "d")


@settings(max_examples=6)
@given(specs())
def test_importance_is_the_slope_of_the_logits(spec: Spec) -> None:
    strong = Classifier(build(spec), CLASSES, (3, 8, 8))
    channels = ChannelMap.trace(strong.net, strong.example())
    data = toys.image_set(5, classes=CLASSES, shape=(3, 8, 8))
    found = measure_taylor(strong, channels, data, batch_size=2)
    (images, _), *_ = data.batches(5)
    step, unit = 1e-5, spec.seed % channels.unit_count
    outputs = []
    for change in (-step, step):
        mask = torch.ones(channels.unit_count, dtype=torch.float64)
        mask[unit] += change
        with torch.no_grad(), masked(strong.net.eval(), channels, mask):
            outputs.append(strong(images.double() / 255))
    slope = ((outputs[1] - outputs[0]) / (2 * step)).abs().mean(dim=0)
    torch.testing.assert_close(found.scores[:, unit].double(), slope, rtol=1e-2, atol=1e-4)
    assert found.fingerprint == channels.fingerprint


def test_the_model_is_left_as_it_was() -> None:
    strong = toys.classifier().train()
    one = measure_taylor(strong, toys.traced(strong), toys.image_set(20), batch_size=20)
    two = measure_taylor(strong, toys.traced(strong), toys.image_set(20), batch_size=6)
    torch.testing.assert_close(one.scores, two.scores)
    assert one.samples.tolist() == [20] * 3
    assert strong.training
    assert all(parameter.grad is None for parameter in strong.parameters())
    assert not any(m._forward_pre_hooks for m in strong.modules())


def test_images_that_do_not_fit_are_refused() -> None:
    strong = toys.classifier()
    with pytest.raises(SettingsError, match="select or reorder"):
        measure_taylor(strong, toys.traced(strong), toys.image_set(9, classes=("x", "y", "z")))
    nothing = toys.image_set(9).take(torch.zeros(0, dtype=torch.int64))
    with pytest.raises(DataError, match="no images to measure importance on"):
        measure_taylor(strong, toys.traced(strong), nothing)
