"""Images that are there more than once: the same to the last pixel, or nearly."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from cnnsplitter.data.images import ImageSet
from cnnsplitter.data.photos import PhotoImages
from cnnsplitter.data.stores import ArrayImages, ConcatImages, Images, TensorImages

_BATCH = 256
_THUMBNAIL = 16
_TWINS_OF_PHOTOS = 50
_ALIKE = 0.99
_FLAT = 1.0


def repeated_images(stores: Sequence[Images]) -> list[dict[int, bytes]]:
    """Return for each store the digests of its images that are in the stores more than once.

    Photographs are the same if their files are, other images if their pixels are. Of most images
    only one line of pixels is read, or the size of the file, so that large files stay on disk.

    Returns:
        Row to digest; other rows are missing.
    """
    leaves = {id(leaf): leaf for store in stores for leaf, _ in _leaves(store)}
    found = dict(zip(leaves, _repeated(list(leaves.values())), strict=True))
    return [
        {start + row: d for leaf, start in _leaves(store) for row, d in found[id(leaf)].items()}
        for store in stores
    ]


def _leaves(store: Images, start: int = 0) -> Iterator[tuple[Images, int]]:
    """Yield the stores that a store consists of, and where they begin; one may be there twice."""
    if isinstance(store, ConcatImages):
        for part, offset in zip(store.parts, store.offsets, strict=False):
            yield from _leaves(part, start + offset)
    else:
        yield store, start


def _repeated(stores: Sequence[Images]) -> list[dict[int, bytes]]:
    marks = [list(_marks(store)) for store in stores]
    often = Counter(mark for some in marks for mark in some)
    candidates = [[row for row, mark in enumerate(some) if often[mark] > 1] for some in marks]
    digests = [
        dict(zip(rows, _digests(store, rows), strict=True))
        for store, rows in zip(stores, candidates, strict=True)
    ]
    often = Counter(digest for some in digests for digest in some.values())
    return [{row: d for row, d in some.items() if often[d] > 1} for some in digests]


def near_twins(first: ImageSet, second: ImageSet, *, most: int = 2000, seed: int = 0) -> int:
    """Count images of ``second`` that look nearly like one of ``first``.

    Both are made grey thumbnails; twins are those whose correlation is at least 0.99, so that
    brightness, contrast, size and compression make no difference. Images without any contrast are
    no twins.

    Args:
        first: Such as the training images; at most ten times ``most`` random ones are looked at.
        second: Such as the test images.
        most: At most so many random images of ``second`` are looked at.
        seed: Of the choice.
    """
    generator = torch.Generator().manual_seed(seed)
    theirs = _thumbnails(first.sample(10 * most, generator))
    mine = _thumbnails(second.sample(most, generator))
    parts = torch.split(mine, _BATCH)
    return sum(int(((part @ theirs.T) >= _ALIKE).any(dim=1).sum()) for part in parts)


def twin_warning(train: ImageSet, test: ImageSet) -> str:
    """Return the warning that test images look nearly like training images, "" if none does.

    Of photographs, which are decoded for it, only some are looked at.
    """
    most = min(len(test), 1000 if _is_at_hand(train, test) else _TWINS_OF_PHOTOS)
    found = near_twins(train, test, most=most)
    if not found:
        return ""
    return (
        f"{found} of {most} test images look nearly like a training image; figures may be too good"
    )


def _is_at_hand(*sets: ImageSet) -> bool:
    leaves = (leaf for data in sets for leaf, _ in _leaves(data.images))
    return all(isinstance(leaf, ArrayImages | TensorImages) for leaf in leaves)


def _thumbnails(data: ImageSet) -> Tensor:
    """Return those with contrast float32[k, pixels], of mean 0 and length 1."""
    height, width = (min(_THUMBNAIL, size) for size in data.images.shape[1:])
    found = [torch.zeros(0, height * width)]
    for images, _ in data.batches(_BATCH):
        scale = 1.0 if images.dtype == torch.uint8 else 255.0
        grey = scale * images.float().mean(dim=1, keepdim=True)
        small = adaptive_avg_pool2d(grey, (height, width)).flatten(1)
        centred = small - small.mean(dim=1, keepdim=True)
        found.append(normalize(centred[centred.std(dim=1) > _FLAT], dim=1))
    return torch.cat(found)


def _marks(store: Images) -> Iterator[bytes]:
    """Yield what is the same for the same images, and rarely for others, at little cost."""
    if isinstance(store, PhotoImages):
        yield from (f"file of {_size_of(store, row)}".encode() for row in range(len(store)))
    else:
        kind = f"{store.shape}".encode()
        for start in range(0, len(store), _BATCH):
            lines = _middle_lines(store, start, min(start + _BATCH, len(store)))
            yield from (kind + line.tobytes() for line in lines)


def _size_of(store: PhotoImages, row: int) -> int:
    try:
        return store.paths[row].stat().st_size
    except OSError:  # whoever reads it says so
        return -1


def _middle_lines(store: Images, start: int, stop: int) -> Iterable[np.ndarray]:
    """Return the middle line [C, W] of some images, in the types that they are read in."""
    middle = store.shape[1] // 2
    if isinstance(store, ArrayImages):
        lines = np.asarray(store.array[start:stop, middle])
        lines = lines if lines.ndim == 3 else lines[..., None]
        lines = np.ascontiguousarray(lines.transpose(0, 2, 1))
        return lines if lines.dtype == np.uint8 else lines.astype(np.float32)
    if isinstance(store, TensorImages):
        return store.tensor[start:stop, :, middle].contiguous().numpy()
    return store.read(torch.arange(start, stop))[:, :, middle].contiguous().numpy()


def _digests(store: Images, rows: Sequence[int]) -> list[bytes]:
    if isinstance(store, PhotoImages):
        return [_digest_of_file(store, row) for row in rows]
    kind = f"{store.shape}".encode()
    return [
        blake2b(kind + image.tobytes(), digest_size=16).digest()
        for start in range(0, len(rows), _BATCH)
        for image in store.read(torch.tensor(rows[start : start + _BATCH])).contiguous().numpy()
    ]


def _digest_of_file(store: PhotoImages, row: int) -> bytes:
    try:
        return blake2b(store.paths[row].read_bytes(), digest_size=16).digest()
    except OSError:
        return f"{row} of {store.name}".encode()
