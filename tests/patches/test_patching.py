import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cnnsplitter.calibration import CALIBRATIONS, METHODS, RangeCalibration
from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet, Splits
from cnnsplitter.errors import DataError, SettingsError
from cnnsplitter.evaluation import compare
from cnnsplitter.patches.gating import Gate
from cnnsplitter.patches.patching import RULES, Patch, PatchedModel, patch

NAMES = ("bird", "cat", "dog")
SHAPE = (3, 1, 1)
UNIT = RangeCalibration("min-max", 0.0, 1.0)
rules = st.sampled_from(sorted(RULES))


class Constant(nn.Module):
    """Gives the same logits to every image."""

    def __init__(self, logits: tuple[float, ...]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


def constant(*shares: float) -> Classifier:
    """A weak model that gives these probabilities to every image."""
    logits = torch.tensor(shares).log().tolist()
    return Classifier(Constant(tuple(logits)), NAMES[: len(shares)], SHAPE)


def intensity(channel: int = 0) -> ClassModule:
    """A class module whose score is the value of one channel of the one-pixel image."""
    return ClassModule(nn.Flatten(), NAMES[channel], NAMES, SHAPE)


def unit_patch(channel: int) -> Patch:
    return Patch(NAMES[channel], intensity(channel), UNIT)


def pixels(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).view(-1, *SHAPE)


def splits(images: Tensor, labels: list[int], classes: tuple[str, ...] = NAMES) -> Splits:
    data = ImageSet.from_arrays(images, torch.tensor(labels), classes, name="pixels.npz")
    return Splits(train=data, search=data, calibration=data, test=data)


def ramp() -> Splits:
    images = torch.rand(30, *SHAPE, generator=torch.Generator().manual_seed(0)) * 10
    return splits(images, [i % 3 for i in range(30)])


def test_the_published_rule_by_hand() -> None:
    data = splits(pixels([[2, 0, 0], [6, 0, 0], [9, 0, 0]]), [0, 0, 1])
    patched = patch(constant(0.2, 0.5, 0.3), {"bird": intensity()}, data, calibration="min-max")
    assert patched.patches[0].calibration == RangeCalibration("min-max", 2.0, 6.0, clip=False)
    outputs = patched(pixels([[2, 0, 0], [5, 0, 0], [10, 0, 0]]))
    expected = torch.tensor([[0.0, 0.5, 0.3], [0.75, 0.5, 0.3], [2.0, 0.5, 0.3]])
    assert torch.allclose(outputs, expected)
    comparison = compare(patched.weak, patched, data.test)
    assert comparison.targets == ("bird",)
    assert comparison.wrong_to_right.tolist() == [1]
    assert comparison.right_to_wrong.tolist() == [2]


def test_renormalised_by_hand() -> None:
    data = splits(pixels([[2, 0, 0], [6, 0, 0]]), [0, 0])
    weak, modules = constant(0.2, 0.5, 0.3), {"bird": intensity()}
    patched = patch(weak, modules, data, calibration="min-max", rule="renormalise")
    outputs = patched(pixels([[2, 0, 0], [5, 0, 0], [10, 0, 0]]))
    expected = torch.tensor([[0, 0.625, 0.375], [0.75, 0.15625, 0.09375], [1, 0, 0]])
    assert torch.allclose(outputs, expected, atol=2e-6)


def test_renormalised_patches_share_by_their_odds() -> None:
    weak = constant(0.2, 0.5, 0.3)
    patched = PatchedModel(weak, [unit_patch(0), unit_patch(1)], "renormalise")
    outputs = patched(pixels([[0.5, 0.75, 0], [1, 1, 0], [0.8, 0, 0]]))
    # Odds 1 and 3 against the rest; two sure patches; one sure that it is not its class.
    expected = torch.tensor([[0.2, 0.6, 0.2], [0.5, 0.5, 0], [0.8, 0, 0.2]])
    assert torch.allclose(outputs, expected, atol=2e-6)


probabilities = st.lists(st.floats(0.01, 1), min_size=3, max_size=3)
unit_pixels = st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=8)


