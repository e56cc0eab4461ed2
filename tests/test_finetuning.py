from statistics import mean

import pytest
import torch
from torch import Tensor, nn

import hazards
import toys
from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.errors import DataError, ModelError, SettingsError
from cnnsplitter.finetuning import RATES, FineTuning, fine_tune
from cnnsplitter.inference import Precision, predict
from cnnsplitter.progress import Step
from cnnsplitter.splitting import trace
from cnnsplitter.subtasks.networks import cut, restrict

DATA = toys.image_set(60)
QUICK = FineTuning(batch_size=20)


def modules_of(strong: Classifier) -> dict[str, ClassModule]:
    return {name: toys.class_module(strong, name) for name in strong.classes}


def distance(strong: Classifier, module: ClassModule) -> float:
    wanted = predict(strong, DATA)[:, module.index]
    return (predict(module, DATA) - wanted).square().mean().item()


def states(tuned: dict[str, ClassModule]) -> list[Tensor]:
    return [tensor for module in tuned.values() for tensor in module.state_dict().values()]


def normed() -> Classifier:
    return toys.classifier("resnet20", width=0.25)


@pytest.mark.parametrize("strong", [normed(), toys.classifier("lenet5", width=1.0)])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_scores_come_nearer_to_the_strong_logits(strong: Classifier, precision: Precision) -> None:
    modules = modules_of(strong)
    settings = FineTuning(epochs=6, batch_size=20, learning_rate=1e-2, precision=precision)
    tuned = fine_tune(modules, strong, DATA, settings, seed=0)
    for key, module in modules.items():
        assert distance(strong, tuned[key]) < 0.7 * distance(strong, module)


