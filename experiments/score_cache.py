"""The scores of class modules on images, kept in files: cases share networks and images."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet
from cnnsplitter.files import replacing
from cnnsplitter.inference import predict


@dataclass(frozen=True)
class ScoreCache:
    """A folder with a file per network: its logits, by a digest of each image's pixels.

    Without a folder all is computed anew.
    """

    folder: Path | None = None

    def scores(self, module: ClassModule, data: ImageSet) -> Tensor:
        """Return the raw scores float64[n]."""
        whole = Classifier(module.net, module.classes, module.input_shape, module.preprocessing)
        return self._logits(whole, data)[:, module.index].double()

    def _logits(self, net: Classifier, data: ImageSet) -> Tensor:
        if self.folder is None:
            return predict(net, data).detach()
        path = self.folder / f"{_digest_of(net.net)}.npz"
        known = _read(path)
        keys = _keys(data)
        missing = torch.tensor([key not in known for key in keys])
        if missing.any():
            found = predict(net, data.take(missing)).detach().numpy()
            fresh = (key for key, new in zip(keys, missing.tolist(), strict=True) if new)
            known |= dict(zip(fresh, found, strict=True))
            _write(path, known)
        return torch.from_numpy(np.stack([known[key] for key in keys]))


def _keys(data: ImageSet) -> list[bytes]:
    return [
        hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        for images, _ in data.batches(1000)
        for image in images.numpy()
    ]


def _read(path: Path) -> dict[bytes, np.ndarray]:
    if not path.exists():
        return {}
    found = np.load(path, allow_pickle=False)
    return dict(zip((bytes(key) for key in found["keys"]), found["logits"], strict=True))


def _write(path: Path, known: dict[bytes, np.ndarray]) -> None:
    keys = np.stack([np.frombuffer(key, np.uint8) for key in known])
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, keys=keys, logits=np.stack(list(known.values())))


def _digest_of(net: nn.Module) -> str:
    found = hashlib.sha256()
    for tensor in net.state_dict().values():
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:32]
