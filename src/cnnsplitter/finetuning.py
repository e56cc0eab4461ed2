"""Short fine-tuning of narrow networks after the cut, towards the strong model's own logits.

Each class module learns, on images of all classes, to give the logit that the strong model gives
for its class (distillation). So the scores of all class modules stay comparable and are composed by
argmax as before, every class is tuned on its own, and no labels are needed. The network of a
sub-task learns all its logits.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from cnnsplitter.augmentation import flip_some
from cnnsplitter.class_modules import ClassModule, require_same_shape
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet
from cnnsplitter.errors import DataError, ModelError, SettingsError, require_seed
from cnnsplitter.inference import (
    WantedPrecision,
    device_of,
    in_more_parts,
    in_parts,
    precision_on,
    to_device,
)
from cnnsplitter.nets import eval_mode
from cnnsplitter.progress import Progress, Step, silent
from cnnsplitter.recalibration import has_batch_norm, norms_of

M = TypeVar("M", bound=ClassModule | Classifier)

RATES = (1e-3, 3e-4, 1e-4, 3e-5)
"""Learning rates to choose from: without batch norms the higher ones may destroy a deep network."""

TRIED_STEPS = 10
"""So many steps of each rate are tried on networks without batch norms."""


class FineTuning(BaseModel):
    """How narrow networks are fine-tuned, with Adam and a rate that falls to 0.

    Attributes:
        epochs: Passes over the images.
        batch_size: Images per step; those that do not fill a batch are left out of an epoch.
        learning_rate: At the start; None: the highest of ``RATES`` for networks with batch norms,
            for others the one that brings most within ``TRIED_STEPS`` steps.
        flip: Mirror half of the images.
        precision: ``auto`` is bfloat16 where the device computes in it natively.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=100, ge=2)
    learning_rate: float | None = Field(default=None, gt=0)
    flip: bool = False
    precision: WantedPrecision = "auto"


