"""What a patched model costs on real images, where gates run class modules for some of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from cnnsplitter.cost import Cost, latency_of, measure_cost
from cnnsplitter.data import ImageSet
from cnnsplitter.inference import device_of, predict, to_device
from cnnsplitter.nets import eval_mode
from cnnsplitter.patches.patching import Patch, PatchedModel

_TIMED = 256


@dataclass(frozen=True)
class PatchCost:
    """The cost of a model with and without its patches and gates.

    Attributes:
        models: ``weak``, ``patched`` (every class module runs on every image) and, if there are
            gates, ``gated``, whose multiply-adds are the mean over the images.
        run_share: Share of the images that each class module runs on, by its class.
        images_at_once: So many are run at a time where the time is measured.
    """

    models: Mapping[str, Cost]
    run_share: Mapping[str, float]
    images_at_once: int

    @property
    def patch_share(self) -> float:
        """Multiply-adds of the gated patches as a share of those of the ungated ones."""
        weak, patched = self.models["weak"].multiply_adds, self.models["patched"].multiply_adds
        last = list(self.models.values())[-1].multiply_adds
        return (last - weak) / (patched - weak) if patched > weak else 1.0

    def rows(self) -> list[dict[str, str | int | float | None]]:
        """Return one flat row per model; that of ``gated`` tells the share of each run."""
        runs = ", ".join(f"{name} on {share:.0%}" for name, share in self.run_share.items())
        titles = {name: f"{name}, {', '.join(self.run_share)}" for name in self.models}
        titles |= {"gated": f"gated, runs {runs} of the images"}
        return [
            {"model": titles[name], **vars(cost), "images_at_once": self.images_at_once}
            for name, cost in self.models.items()
        ]


def measure_patch_cost(
    patched: PatchedModel, data: ImageSet, *, latency: bool = False
) -> PatchCost:
    """Measure what patches cost on the images of ``data``.

    Args:
        patched: The patched model.
        data: Images as in use; a sample of 256, the same each time, is timed at once.
        latency: Whether to measure the time for one image of such a batch, too.
    """
    shares = run_shares(patched, data)
    models = {"weak": patched.weak, "patched": ungated(patched)}
    costs = {n: measure_cost(model, patched.input_shape) for n, model in models.items()}
    if any(gate is not None for gate in patched.joint.gates):
        models["gated"], costs["gated"] = patched, expected_cost(patched, shares)
    timed = timed_images(data)
    if latency:
        images = next(timed.batches(_TIMED))[0]
        for name, model in models.items():
            with eval_mode(model), torch.no_grad():
                time = latency_of(model, to_device(images, device_of(model)))
            costs[name] = replace(costs[name], latency_ms=time)
    return PatchCost(costs, shares, len(timed))


def expected_cost(patched: PatchedModel, shares: Mapping[str, float]) -> Cost:
    """Return the cost with the mean multiply-adds of an image.

    Args:
        patched: The patched model.
        shares: By patched class, the share of the images that its class module runs on.
    """
    shape = patched.input_shape
    runs = sum(
        measure_cost(part.module, shape).multiply_adds * shares[part.target]
        for part in patched.patches
    )
    mean = round(measure_cost(patched.weak, shape).multiply_adds + runs)
    return replace(measure_cost(ungated(patched), shape), multiply_adds=mean)


def timed_images(data: ImageSet) -> ImageSet:
    """Return the sample that is timed; files often hold one class after the other."""
    return data.sample(_TIMED, torch.Generator().manual_seed(0))


def run_shares(patched: PatchedModel, data: ImageSet) -> dict[str, float]:
    """Return for each patched class the share of the images that its class module runs on."""
    logits = predict(patched.weak, data)
    shares = patched.opened_by(logits).double().mean(0).tolist()
    return dict(zip(patched.targets, shares, strict=True))


def ungated(patched: PatchedModel) -> PatchedModel:
    """Return the model with all gates taken away; networks are shared."""
    patches = [Patch(p.target, p.module, p.calibration) for p in patched.patches]
    return PatchedModel(patched.weak, patches, patched.rule, patched.classes)
