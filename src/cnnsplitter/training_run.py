"""The state of a training run between two epochs, and its checkpoint file."""

import copy
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet
from cnnsplitter.errors import StorageError
from cnnsplitter.files import read_tensors, write_tensors

_PROBED_IMAGES = 64


@dataclass
class TrainingRun:
    """A run after ``len(history)`` epochs.

    Attributes:
        classifier: The copy that is trained, in place.
        optimizer: Of its parameters.
        history: Figures of each epoch.
        best_epoch: The epoch whose weights count, from 1; 0 before the first.
        best: Those weights where the last ones do not count.
        parts: Into which a batch is cut, so that one after the other fits into memory.
    """

    classifier: Classifier
    optimizer: torch.optim.Optimizer
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, Tensor] | None = None
    parts: int = 1

    def record(self, values: dict[str, float], *, keep_best: bool) -> None:
        """Add an epoch; without ``keep_best`` the last epoch is the one that counts."""
        self.history.append(values)
        if not keep_best:
            self.best_epoch = len(self.history)
            return
        best = self.history[self.best_epoch - 1]["validation_accuracy"] if self.best else -1.0
        if values["validation_accuracy"] > best:
            self.best_epoch = len(self.history)
            self.best = copy.deepcopy(self.classifier.state_dict())

    def result(self) -> Classifier:
        """Return a copy with the weights that count, in eval mode."""
        classifier = copy.deepcopy(self.classifier)
        if self.best is not None:
            classifier.load_state_dict(self.best)
        return classifier.eval()


def identity_of(
    start: Classifier,
    train: ImageSet,
    validation: ImageSet | None,
    settings: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Return what makes a run this one: only then may it go on from a checkpoint."""
    return {
        "settings": dict(settings),
        "seed": seed,
        "training images": _digest_of(train),
        "validation images": None if validation is None else _digest_of(validation),
        "starting weights": start.weights_digest(),
    }


def save_run(path: Path, run: TrainingRun, identity: Mapping[str, Any]) -> None:
    """Write a checkpoint in place of the last one.

    Raises:
        StorageError: The file cannot be written.
    """
    tensors = {f"last.{name}": tensor for name, tensor in run.classifier.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in (run.best or {}).items()}
    for index, state in run.optimizer.state_dict()["state"].items():
        kept = {key: value for key, value in state.items() if isinstance(value, Tensor)}
        tensors |= {f"optimizer.{index}.{key}": value for key, value in kept.items()}
    manifest = {
        "kind": "training checkpoint",
        "identity": identity,
        "history": run.history,
        "best_epoch": run.best_epoch,
    }
    write_tensors(path, tensors, manifest)


def restore_run(path: Path, run: TrainingRun, identity: Mapping[str, Any]) -> None:
    """Bring ``run``, which has not begun, to the state of a checkpoint.

    Raises:
        StorageError: The file is broken, no checkpoint, or of a run with another ``identity``.
    """
    tensors, manifest = read_tensors(path)
    if manifest.get("kind") != "training checkpoint":
        raise StorageError(f"{path}: is no training checkpoint; choose another file")
    # What is compared went through JSON once, so this must, too.
    wanted, found = json.loads(json.dumps(identity)), manifest.get("identity")
    known = found if isinstance(found, dict) else {}
    other = [key for key in wanted if wanted[key] != known.get(key)]
    if other:
        raise StorageError(
            f"{path}: belongs to a run with other {', '.join(other)}; "
            "remove it or choose another file"
        )
    try:
        _require_types(run.classifier.state_dict(), tensors)
        _require_finite(tensors)
        run.history, run.best_epoch = _history(manifest["history"], manifest["best_epoch"])
        start = copy.deepcopy(run.classifier.state_dict())
        run.classifier.load_state_dict(_under("last.", tensors))
        run.best = _under("best.", tensors) or None
        _restore_optimizer(run.optimizer, _under("optimizer.", tensors))
        _require_state(run.optimizer, start, run)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise StorageError(f"{path}: the checkpoint is incomplete or broken; remove it") from error


def _require_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinite values")


def _require_types(known: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part == "optimizer":
            fits = tensor.is_floating_point()
        else:
            fits = part in ("last", "best") and known[rest].dtype == tensor.dtype
        if not fits:
            raise ValueError(f"{name} is {tensor.dtype}, or of no part")


def _history(entries: Any, best_epoch: Any) -> tuple[list[dict[str, float]], int]:
    """Return what a manifest says, if it is the history of some epochs."""
    history = [dict(entry) for entry in entries]
    numbers = [value for entry in history for value in entry.values()]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
        raise ValueError("its history holds what is no number")
    if type(best_epoch) is not int or not 1 <= best_epoch <= len(history):
        raise ValueError("its history is not whole")
    return history, best_epoch


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, values in state.items():
        if any(value.ndim and value.shape != parameters[number].shape for value in values.values()):
            raise ValueError(f"the state of parameter {number} has another shape")
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _require_state(
    optimizer: torch.optim.Optimizer, start: Mapping[str, Tensor], run: TrainingRun
) -> None:
    """Raise ``ValueError`` unless every parameter that has learned has its whole state.

    A parameter that no loss depends on has none, and is as it was at the start.
    """
    wanted = _kept_by(optimizer)
    names = {parameter: name for name, parameter in run.classifier.named_parameters()}
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        found = {k for k, value in optimizer.state[parameter].items() if value is not None}
        if found != wanted and (found or not torch.equal(parameter, start[names[parameter]])):
            raise ValueError(f"the optimizer's state of {names[parameter]} is not whole")


def _kept_by(optimizer: torch.optim.Optimizer) -> set[str]:
    """Return what an optimizer keeps of each parameter."""
    if isinstance(optimizer, torch.optim.AdamW):
        return {"step", "exp_avg", "exp_avg_sq"}
    return {"momentum_buffer"} if optimizer.defaults["momentum"] else set()


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Cloned, because what was read may lie in the file, which the next checkpoint replaces.
    return {
        name.removeprefix(prefix): tensor.clone()
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _digest_of(data: ImageSet) -> str:
    """Digest rows, labels, classes and a sample of the pixels."""
    digest = hashlib.sha256(json.dumps([data.classes, data.images.shape]).encode())
    probed = data.rows[:: max(1, len(data) // _PROBED_IMAGES)]
    for tensor in (data.rows, data.labels, data.images.read(probed)):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