@given(probabilities, unit_pixels, rules, st.permutations(range(3)), st.integers(0, 3))
def test_patches_commute(
    shares: list[float], rows: list[list[float]], rule: str, order: list[int], n: int
) -> None:
    weak, images = constant(*shares), pixels(rows)
    patches = [unit_patch(channel) for channel in order[:n]]
    outputs = PatchedModel(weak, patches, rule)(images)
    assert torch.equal(outputs, PatchedModel(weak, patches[::-1], rule)(images))


@given(probabilities, unit_pixels, st.permutations(range(3)), st.integers(1, 3))
def test_rules(shares: list[float], rows: list[list[float]], order: list[int], n: int) -> None:
    weak, images = constant(*shares), pixels(rows)
    plain, scores = weak(images).softmax(1), images.flatten(1)
    patches = [unit_patch(channel) for channel in order[:n]]
    replaced = PatchedModel(weak, patches)(images)
    assert torch.equal(replaced[:, order[:n]], scores[:, order[:n]])
    assert torch.equal(replaced[:, order[n:]], plain[:, order[n:]])
    outputs = PatchedModel(weak, patches, "renormalise")(images)
    assert torch.allclose(outputs.sum(1), torch.ones(len(images)))
    assert (outputs >= 0).all()
    if n == 1:
        column = order[0]
        assert torch.allclose(outputs[:, column], scores[:, column], atol=2e-6)
    if n < 3:
        rest = plain[:, order[n:]] / plain[:, order[n:]].sum(1, keepdim=True)
        mass = outputs[:, order[n:]].sum(1, keepdim=True)
        assert torch.allclose(outputs[:, order[n:]], rest * mass, atol=1e-6)


@given(probabilities, unit_pixels, rules)
def test_without_patches_it_is_the_weak_model(
    shares: list[float], rows: list[list[float]], rule: str
) -> None:
    weak, images = constant(*shares), pixels(rows)
    assert torch.equal(PatchedModel(weak, [], rule)(images), weak(images).softmax(1))


@pytest.mark.parametrize("method", CALIBRATIONS)
@pytest.mark.parametrize("rule", sorted(RULES))
def test_patching_again_gives_the_same(method: str, rule: str) -> None:
    data, weak = ramp(), constant(0.2, 0.5, 0.3)
    modules = {name: intensity(NAMES.index(name)) for name in ("dog", "bird")}
    first, second = (patch(weak, modules, data, calibration=method, rule=rule) for _ in range(2))
    assert first.calibrations == second.calibrations
    assert (first.classes, first.targets, first.input_shape) == (NAMES, ("dog", "bird"), SHAPE)
    images = torch.cat([images for images, _ in data.test.batches(8)])
    assert torch.equal(first(images), second(images))


def test_the_weak_model_is_untouched_and_not_shared() -> None:
    weak = constant(0.2, 0.5, 0.3).train()
    state = copy.deepcopy(weak.state_dict())
    patched = patch(weak, {"bird": intensity()}, ramp())
    assert all(part.training for part in weak.modules())
    assert not any(part.training for part in patched.modules())
    images = pixels([[5, 0, 0]])
    before = patched(images)
    with torch.no_grad():
        for parameter in patched.weak.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(state[name], tensor) for name, tensor in weak.state_dict().items())
    with torch.no_grad():
        for parameter in weak.parameters():
            parameter.zero_()
    assert torch.allclose(patched(images), before)


def test_classes_are_matched_by_name() -> None:
    weak = Classifier(Constant((0.0, 0.0)), ("rose", "puppy"), SHAPE)
    data = splits(pixels([[1, 2, 3], [4, 5, 7]]), [1, 1], ("rose", "puppy"))
    patched = patch(weak, {"puppy": intensity(2)}, data, calibration="min-max")
    assert patched.patches[0].calibration == RangeCalibration("min-max", 3.0, 7.0, clip=False)
    assert patched(pixels([[9, 9, 5]])).tolist() == [[0.5, 0.5]]
    assert patched(pixels([[9, 9, 7]])).tolist() == [[0.5, 1.0]]