@pytest.mark.parametrize(("native", "named"), [(False, "float32"), (True, "bfloat16")])
def test_the_precision_is_the_device_s_own(
    native: bool, named: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnsplitter.inference.native_bfloat16", lambda _: native)
    strong = toys.classifier("lenet5", width=1.0)
    modules, chosen = modules_of(strong), QUICK.model_copy(update={"precision": named})
    found, wanted = (
        states(fine_tune(modules, strong, DATA, each, seed=0)) for each in (QUICK, chosen)
    )
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert all(tensor.dtype == torch.float32 for tensor in found), "weights stay what they were"


def faint() -> Classifier:
    """Weights of the size of a step of Adam, which it therefore destroys."""
    strong = toys.classifier("lenet5", width=1.0)
    with torch.no_grad():
        for parameter in list(strong.parameters())[-2:]:
            parameter.mul_(1e-4)
    return strong


@pytest.mark.parametrize(
    ("strong", "chosen"),
    [(normed(), 1e-3), (toys.classifier("lenet5", width=1.0), 1e-3), (faint(), 3e-5)],
)
def test_without_batch_norms_the_rate_is_tried_out(strong: Classifier, chosen: float) -> None:
    modules, data = {"cat": toys.class_module(strong)}, toys.image_set(300)
    own, given, highest = (
        fine_tune(modules, strong, data, FineTuning(batch_size=20, learning_rate=rate), seed=0)
        for rate in (None, chosen, RATES[0])
    )
    assert distance(strong, own["cat"]) == distance(strong, given["cat"])
    assert distance(strong, own["cat"]) <= distance(strong, highest["cat"])


def test_inputs_are_left_as_they_were_and_metadata_stays() -> None:
    strong = normed()
    modules = modules_of(strong)
    frozen = next(modules["cat"].parameters())
    frozen.requires_grad_(False)
    states = [
        {key: tensor.clone() for key, tensor in model.state_dict().items()}
        for model in (strong, *modules.values())
    ]
    random = torch.get_rng_state()
    tuned = fine_tune(modules, strong, DATA, QUICK, seed=0)
    for model, state in zip((strong, *modules.values()), states, strict=True):
        assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    for name, module in tuned.items():
        assert module.source_class == name
        assert module.selection == modules[name].selection
        assert not any(part.training for part in module.modules())
        assert all(p.grad is None for p in module.parameters())
    assert not next(tuned["cat"].parameters()).requires_grad


def test_equal_seeds_give_equal_class_modules_alone_or_together() -> None:
    strong = normed()
    modules = modules_of(strong)
    settings = FineTuning(batch_size=20, flip=True, epochs=2)
    together = fine_tune(modules, strong, DATA, settings, seed=1)["dog"]
    alone = fine_tune({"dog": modules["dog"]}, strong, DATA, settings, seed=1)["dog"]
    other = fine_tune({"dog": modules["dog"]}, strong, DATA, settings, seed=2)["dog"]
    pairs = zip(together.state_dict().values(), alone.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    pairs = zip(alone.parameters(), other.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_progress_tells_a_falling_loss() -> None:
    strong, steps = normed(), list[Step]()
    settings = FineTuning(epochs=4, batch_size=20)
    fine_tune(modules_of(strong), strong, DATA, settings, seed=0, progress=steps.append)
    within = [("steps of the epoch", done, 3) for done in (1, 2, 3)]
    assert [(step.stage, step.done, step.total) for step in steps] == [
        told for done in (1, 2, 3, 4) for told in (*within, ("fine-tuning", done, 4))
    ]
    for first in (0, 4, 8, 12):
        *batches, whole = (step.values["loss"] for step in steps[first : first + 4])
        assert whole == pytest.approx(mean(batches))
    assert steps[-1].values["loss"] < steps[3].values["loss"]


def test_a_sub_task_learns_all_its_logits() -> None:
    strong = restrict(normed(), ("dog", "bird"))
    data = DATA.relabel(strong.classes)
    channels = trace(strong)
    generator = torch.Generator().manual_seed(0)
    narrow = cut(strong, channels, channels.random_selection(0.5, generator=generator))
    settings = FineTuning(epochs=8, batch_size=20, learning_rate=1e-2)
    tuned = fine_tune({"task": narrow}, strong, data, settings, seed=0)["task"]
    wanted = predict(strong, data)
    before, after = ((predict(m, data) - wanted).square().mean() for m in (narrow, tuned))
    assert after < 0.7 * before
    assert tuned.selection == narrow.selection


FEW = toys.image_set(40)


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    strong = toys.classifier("lenet5", width=1.0)
    modules = {"cat": toys.class_module(strong)}
    settings = FineTuning(batch_size=20, precision="float32")  # which parts round as the whole
    whole = states(fine_tune(modules, strong, FEW, settings, seed=0))
    hazards.little_memory(monkeypatch, nn.Conv2d, 7, 1)
    found = states(fine_tune(modules, strong, FEW, settings, seed=0))
    torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-5)


def test_what_broke_off_leaves_no_trace_in_the_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it breaks off before the first norm or after the last one, all is the same."""
    strong = normed()
    modules = {"cat": toys.class_module(strong)}
    found = []
    for kind in (nn.Conv2d, nn.Linear):
        with monkeypatch.context() as patched:
            hazards.little_memory(patched, kind, 7, 7)
            found.append(states(fine_tune(modules, strong, FEW, QUICK, seed=0)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    whole = states(fine_tune(modules, strong, FEW, QUICK, seed=0))
    assert not all(torch.equal(one, other) for one, other in zip(found[0], whole, strict=True))


def test_batch_norms_see_two_images_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    strong = normed()
    modules = {"cat": toys.class_module(strong)}
    hazards.little_memory(monkeypatch, nn.Conv2d, 7, 2)
    assert fine_tune(modules, strong, FEW, FineTuning(batch_size=8), seed=0)
    hazards.little_memory(monkeypatch, nn.Conv2d, 7, 1)
    with pytest.raises(ModelError, match="not even 2 images fit into memory"):
        fine_tune(modules, strong, FEW, QUICK, seed=0)


def test_what_cannot_be_tuned_is_refused() -> None:
    strong = normed()
    modules = modules_of(strong)
    with pytest.raises(SettingsError, match="at least one class module"):
        fine_tune({}, strong, DATA, QUICK, seed=0)
    with pytest.raises(DataError, match="at least two images"):
        fine_tune(modules, strong, DATA.take(torch.tensor([1])), QUICK, seed=0)
    with pytest.raises(DataError, match="images of shape"):
        fine_tune(modules, strong, toys.image_set(4, shape=(3, 8, 8)), QUICK, seed=0)
    other = toys.classifier("resnet20", classes=("dog", "cat", "bird"))
    with pytest.raises(SettingsError, match="module 'bird' was cut out of another strong model"):
        fine_tune(modules, other, DATA, QUICK, seed=0)
    with torch.no_grad():
        for layer in strong.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.fill_(torch.inf)
    with pytest.raises(ModelError, match="diverged in epoch 1"):
        fine_tune(modules, strong, DATA, QUICK, seed=0)
