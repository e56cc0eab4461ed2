"""The channel map: which parameters a kernel touches, for any CNN that can be traced."""

from cnnsplitter.channels.flow import ChannelNorm, SizedAttribute
from cnnsplitter.channels.map import Axis, ChannelMap, ConvLayer, Frozen, Reader, UnitGroup

__all__ = [
    "Axis",
    "ChannelMap",
    "ChannelNorm",
    "ConvLayer",
    "Frozen",
    "Reader",
    "SizedAttribute",
    "UnitGroup",
]