def test_a_copy_keeps_its_own_class_modules() -> None:
    patched = PatchedModel(constant(0.2, 0.5, 0.3), [unit_patch(0)])
    twin = copy.deepcopy(patched)
    assert twin.patches[0].module is twin.class_modules[0]
    assert twin.patches[0].module is not patched.patches[0].module
    assert twin.patches[0].target == "bird"


def test_wrong_settings_are_refused() -> None:
    weak, data = constant(0.2, 0.5, 0.3), ramp()
    with pytest.raises(SettingsError, match="class of the weak model 'brid'; did you mean 'bird'"):
        patch(weak, {"brid": intensity()}, data)
    with pytest.raises(SettingsError, match="did you mean 'min-max'"):
        patch(weak, {"bird": intensity()}, data, calibration="minmax")
    with pytest.raises(SettingsError, match="did you mean 'renormalise'"):
        patch(weak, {"bird": intensity()}, data, rule="renormalize")
    with pytest.raises(SettingsError, match="'bird' is patched twice"):
        PatchedModel(weak, [unit_patch(0), unit_patch(0)])
    with pytest.raises(SettingsError, match="did you mean 'replace'"):
        PatchedModel(weak, [], "replaces")


def test_data_that_do_not_fit_are_refused() -> None:
    weak = constant(0.2, 0.5, 0.3)
    images = pixels([[1, 2, 3], [4, 5, 7]])
    with pytest.raises(DataError, match="relabel"):
        patch(weak, {"bird": intensity()}, splits(images, [0, 0], NAMES[::-1]))
    with pytest.raises(DataError, match=r"class 'dog' has no calibration image in pixels\.npz"):
        patch(weak, {"dog": intensity()}, splits(images, [0, 0]))
    with pytest.raises(DataError, match=r"weak model .*\(3, 1, 1\) but the data of \(1, 1, 1\)"):
        patch(weak, {"bird": intensity()}, splits(torch.zeros(2, 1, 1, 1), [0, 0]))
    large = ClassModule(nn.Flatten(), "bird", NAMES, (3, 2, 2))
    with pytest.raises(
        DataError, match=r"\(3, 1, 1\) but the class module of 'bird' of \(3, 2, 2\)"
    ):
        patch(weak, {"bird": large}, splits(images, [0, 0]))


class Counting(nn.Flatten):
    """Counts the images that it is given."""

    seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return super().forward(images)


