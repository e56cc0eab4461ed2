import pytest
import torch
from torch import nn

import toys
from cnnsplitter.channels.cutting import narrow_copy
from cnnsplitter.classifier import Classifier
from cnnsplitter.errors import DataError, SettingsError
from cnnsplitter.inference import predict
from cnnsplitter.taylor import measure_taylor


def test_importance_is_what_the_logits_lose_where_they_are_linear_in_the_units() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)
    )
    strong = toys.own_classifier(net)
    channels, data = toys.traced(strong), toys.image_set(20)
    found = measure_taylor(strong, channels, data, batch_size=8)
    whole = predict(strong, data)
    for unit in range(channels.unit_count):
        keep = channels.full_selection().keep
        keep[unit] = False
        narrow = Classifier(narrow_copy(net, channels, keep), strong.classes, toys.SHAPE)
        lost = whole - predict(narrow, data)
        torch.testing.assert_close(found.scores[:, unit], lost.abs().mean(dim=0))
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


def test_it_is_measured_where_gradients_are_off_too() -> None:
    strong, data = toys.classifier(), toys.image_set(12)
    expected = measure_taylor(strong, toys.traced(strong), data)
    with torch.no_grad():
        found = measure_taylor(strong, toys.traced(strong), data)
    assert torch.equal(found.scores, expected.scores)
    assert all(parameter.requires_grad for parameter in strong.parameters())


def test_images_that_do_not_fit_are_refused() -> None:
    strong = toys.classifier()
    with pytest.raises(SettingsError, match="select or reorder"):
        measure_taylor(strong, toys.traced(strong), toys.image_set(9, classes=("x", "y", "z")))
    nothing = toys.image_set(9).take(torch.zeros(0, dtype=torch.int64))
    with pytest.raises(DataError, match="no images to measure importance on"):
        measure_taylor(strong, toys.traced(strong), nothing)
