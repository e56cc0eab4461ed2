"""Training of strong, weak, overfitted and underfitted classifiers."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from cnnsplitter.augmentation import flip_some, shift_each
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet
from cnnsplitter.errors import DataError, ModelError, SettingsError, require_seed
from cnnsplitter.inference import (
    WantedPrecision,
    device_of,
    in_more_parts,
    precision_on,
    predict,
    to_device,
)
from cnnsplitter.interrupts import held_interrupts
from cnnsplitter.progress import Progress, Step, silent
from cnnsplitter.training_run import TrainingRun, identity_of, restore_run, save_run

_WARM_UP = 0.2


class Training(BaseModel):
    """How to train.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step; a single image left over is skipped in that epoch.
        optimizer: SGD (with Nesterov momentum where there is momentum) or AdamW.
        learning_rate: The highest one of the schedule.
        momentum: Of SGD.
        weight_decay: Of both optimizers.
        schedule: One-cycle (linear warm-up over a fifth, then a cosine to 0) or constant.
        label_smoothing: Share of the label that is spread over all classes.
        clip: Largest norm of the gradient, longer ones are shortened; 0 leaves them.
        flip: Mirror half of the images.
        shift: Move each image by up to so many pixels.
        patience: Epochs without a better validation accuracy after which training stops, and the
            best epoch is kept; 0 runs all epochs and keeps the last.
        precision: ``auto`` is bfloat16 where the device computes in it natively.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=128, ge=2)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.05, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    clip: float = Field(default=0.0, ge=0)
    flip: bool = False
    shift: int = Field(default=0, ge=0)
    patience: int = Field(default=0, ge=0)
    precision: WantedPrecision = "auto"

    @classmethod
    def strong(cls, epochs: int = 30) -> "Training":
        """Return the recipe of a strong model on photographs: flips, shifts, smoothed labels.

        Gradients are clipped, without which the deep networks that have no batch norm do not start.
        """
        return cls(epochs=epochs, label_smoothing=0.05, clip=1.0, flip=True, shift=4)

    @classmethod
    def weak(cls, epochs: int = 30) -> "Training":
        """Return the recipe of a too-simple model, which is weak however well it is trained."""
        return cls(epochs=epochs, flip=True, shift=4)

    @classmethod
    def overfit(cls, epochs: int = 150) -> "Training":
        """Return the recipe of an overfitted model: plain SGD, no augmentation, a late epoch.

        The network is the strong one without dropout (method.md, The networks).
        """
        return cls(epochs=epochs, momentum=0.0, weight_decay=0.0, schedule="constant")

    @classmethod
    def underfit(cls, epochs: int = 150) -> "Training":
        """Return ``overfit(epochs)`` stopped at half; with the same seed the same run so far."""
        return cls.overfit(max(1, epochs // 2))


@dataclass(frozen=True, eq=False)
class Trained:
    """What training gives.

    Attributes:
        classifier: The trained copy, in eval mode.
        history: Per epoch ``loss``, ``train_accuracy`` (of the augmented batches while they were
            trained on) and, with validation images, ``validation_accuracy``; shares.
        best_epoch: The epoch whose weights were kept, from 1.
    """

    classifier: Classifier
    history: tuple[Mapping[str, float], ...]
    best_epoch: int


def train(
    classifier: Classifier,
    train: ImageSet,
    validation: ImageSet | None,
    settings: Training,
    *,
    seed: int,
    checkpoint: Path | None = None,
    progress: Progress = silent,
    stage: str = "train",
) -> Trained:
    """Train a copy of ``classifier`` on the device of its weights.

    Args:
        classifier: The start; it is left as it is.
        train: Images whose classes are those of the classifier.
        validation: Images for ``validation_accuracy`` and early stop.
        settings: How to train.
        seed: Of order, augmentation and dropout; no global random state is used.
        checkpoint: File written after each epoch. Where it exists training goes on from it, on
            the same machine with the same result as without a stop.
        progress: Called after each epoch.
        stage: What ``progress`` is told to be running.

    Raises:
        DataError: Classes or shape differ from the classifier's, or fewer than two have images.
        SettingsError: ``patience`` without validation images, or a ``seed`` out of range.
        ModelError: The loss is no longer finite.
        StorageError: The checkpoint is broken or belongs to another run.
    """
    require_seed(seed)
    _require_fit(classifier, train, validation, settings)
    model = copy.deepcopy(classifier)
    run = TrainingRun(model, _optimizer(model, settings))
    identity = None
    if checkpoint is not None:
        identity = identity_of(classifier, train, validation, settings.model_dump(), seed)
        if checkpoint.exists():
            restore_run(checkpoint, run, identity)
    while not _is_finished(run, settings):
        values = _train_epoch(run, train, settings, seed)
        if validation is not None:
            values["validation_accuracy"] = _accuracy(run.classifier, validation, settings)
        run.record(values, keep_best=settings.patience > 0)
        with held_interrupts():
            if checkpoint is not None and identity is not None:
                save_run(checkpoint, run, identity)
            progress(Step(stage, len(run.history), settings.epochs, values))
    return Trained(run.result(), tuple(run.history), run.best_epoch)


def learning_rate_at(settings: Training, position: float) -> float:
    """Return the learning rate at ``position``, the share of all steps that is done."""
    if settings.schedule == "constant":
        return settings.learning_rate
    if position < _WARM_UP:
        return settings.learning_rate * position / _WARM_UP
    angle = math.pi * (position - _WARM_UP) / (1 - _WARM_UP)
    return settings.learning_rate * (1 + math.cos(angle)) / 2


def _optimizer(model: Classifier, settings: Training) -> torch.optim.Optimizer:
    rate, decay, momentum = settings.learning_rate, settings.weight_decay, settings.momentum
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    return torch.optim.SGD(
        model.parameters(), rate, momentum, weight_decay=decay, nesterov=momentum > 0
    )


def _train_epoch(
    run: TrainingRun, data: ImageSet, settings: Training, seed: int
) -> dict[str, float]:
    """Train one epoch; all its chance comes from ``seed`` and its number, so it can be resumed."""
    epoch = len(run.history)
    generator = torch.Generator().manual_seed(_epoch_seed(seed, epoch))
    order = torch.randperm(len(data), generator=generator)
    if len(order) % settings.batch_size == 1:
        order = order[:-1]  # Batch norm cannot normalise over a single value.
    steps = math.ceil(len(order) / settings.batch_size)
    device = device_of(run.classifier)
    total, right = torch.zeros((), device=device), torch.zeros((), device=device)
    run.classifier.train()
    with torch.enable_grad(), _seeded_dropout(device, generator):
        for step, (images, labels) in enumerate(data.take(order).batches(settings.batch_size)):
            position = (epoch + (step + 0.5) / steps) / settings.epochs
            for group in run.optimizer.param_groups:
                group["lr"] = learning_rate_at(settings, position)
            images = to_device(_augment(images, settings, generator), device)
            loss, hits = _step(run, images, labels.to(device), settings)
            total += loss * len(labels)
            right += hits
    mean = total.item() / len(order)
    if not math.isfinite(mean):
        raise ModelError(
            f"training diverged in epoch {epoch + 1}: the loss is {mean}; lower learning_rate "
            f"(now {settings.learning_rate:g})"
        )
    return {"loss": mean, "train_accuracy": right.item() / len(order)}


def _step(
    run: TrainingRun, images: Tensor, labels: Tensor, settings: Training
) -> tuple[Tensor, Tensor]:
    """Do one step of the optimizer; return the mean loss and the number of right answers.

    Where the batch does not fit into memory its halves follow each other, and so on; the gradient
    is their mean, but batch norms see each part alone.
    """

    def gradient(parts: int) -> tuple[Tensor, Tensor]:
        return _gradient(run, images.chunk(parts), labels.chunk(parts), settings)

    (loss, hits), run.parts = in_more_parts(gradient, run.parts, len(images))
    if settings.clip:
        torch.nn.utils.clip_grad_norm_(run.classifier.parameters(), settings.clip)
    run.optimizer.step()
    return loss, hits


def _gradient(
    run: TrainingRun, images: Sequence[Tensor], labels: Sequence[Tensor], settings: Training
) -> tuple[Tensor, Tensor]:
    """Set the gradient of the mean loss; return that and the number of right answers."""
    count, device = sum(map(len, images)), images[0].device
    bfloat16 = precision_on(device, settings.precision) == "bfloat16"
    total, right = torch.zeros((), device=device), torch.zeros((), device=device)
    run.optimizer.zero_grad()
    for part, own in zip(images, labels, strict=True):
        with torch.enable_grad():
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                logits = run.classifier(part)
            loss = functional.cross_entropy(
                logits.float(), own, label_smoothing=settings.label_smoothing
            )
            share = loss * (len(part) / count)
        torch.autograd.backward(share)
        total += share.detach()
        right += (logits.detach().argmax(dim=1) == own).sum()
    return total, right


def _augment(images: Tensor, settings: Training, generator: torch.Generator) -> Tensor:
    if settings.flip:
        images = flip_some(images, generator)
    if settings.shift:
        images = shift_each(images, settings.shift, generator)
    return images


def _accuracy(model: Classifier, data: ImageSet, settings: Training) -> float:
    logits = predict(model, data, precision=precision_on(device_of(model), settings.precision))
    return (logits.argmax(dim=1) == data.labels).float().mean().item()


def _is_finished(run: TrainingRun, settings: Training) -> bool:
    done = len(run.history)
    waited = done - run.best_epoch
    return done >= settings.epochs or (0 < settings.patience <= waited and done > 0)


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])


@contextmanager
def _seeded_dropout(device: torch.device, generator: torch.Generator) -> Iterator[None]:
    """Seed the global generators, which dropout draws from, and put them back afterwards."""
    seed = int(torch.randint(2**62, (1,), generator=generator))
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        yield


def _require_fit(
    classifier: Classifier, train: ImageSet, validation: ImageSet | None, settings: Training
) -> None:
    if settings.patience and validation is None:
        raise SettingsError("patience needs validation images; give some or set patience to 0")
    for data in (train, validation):
        if data is None:
            continue
        name = data.images.name
        if data.classes != classifier.classes:
            raise DataError(
                f"{name}: its classes ({', '.join(data.classes)}) are not the classifier's "
                f"({', '.join(classifier.classes)}); relabel the images"
            )
        if data.images.shape != classifier.input_shape:
            raise DataError(
                f"{name}: images of shape {data.images.shape} but the classifier takes "
                f"{classifier.input_shape}; resize the images or build another network"
            )
    present = int((train.counts() > 0).sum())
    if present < 2:
        raise DataError(
            f"{train.images.name}: training needs images of at least two classes; "
            f"there are {len(train)} images of {present}"
        )
