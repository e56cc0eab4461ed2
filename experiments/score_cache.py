"""The scores of class modules on images, kept in files: cases share modules and images."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cnnsplitter.class_modules import ClassModule
from cnnsplitter.data import ImageSet
from cnnsplitter.inference import predict

_PROBED = 64


@dataclass(frozen=True)
class ScoreCache:
    """Scores in a folder; without one they are computed anew."""

    folder: Path | None = None

    def scores(self, module: ClassModule, data: ImageSet) -> Tensor:
        """Return the raw scores float64[n]."""
        if self.folder is None:
            return predict(module, data).detach().double()
        path = self.folder / f"{_digest(module, data)}.npy"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            np.save(path, predict(module, data).detach().double().numpy())
        return torch.from_numpy(np.load(path, allow_pickle=False))


def _digest(module: ClassModule, data: ImageSet) -> str:
    found = hashlib.sha256(module.source_class.encode())
    # Some pixels tell data apart that has the same labels in the same order.
    some = data.images.read(data.rows[:: max(1, len(data) // _PROBED)])
    parts = [data.rows, data.labels, some, *module.net.state_dict().values()]
    for tensor in parts:
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:32]