class Linear(nn.Module):
    """The pixel's channels are the logits of the first classes."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, : self.outputs]


def seeing(*classes: str) -> Classifier:
    return Classifier(Linear(len(classes)), classes, SHAPE)


def noise(n: int = 40) -> Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1))


gates = st.builds(Gate, st.sampled_from(["score", "rank", "margin", "unsure"]), st.floats(-3, 1))


@given(gates, rules, st.permutations(range(3)), st.integers(1, 3))
def test_with_a_shut_gate_it_is_the_weak_model_bit_for_bit(
    gate: Gate, rule: str, order: list[int], n: int
) -> None:
    weak, images = seeing(*NAMES), noise()
    patches = [Patch(NAMES[c], intensity(c), UNIT, gate) for c in order[:n]]
    patched = PatchedModel(weak, patches, rule)
    shut = ~patched.opened(images).any(1)
    assert torch.equal(patched(images)[shut], weak(images).softmax(1)[shut])
    # An open gate gives what the patch gives that is always run.
    free = PatchedModel(weak, [Patch(p.target, p.module, UNIT) for p in patches], rule)
    wide = patched.opened(images).all(1)
    assert torch.allclose(patched(images)[wide], free(images)[wide], atol=1e-6)


@given(gates)
def test_a_gate_spares_the_class_module_images(gate: Gate) -> None:
    module = ClassModule(Counting(), "bird", NAMES, SHAPE)
    patched = PatchedModel(seeing(*NAMES), [Patch("bird", module, UNIT, gate)])
    patched(noise())
    assert module.net.seen == patched.opened(noise()).sum()


def test_images_do_not_depend_on_their_batch() -> None:
    gate = Gate("margin", -1.0)
    patched = PatchedModel(seeing(*NAMES), [Patch("cat", intensity(1), UNIT, gate)], "renormalise")
    images = noise()
    assert 0 < patched.opened(images).sum() < len(images)
    single = torch.cat([patched(image[None]) for image in images])
    assert torch.allclose(patched(images), single)


@given(rules, st.permutations(range(3)), st.integers(1, 3))
def test_patches_can_be_removed(rule: str, order: list[int], n: int) -> None:
    weak, images = seeing(*NAMES), noise()
    patches = [unit_patch(channel) for channel in order[:n]]
    patched = PatchedModel(weak, patches, rule)
    targets = [patch.target for patch in patches]
    bare = patched.without(*targets)
    assert torch.equal(bare(images), weak(images).softmax(1))
    assert bare.weak is weak
    fewer = patched.without(targets[0])
    assert torch.equal(fewer(images), PatchedModel(weak, patches[1:], rule)(images))
    with pytest.raises(SettingsError, match="unknown patched class"):
        bare.without("bird")


def test_a_linear_layer_is_taken_away_as_a_whole() -> None:
    weak, modules = constant(0.2, 0.5, 0.3), {"dog": intensity(2), "bird": intensity(0)}
    patched = patch(weak, modules, ramp(), calibration="linear")
    images = pixels([[5, 0, 0]])
    assert torch.equal(patched.without("dog", "bird")(images), weak(images).softmax(1))
    with pytest.raises(SettingsError, match="fitted to all patches together"):
        patched.without("dog")


@pytest.mark.parametrize("classes", [("bird", "cat", "dog"), ("dog", "cat", "bird")])
@pytest.mark.parametrize("method", CALIBRATIONS)
def test_a_class_can_be_added(classes: tuple[str, ...], method: str) -> None:
    """The weak model knows bird and cat; the third channel of the image tells dogs."""
    names = ("bird", "cat", "dog")
    labels = torch.arange(90) % 3
    images = torch.randn(90, 3, generator=torch.Generator().manual_seed(2))
    images += 4 * torch.nn.functional.one_hot(labels, 3)
    data = splits(images.view(-1, *SHAPE), labels.tolist(), names)
    data = Splits(*(part.relabel(classes) for part in data.sets))
    weak = Classifier(Linear(2), tuple(c for c in classes if c != "dog"), SHAPE)
    weak.classes = ("bird", "cat")
    patched = patch(weak, {"dog": intensity(2)}, data, calibration=method, gate=0.9)
    assert patched.classes == classes
    comparison = compare(patched.unpatched(), patched, data.test)
    dog = classes.index("dog")
    assert comparison.before.recall[dog] == 0
    # The paper's shares are low against the probabilities of a sure model.
    assert comparison.after.recall[dog] > (0.1 if method in METHODS else 0.8)
    bare = patched.without("dog")
    assert bare.classes == ("bird", "cat")
    batch = images.view(-1, *SHAPE)
    assert torch.equal(bare(batch), weak(batch).softmax(1))


def test_several_patches_are_fitted_together_in_any_order() -> None:
    data, weak = ramp(), constant(0.2, 0.5, 0.3)
    both = {name: intensity(NAMES.index(name)) for name in ("dog", "bird")}
    first = patch(weak, both, data, objective="f1", floor=-0.5)
    second = patch(weak, dict(reversed(both.items())), data, objective="f1", floor=-0.5)
    images = torch.cat([images for images, _ in data.test.batches(8)])
    assert torch.allclose(first(images), second(images), atol=1e-4)


def test_classes_that_do_not_fit_are_refused() -> None:
    weak = constant(0.2, 0.5, 0.3)
    with pytest.raises(SettingsError, match="must be the weak model's"):
        PatchedModel(weak, [], classes=("bird", "cat"))
    with pytest.raises(SettingsError, match="'ship' is new to the weak model"):
        PatchedModel(weak, [Patch("ship", intensity(), UNIT, Gate("rank", -1.0))])
    data = splits(noise(8), [0, 1, 2, 3] * 2, (*NAMES, "ship"))
    with pytest.raises(DataError, match="relabel"):
        patch(weak, {"bird": intensity()}, data)
