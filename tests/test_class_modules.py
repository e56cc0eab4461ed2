import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cnnsplitter.calibration import NormalCalibration, RangeCalibration
from cnnsplitter.class_modules import ClassModule, ComposedModel, calibrate, compose
from cnnsplitter.classifier import Architecture, Classifier
from cnnsplitter.data import ImageSet
from cnnsplitter.errors import DataError, SettingsError
from cnnsplitter.preprocessing import Preprocessing
from cnnsplitter.selection import Selection

NAMES = ("bird", "cat", "dog")
SHAPE = (3, 1, 1)


def strong(classes: tuple[str, ...] = NAMES, mean: float = 0.0) -> Classifier:
    """Channel ``i`` of a one-pixel image is the logit of class ``i``."""
    return Classifier(nn.Flatten(), classes, (len(classes), 1, 1), Preprocessing((mean,)))


def whole(name: str, mean: float = 0.0) -> ClassModule:
    return ClassModule.of(strong(mean=mean), name)


def random_images(n: int = 5) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0))


def pixel_set(images: Tensor, labels: list[int], classes: tuple[str, ...] = NAMES) -> ImageSet:
    return ImageSet.from_arrays(images, torch.tensor(labels), classes, name="pixels.npz")


def test_class_module_scores_its_class() -> None:
    images = random_images()
    for index, name in enumerate(NAMES):
        module = whole(name, mean=0.5)
        assert module.index == index
        assert torch.equal(module(images), images[:, index, 0, 0] - 0.5)
        assert name in repr(module)


def test_class_module_takes_over_the_metadata_of_the_strong_model() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Dropout())
    architecture = Architecture("toy", {"width": 1})
    model = Classifier(net, NAMES, SHAPE, Preprocessing((0.5,)), architecture).train()
    selection = Selection(torch.tensor([True, False]), "map")
    narrow = nn.Flatten()
    module = ClassModule.of(model, "cat", narrow, selection)
    assert module.net is narrow
    assert (module.classes, module.input_shape) == (NAMES, SHAPE)
    assert (module.preprocessing, module.architecture) == (Preprocessing((0.5,)), architecture)
    assert module.selection is selection
    copied = ClassModule.of(model, "cat")
    assert not copied.net.training
    assert all(part.training for part in model.modules())


def test_unknown_source_class_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match="did you mean 'bird'"):
        whole("brid")


@given(st.permutations(NAMES), st.integers(1, 3))
def test_composed_model_of_a_subset_in_any_order(order: list[str], n: int) -> None:
    images = random_images()
    composed = compose([whole(name) for name in order[:n]])
    assert composed.classes == tuple(order[:n])
    assert composed.input_shape == SHAPE
    columns = [NAMES.index(name) for name in order[:n]]
    assert torch.equal(composed(images), strong()(images)[:, columns])


def test_composition_of_the_whole_model_is_the_model() -> None:
    images = random_images()
    modules = {name: whole(name) for name in NAMES}
    assert torch.equal(compose(modules)(images), strong()(images))


def test_composition_of_different_strong_models() -> None:
    images = random_images()
    other = ClassModule.of(strong(("ship", "car", "bus"), mean=0.25), "car")
    composed = compose([whole("dog"), other])
    assert composed.classes == ("dog", "car")
    assert torch.equal(
        composed(images), torch.stack([images[:, 2], images[:, 1] - 0.25], 1).flatten(1)
    )


def test_calibrations_belong_to_names() -> None:
    images = random_images()
    rules = {
        "dog": NormalCalibration("z-score", 0.0, 1.0),
        "cat": RangeCalibration("min-max", 0.0, 2.0),
    }
    composed = compose([whole("cat"), whole("dog")], rules)
    assert composed.calibrations == (rules["cat"], rules["dog"])
    cat, dog = images[:, 1].flatten(), images[:, 2].flatten()
    assert torch.equal(composed(images), torch.stack([cat / 2, torch.special.ndtr(dog)], 1))


def test_state_dict_names_every_class_module() -> None:
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(3, 3)) for _ in range(2)]
    modules = [ClassModule(net, n, NAMES, SHAPE) for net, n in zip(nets, NAMES, strict=False)]
    composed = ComposedModel(modules)
    twin = ComposedModel([copy.deepcopy(module) for module in reversed(modules)])
    twin.load_state_dict(composed.state_dict())
    assert torch.equal(twin.modules_[0].net[1].weight, nets[0][1].weight)  # type: ignore


def test_bad_compositions_are_refused() -> None:
    with pytest.raises(SettingsError, match="at least one"):
        compose([])
    with pytest.raises(SettingsError, match="'cat' has 2 class modules"):
        compose([whole("cat"), whole("dog"), whole("cat")])
    with pytest.raises(SettingsError, match="key 'pet' holds the class module of 'cat'"):
        compose({"pet": whole("cat")})
    wide = ClassModule.of(strong(("bus", "car")), "car")
    with pytest.raises(
        DataError, match=r"of 'cat' has .*\(3, 1, 1\) but .* of 'car' of \(2, 1, 1\)"
    ):
        compose([whole("cat"), wide])
    rule = RangeCalibration("min-max", 0.0, 1.0)
    with pytest.raises(SettingsError, match="give one for each"):
        compose([whole("cat"), whole("dog")], {"cat": rule})
    with pytest.raises(SettingsError, match="2 class modules but 1 calibrations"):
        ComposedModel([whole("cat"), whole("dog")], [rule])


def test_calibrate_uses_the_images_of_the_class_only() -> None:
    images = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 9, 8]]).view(3, 3, 1, 1)
    data = pixel_set(images, [0, 0, 1], ("puppy", "rose"))
    rule = calibrate(whole("dog"), data, "puppy", "min-max", clip=False)
    assert rule == RangeCalibration("min-max", 3.0, 6.0, clip=False)


def test_bad_calibration_data_is_refused() -> None:
    module = whole("dog")
    data = pixel_set(random_images(3), [0, 0, 1])
    with pytest.raises(SettingsError, match="did you mean 'bird'"):
        calibrate(module, data, "brid", "min-max")
    with pytest.raises(DataError, match=r"'dog' has no calibration image in pixels\.npz"):
        calibrate(module, data, "dog", "min-max")
    with pytest.raises(DataError, match="class 'cat': min-max calibration finds no spread"):
        calibrate(module, data, "cat", "min-max")
    small = pixel_set(torch.zeros(1, 1, 1, 1), [0])
    with pytest.raises(DataError, match=r"\(3, 1, 1\) but pixels.npz of \(1, 1, 1\)"):
        calibrate(module, small, "bird", "min-max")