def fine_tune(
    modules: Mapping[str, M],
    strong: Classifier,
    data: ImageSet,
    settings: FineTuning,
    *,
    seed: int,
    progress: Progress = silent,
) -> dict[str, M]:
    """Return fine-tuned copies of class modules, or of sub-task networks.

    What a class module becomes does not depend on which others are tuned with it. Where a batch
    does not fit into memory its halves follow each other, and so on: the step is still that of the
    whole batch, but batch norms normalise each part by its own statistics, of two images at least.

    Args:
        modules: By any names; left untouched.
        strong: The strong model that they were cut out of, restricted to the same classes if they
            are; left untouched.
        data: Training images of all classes that the class modules will see in use.
        settings: How to tune.
        seed: Of the order and the flips; no global random state is used.
        progress: Called after every epoch, with the mean squared distance from the strong logits,
            and within an epoch after every step, with that of its batch.

    Raises:
        SettingsError: A class module of a strong model with other classes, or a seed that is none.
        DataError: Images of another shape, or too few.
        ModelError: The loss is no longer finite, or a batch does not fit into memory in any parts.
    """
    require_seed(seed)
    _require_fit(modules, strong, data)
    size = min(settings.batch_size, len(data))
    steps = settings.epochs * (len(data) // size)
    teacher = _Teacher(strong, size, size)
    rates = [settings.learning_rate or _rate_for(m, teacher, data, seed) for m in modules.values()]
    students = [
        _Student.of(copy.deepcopy(module), rate, steps, settings.precision)
        for module, rate in zip(modules.values(), rates, strict=True)
    ]
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(settings.epochs):
        loss = _epoch(students, teacher, data, settings.flip, generator, progress)
        if not torch.tensor(loss).isfinite():
            raise ModelError(
                f"fine-tuning diverged in epoch {epoch + 1}; lower learning_rate "
                f"(now {max(rates):g})"
            )
        progress(Step("fine-tuning", epoch + 1, settings.epochs, {"loss": loss}))
    return {name: student.finished() for name, student in zip(modules, students, strict=True)}


@dataclass(eq=False)
class _Teacher:
    """A strong model; ``most`` images run at once, of batches of ``size``."""

    strong: Classifier
    size: int
    most: int

    def logits(self, images: Tensor) -> Tensor:
        with eval_mode(self.strong), torch.no_grad():
            parts, self.most = in_parts(self.strong, images, self.most)
        return torch.cat(parts)


@dataclass(eq=False)
class _Student(Generic[M]):
    module: M
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    frozen: tuple[nn.Parameter, ...]
    bfloat16: bool
    parts: int = 1

    @classmethod
    def of(
        cls, module: M, rate: float, steps: int, wanted: WantedPrecision = "float32"
    ) -> "_Student[M]":
        """Make a class module ready: its norms learn the statistics, nothing is dropped out."""
        frozen = tuple(p for p in module.parameters() if not p.requires_grad)
        for parameter in frozen:
            parameter.requires_grad_(True)
        for norm in norms_of(module.eval()):
            norm.train()
        module.to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(module.parameters(), lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
        bfloat16 = precision_on(device_of(module), wanted) == "bfloat16"
        return cls(module, optimizer, schedule, frozen, bfloat16)

    def learn(self, images: Tensor, logits: Tensor) -> float:
        """Take one step towards the strong logits float[B, N]; return the loss before it."""
        module = self.module
        wanted = logits[:, module.index] if isinstance(module, ClassModule) else logits
        statistics = [buffer.clone() for buffer in module.buffers()]

        def gradient(parts: int) -> float:
            for buffer, before in zip(module.buffers(), statistics, strict=True):
                buffer.copy_(before)
            return self._gradient(images.tensor_split(parts), wanted.tensor_split(parts))

        # A batch norm cannot normalise over a single value.
        least = 2 if has_batch_norm(module) else 1
        loss, self.parts = in_more_parts(gradient, self.parts, len(images), least=least)
        self.optimizer.step()
        self.schedule.step()
        return loss

    def _gradient(self, images: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
        """Set the gradient of the mean loss over all parts; return that loss."""
        count, total = sum(map(len, images)), 0.0
        self.optimizer.zero_grad()
        for part, own in zip(images, wanted, strict=True):
            with torch.enable_grad():
                with torch.autocast(part.device.type, torch.bfloat16, enabled=self.bfloat16):
                    given = self.module(part)
                loss = functional.mse_loss(given.to(own.dtype), own) * (len(part) / count)
            torch.autograd.backward(loss)
            total += loss.item()
        return total

    def finished(self) -> M:
        self.optimizer.zero_grad()
        for parameter in self.frozen:
            parameter.requires_grad_(False)
        self.module.eval().to(memory_format=torch.contiguous_format)
        return self.module


def _rate_for(module: M, teacher: _Teacher, data: ImageSet, seed: int) -> float:
    """Return the learning rate after a few steps of which the scores are nearest to the wanted."""
    if has_batch_norm(module):
        return RATES[0]
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    batches = [
        images for images, _ in data.take(order[: TRIED_STEPS * teacher.size]).batches(teacher.size)
    ]
    students = [_Student.of(copy.deepcopy(module), rate, TRIED_STEPS**2) for rate in RATES]
    for images in batches:
        _step(students, teacher, images)
    losses = torch.tensor(_step(students, teacher, batches[0]))
    return RATES[int(losses.nan_to_num(torch.inf).argmin())]


def _epoch(
    students: list[_Student[M]],
    teacher: _Teacher,
    data: ImageSet,
    flip: bool,
    generator: torch.Generator,
    progress: Progress,
) -> float:
    """Take the steps of one epoch; return the mean loss before each."""
    steps, total = len(data) // teacher.size, 0.0
    order = torch.randperm(len(data), generator=generator)[: steps * teacher.size]
    for step, (images, _) in enumerate(data.take(order).batches(teacher.size)):
        chosen = flip_some(images, generator) if flip else images
        losses = _step(students, teacher, chosen)
        loss = sum(losses) / len(losses)
        total += loss
        progress(Step("steps of the epoch", step + 1, steps, {"loss": loss}))
    return total / steps


def _step(students: list[_Student[M]], teacher: _Teacher, images: Tensor) -> list[float]:
    """Let all students take one step; return their losses before it."""
    images = to_device(images, device_of(teacher.strong))
    logits = teacher.logits(images)
    return [student.learn(images, logits) for student in students]


def _require_fit(modules: Mapping[str, M], strong: Classifier, data: ImageSet) -> None:
    if not modules:
        raise SettingsError("nothing to fine-tune; give at least one class module")
    if len(data) < 2:
        raise DataError(f"{data.images.name}: fine-tuning needs at least two images; add some")
    require_same_shape({"the strong model": strong.input_shape, "the data": data.images.shape})
    for name, module in modules.items():
        if module.classes != strong.classes:
            raise SettingsError(
                f"the class module {name!r} was cut out of another strong model, "
                f"of the classes {', '.join(module.classes)}; fine-tune it with that one"
            )
