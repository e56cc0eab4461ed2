"""What every claim about a patch is to be held against, made with the same images."""

import contextlib
import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnsplitter.channels import ChannelMap
from cnnsplitter.channels.cutting import sized_values
from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet, Splits
from cnnsplitter.errors import ModelError, SettingsError, UnsupportedModelError, require_known
from cnnsplitter.heads import last_layer
from cnnsplitter.inference import device_of, predict
from cnnsplitter.nets import eval_mode
from cnnsplitter.patches.fitting import folds_of
from cnnsplitter.selection import Selection
from cnnsplitter.splitting import trace_of
from cnnsplitter.surgery import extract
from cnnsplitter.training import Training, train

PULLS = (1.0, 10.0, 100.0, 1000.0)
"""Strengths of the pull towards the old last layer that are tried, held out; higher: less moves."""
FINE_TUNING = Training(epochs=10, batch_size=64, learning_rate=0.01)
"""How the weak model is fine-tuned on the calibration images."""


def whole_strong(strong: Classifier, modules: Mapping[str, ClassModule]) -> dict[str, ClassModule]:
    """Return the uncut strong model in place of each class module: the ceiling of any patch.

    Raises:
        SettingsError: A class module of a class that the strong model lacks.
    """
    for module in modules.values():
        require_known("class of the strong model", module.source_class, strong.classes)
    return {
        target: ClassModule.of(strong, module.source_class) for target, module in modules.items()
    }


def random_modules(
    strong: Classifier, modules: Mapping[str, ClassModule], seed: int
) -> dict[str, ClassModule]:
    """Return class modules that keep as many units of each layer, drawn at random.

    Raises:
        SettingsError: A class module that was not cut out of ``strong``.
    """
    known = [module.selection for module in modules.values() if module.selection]
    traced = (trace_of(strong, one) for one in {s.fingerprint: s for s in known}.values())
    maps = {channels.fingerprint: channels for channels in traced}
    return {
        target: _random_module(strong, maps, module, seed) for target, module in modules.items()
    }


def retrain_last_layer(weak: Classifier, data: ImageSet) -> Classifier:
    """Return a copy whose last linear layer is fitted to ``data`` by maximum likelihood.

    A pull towards the old weights keeps it from over-fitting; its strength is the one of ``PULLS``
    that is likeliest on held-out images.

    Args:
        weak: The weak model; left untouched.
        data: The calibration images.

    Raises:
        ModelError: The network does not end in a linear layer.
    """
    weak = copy.deepcopy(weak)
    last = _last_linear(weak)
    inputs = _inputs_of(last, weak, data).double()
    start = torch.cat([last.weight, last.bias[:, None]], 1).detach().cpu().double()
    inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)
    fold = folds_of(data.labels)

    def held_out(pull: float) -> float:
        losses = []
        for k in range(int(fold.max()) + 1):
            rest = fold != k
            weights = _fit_layer(start, inputs[rest], data.labels[rest], pull)
            logits = inputs[~rest] @ weights.T
            losses.append(functional.cross_entropy(logits, data.labels[~rest], reduction="sum"))
        return float(torch.stack(losses).sum())

    found = _fit_layer(start, inputs, data.labels, min(PULLS, key=held_out))
    with torch.no_grad():
        last.weight.copy_(found[:, :-1])
        last.bias.copy_(found[:, -1])
    return weak


def fine_tune(weak: Classifier, data: Splits, *, seed: int = 0) -> Classifier:
    """Return a copy that is trained on the calibration images, all layers, by ``FINE_TUNING``."""
    return train(weak, data.calibration, None, FINE_TUNING, seed=seed).classifier


def _random_module(
    strong: Classifier, maps: Mapping[str, ChannelMap], module: ClassModule, seed: int
) -> ClassModule:
    kept = module.selection
    channels = None if kept is None else maps.get(kept.fingerprint)
    if kept is None or channels is None:
        raise SettingsError(
            f"the class module of {module.source_class!r} was not cut out of the strong model "
            "given; give its own with --strong"
        )
    # Of its own for every class, so that no two class modules keep the same units.
    mixed = np.random.SeedSequence([seed % 2**63, module.index]).generate_state(1)
    generator = torch.Generator().manual_seed(int(mixed[0]))
    keep = kept.keep.clone()
    for group in channels.groups:
        order = torch.randperm(len(group.units), generator=generator)
        keep[group.units] = keep[group.units[order]]
    priority = torch.rand(channels.unit_count, generator=generator)
    selection = Selection(channels.fill(keep, priority), channels.fingerprint)
    narrow = extract(strong.net, channels, selection)
    sized = sized_values(channels, selection.keep)
    return ClassModule.of(strong, module.source_class, narrow, selection, sized)


def _last_linear(model: Classifier) -> nn.Linear:
    example = torch.zeros(1, *model.input_shape, device=device_of(model))
    with eval_mode(model), torch.no_grad(), contextlib.suppress(UnsupportedModelError):
        layer = model.get_submodule(last_layer(model, example))
        linear = isinstance(layer, nn.Linear) and layer.bias is not None
        if linear and layer.out_features == len(model.classes):
            return layer  # type: ignore[return-value]
    raise ModelError(
        "the weak network does not end in a linear layer with biases, so that none can be retrained"
    )


def _inputs_of(layer: nn.Linear, model: Classifier, data: ImageSet) -> Tensor:
    """Return what ``layer`` is given for each image, float[n, features]."""
    kept: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: kept.append(given[0].float().cpu()))
    try:
        predict(model, data)
    finally:
        hook.remove()
    return torch.cat(kept)


def _fit_layer(start: Tensor, inputs: Tensor, labels: Tensor, pull: float) -> Tensor:
    """Return the weights [N, features + 1] of the smallest penalised cross-entropy."""
    # Outside inference mode the inputs are tensors that autograd accepts.
    inputs = inputs.clone()
    weights = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")
    scale = inputs.var(0, correction=0) + 1e-6

    def loss() -> Tensor:
        optimizer.zero_grad()
        wrong = functional.cross_entropy(inputs @ weights.T, labels, reduction="sum")
        value = (wrong + pull / 2 * (scale * (weights - start) ** 2).sum()) / len(labels)
        torch.autograd.backward(value)
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()
