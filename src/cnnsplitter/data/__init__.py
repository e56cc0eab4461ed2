"""Images and labels: stores, sets, the seeded split, and data sources by one line of text."""

from cnnsplitter.data.copies import near_twins, twin_warning
from cnnsplitter.data.dataset import DatasetImages
from cnnsplitter.data.folders import broken_files, load_folder
from cnnsplitter.data.images import ImageSet
from cnnsplitter.data.mixtures import mix, mix_splits
from cnnsplitter.data.named import NAMED_SETS, load_named
from cnnsplitter.data.npz import load_npz
from cnnsplitter.data.photos import PhotoImages
from cnnsplitter.data.sources import SourcePart, load_data, parse_source
from cnnsplitter.data.splits import Splits, SplitShares, make_splits, unseen
from cnnsplitter.data.stores import ArrayImages, ConcatImages, Images, TensorImages

__all__ = [
    "NAMED_SETS",
    "ArrayImages",
    "ConcatImages",
    "DatasetImages",
    "ImageSet",
    "Images",
    "PhotoImages",
    "SourcePart",
    "SplitShares",
    "Splits",
    "TensorImages",
    "broken_files",
    "load_data",
    "load_folder",
    "load_named",
    "load_npz",
    "make_splits",
    "mix",
    "mix_splits",
    "near_twins",
    "parse_source",
    "twin_warning",
    "unseen",
]
