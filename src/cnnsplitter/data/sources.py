"""Data by one line of text: a name, file or folder, class subsets, and mixtures of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch

from cnnsplitter.data.folders import DEFAULT_SIZE, load_folder
from cnnsplitter.data.images import ImageSet
from cnnsplitter.data.mixtures import mix_splits
from cnnsplitter.data.named import NAMED_SETS, load_named
from cnnsplitter.data.npz import load_npz
from cnnsplitter.data.splits import DEFAULT_SHARES, Splits, SplitShares, make_splits
from cnnsplitter.errors import DataError, SettingsError, did_you_mean, require_known, require_seed
from cnnsplitter.progress import Progress, silent
from cnnsplitter.reading import no_such_file

_PART = re.compile(r"([^\[\]+]+)(?:\[([^\[\]]*)\])?(?:\+(?=.)|$)")
_RANGE = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True)
class SourcePart:
    """One data set of a source.

    Attributes:
        base: Its name, file or folder.
        items: Class names and ranges as written, or None for all classes.
    """

    base: str
    items: tuple[str, ...] | None = None

    def classes(self, known: tuple[str, ...]) -> tuple[str, ...]:
        """Return the classes meant by ``items``, in that order, with ranges spelled out."""
        if self.items is None:
            return known
        return tuple(name for item in self.items for name in _spell_out(item, known))


def parse_source(text: str) -> tuple[SourcePart, ...]:
    """Parse ``BASE``, ``BASE[CLASS,CLASS]``, ``BASE[0-4]`` and several of them joined by ``+``.

    Raises:
        SettingsError: If the text is anything else.
    """
    parts: list[SourcePart] = []
    position = 0
    while position < len(text) or not parts:
        match = _PART.match(text, position)
        if match is None:
            raise SettingsError(
                f"cannot read data source {text!r} at {text[position:]!r}; "
                "write BASE, BASE[CLASS,CLASS] or several joined by +"
            )
        base, inside = match[1].strip(), match[2]
        items = None if inside is None else tuple(item.strip() for item in inside.split(","))
        if not base or "" in (items or ()):
            raise SettingsError(f"data source {text!r} has an empty name; remove it or fill it in")
        parts.append(SourcePart(base, items))
        position = match.end()
    return tuple(parts)


def source_parts(source: str | Path) -> tuple[SourcePart, ...]:
    """Return the parts of a source; text that is the path of a file or folder is one.

    Raises:
        SettingsError: If the text cannot be read.
    """
    if isinstance(source, Path) or (source not in NAMED_SETS and source and Path(source).exists()):
        return (SourcePart(str(source)),)
    return parse_source(source)


def load_data(
    source: str | Path,
    *,
    places: Mapping[str, str] | None = None,
    size: int | None = None,
    channels: int | None = None,
    folder_shape: tuple[int, int, int] | None = None,
    root: Path | None = None,
    download: bool = True,
    shares: SplitShares = DEFAULT_SHARES,
    seed: int = 0,
    progress: Progress = silent,
) -> Splits:
    """Open a data source and split it.

    Args:
        source: A name of ``NAMED_SETS``, an npz file or a folder; as text also with classes in
            brackets, in the order wanted, and several joined by ``+``: ``"digits[6-9]+digits[2]"``.
            Text that is the path of an existing file or folder is taken as that path.
        places: From names in ``source`` to the npz file or folder to be read instead.
        size: Height and width for image folders; other data must already have it.
        channels: 3 for RGB, 1 for grey, for image folders; likewise.
        folder_shape: (C, H, W) that image folders get where the two above do not say; square, by
            default (3, 64, 64).
        root: See ``load_named``.
        download: See ``load_named``.
        shares: How the images are shared out.
        seed: Of the split.
        progress: Called while a folder is opened.

    Raises:
        SettingsError: If the text cannot be read, a class is unknown, or a seed is none.
        DataError: If the data cannot be used, or there are images of fewer than two classes.
    """
    require_seed(seed)
    parts = source_parts(source)

    def load_part(part: SourcePart) -> Splits:
        place = (places or {}).get(part.base)
        if place is None and part.base in NAMED_SETS and not isinstance(source, Path):
            train, test = load_named(part.base, root=root, download=download)
        else:
            asked = (
                default[1] if size is None else size,
                default[0] if channels is None else channels,
            )
            train, test = _load_path(place or part.base, *asked, progress)
        _require_shape(train, size, channels)
        wanted = part.classes(train.classes)
        return make_splits(train, test, shares=shares, seed=seed).relabel(wanted)

    default = folder_shape or (3, DEFAULT_SIZE, DEFAULT_SIZE)
    splits = reduce(mix_splits, (load_part(part) for part in parts))
    _require_two_classes(source, splits)
    return splits


def _load_path(
    base: str, size: int, channels: int, progress: Progress
) -> tuple[ImageSet, ImageSet | None]:
    path = Path(base)
    if path.is_dir():
        return load_folder(path, size=size, channels=channels, progress=progress)
    if path.suffix == ".npz":
        return load_npz(path)
    if path.exists():
        raise DataError(f"{path}: is neither an .npz file nor a folder; convert it to one of them")
    if len(path.parts) > 1:
        raise DataError(no_such_file(path, "file or folder"))
    raise SettingsError(
        f"unknown data set {base!r}; {did_you_mean(base, NAMED_SETS)} "
        "(or give an .npz file or a folder)"
    )


def _require_shape(data: ImageSet, size: int | None, channels: int | None) -> None:
    shape = data.images.shape
    wanted = tuple(
        has if asked is None else asked
        for has, asked in zip(shape, (channels, size, size), strict=True)
    )
    if shape != wanted:
        raise DataError(
            f"{data.images.name} holds images of shape {shape}, not {wanted} (channels, height, "
            "width); only image folders are resized"
        )


def _require_two_classes(source: str | Path, splits: Splits) -> None:
    counts = torch.stack([part.counts() for part in splits.sets]).sum(0).tolist()
    present = [name for name, count in zip(splits.classes, counts, strict=True) if count]
    if len(present) < 2:
        raise DataError(
            f"{source}: has images of {len(present)} class ({', '.join(present)}); "
            "at least two classes are needed"
        )


def _spell_out(item: str, known: tuple[str, ...]) -> tuple[str, ...]:
    match = _RANGE.fullmatch(item)
    if item in known or match is None:
        return (item,)
    for end in match.groups():
        require_known("class", end, known)
    first, last = int(match[1]), int(match[2])
    if first > last:
        raise SettingsError(f"range {item!r} runs backwards; write {last}-{first}")
    return tuple(str(number) for number in range(first, last + 1))
