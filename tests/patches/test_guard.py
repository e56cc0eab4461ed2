import json
from dataclasses import replace
from statistics import mean

import pytest
import torch
from torch import nn

from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet, Splits
from cnnsplitter.errors import DataError
from cnnsplitter.patches.combining import Observations, outputs_of
from cnnsplitter.patches.fitting import Fitting, fit, folds_of, held_out_outputs
from cnnsplitter.patches.guard import judge, verdicts_of
from cnnsplitter.patches.patching import known_classes, patch
from observed import NAMES, observations


class Channels(nn.Module):
    """Some channels of a one-pixel image."""

    def __init__(self, first: int, count: int) -> None:
        super().__init__()
        self.channels = slice(first, first + count)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)[:, self.channels]


class Blind(Channels):
    """Gives the same logits to every image."""

    def __init__(self) -> None:
        super().__init__(0, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * 0


def images(n: int = 400, seed: int = 0) -> ImageSet:
    """The first four channels are a weak model's logits, the next four are strong scores."""
    seen = observations(n, seed=seed, patched=(0, 1, 2, 3), blind=1.5, skill=4.0)
    pixels = torch.cat([seen.logits, seen.scores], 1).float().view(n, 8, 1, 1)
    return ImageSet.from_arrays(pixels, seen.labels, NAMES, "pixels.npz")


SHAPE = (8, 1, 1)
WEAK = Classifier(Channels(0, 4), NAMES, SHAPE)


def module(column: int) -> ClassModule:
    return ClassModule(Channels(4, 4), NAMES[column], NAMES, SHAPE)


def test_a_good_patch_is_kept_and_a_useless_one_is_not() -> None:
    # The weak model's own logits tell nothing new.
    useless = ClassModule(Channels(0, 4), "dog", NAMES, SHAPE)
    found = judge(WEAK, {"dog": useless, "bird": module(0)}, images())
    assert found.kept == ("bird",)
    assert found.verdicts["bird"].helps
    assert found.verdicts["bird"].f1.estimate > 0.1
    assert "is not shown to help" in str(found.verdicts["dog"])
    assert json.loads(json.dumps(found.verdicts["dog"].to_json()))["helps"] is False


def test_several_good_patches_are_kept_together() -> None:
    found = judge(WEAK, {"dog": module(2), "bird": module(0)}, images())
    assert set(found.kept) == {"dog", "bird"}


def test_a_patch_without_any_skill_is_seldom_kept() -> None:
    """The interval's lower end is above 0 by chance in at most 1 of 40 such cases."""
    kept = [
        verdicts_of(Fitting(), observations(n=200, seed=seed, skill=0.0))[0].helps
        for seed in range(24)
    ]
    assert mean(kept) <= 0.05


@pytest.mark.parametrize("calibration", ["learned", "linear", "auto", "isotonic"])
def test_what_the_calibration_gains_alone_is_no_merit_of_a_patch(calibration: str) -> None:
    """The weak model prefers another class, which any calibration mends."""
    seen = observations(n=600, skill=0.0)
    askew = replace(seen, logits=seen.logits + torch.tensor([3.0, 0.0, 0.0, 0.0]))
    (verdict,) = verdicts_of(Fitting(calibration), askew)
    assert verdict.beyond is not None
    assert not verdict.helps
    assert verdict.beyond.low <= 0
    if calibration in ("learned", "auto"):  # others know the class by the class module alone
        assert verdict.improves
        assert "beyond the weak model's own score" in str(verdict)
    (skilled,) = verdicts_of(
        Fitting(calibration), replace(askew, scores=seen.scores + 9 * hot(seen))
    )
    assert skilled.helps


def hot(seen: Observations) -> torch.Tensor:
    return (seen.labels == 1).double()[:, None]


def test_a_class_that_the_weak_model_lacks_has_no_score_to_calibrate() -> None:
    (verdict,) = verdicts_of(Fitting(), observations(lacking=(1,)))
    assert verdict.beyond is None
    assert verdict.helps == verdict.improves
    assert "beyond" not in str(verdict)


def test_a_weak_model_without_an_opinion_leaves_all_merit_to_the_patch() -> None:
    seen = observations()
    dull = replace(seen, logits=torch.zeros_like(seen.logits))
    assert verdicts_of(Fitting("min-max"), dull)[0].beyond is None


def test_auto_judges_several_patches_as_it_fits_them() -> None:
    seen = observations(800, patched=(1, 2), blind=1.0)
    askew = replace(seen, logits=seen.logits + torch.tensor([3.0, 0.0, 0.0, 0.0]))
    found = verdicts_of(Fitting("auto"), askew)
    assert [str(each) for each in found] == [str(each) for each in verdicts_of(Fitting(), askew)]
    assert all(verdict.helps for verdict in found)


def test_the_floor_protects_the_other_classes() -> None:
    seen = observations(n=400, skill=1.0, blind=2.0)
    (free,) = verdicts_of(Fitting(objective="recall", floor=-0.5), seen)
    (strict,) = verdicts_of(Fitting(objective="recall", floor=0.0), seen)
    assert free.other.estimate < strict.other.estimate
    assert not verdicts_of(Fitting("min-max", floor=1.0), seen)[0].helps


def test_no_image_is_judged_by_a_fit_that_has_seen_it() -> None:
    seen = observations(n=200, skill=1.0)
    plain = held_out_outputs(Fitting(), seen)
    fold = folds_of(seen.labels)
    assert torch.bincount(fold).tolist() == [40] * 5
    fitted = fit(Fitting(), seen.take(fold != 0))
    assert torch.equal(plain[fold == 0], outputs_of(fitted, seen.take(fold == 0)))


def test_what_is_kept_can_be_patched_though_an_added_class_is_dropped() -> None:
    data, weak = images(), Classifier(Channels(0, 3), NAMES[:3], SHAPE)
    modules = {"bird": module(0), "ship": ClassModule(Blind(), "ship", NAMES, SHAPE)}
    kept = judge(weak, modules, data).kept
    assert kept == ("bird",)
    splits = Splits(data, data, data, data)
    assert known_classes(weak, modules, NAMES) == NAMES
    fitting = splits.relabel(known_classes(weak, kept, NAMES))
    patched = patch(weak, {name: modules[name] for name in kept}, fitting)
    assert (patched.targets, patched.classes) == (("bird",), NAMES[:3])


def test_a_class_needs_images_to_hold_out() -> None:
    few = images(40)
    keep = few.labels != 0
    keep[0] = True
    with pytest.raises(DataError, match="'bird' has fewer than two calibration images"):
        judge(WEAK, {"bird": module(0)}, few.take(keep))


def test_the_papers_calibrations_need_a_third_image() -> None:
    data = images(40)
    few = data.take((data.labels != 0) | (torch.arange(40) < 5))
    assert few.counts()[0] == 2
    judge(WEAK, {"bird": module(0)}, few)
    with pytest.raises(DataError, match=r"'bird' has fewer than three .* 'min-max' can hold none"):
        judge(WEAK, {"bird": module(0)}, few, Fitting("min-max"))
