"""Bad images."""

import io
import struct
import zlib
from pathlib import Path

from trust.spoiling import Spoil, replaced, write_anew


def png(width: int, height: int, *, depth: int = 8) -> Spoil:
    """Write a whole PNG of zeros, however large."""

    def spoil(path: Path) -> None:
        packer, data = zlib.compressobj(1), io.BytesIO()
        row = bytes(1 + width * depth // 8)
        for _ in range(height):
            data.write(packer.compress(row))
        data.write(packer.flush())
        facts = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
        chunks = ((b"IHDR", facts), (b"IDAT", data.getvalue()), (b"IEND", b""))
        write_anew(path, b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks))

    return spoil


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 9 9
%%EndComments
(poisoned) (w) file closefile
showpage
"""
PICTURES: dict[str, Spoil] = {
    "bomb": png(30_000, 30_000, depth=1),
    "smaller bomb": png(13_000, 13_000),
    "deep bomb": png(9_000, 9_000, depth=16),
    "wide": png(10_000_000, 1),
    "program": replaced(POSTSCRIPT),
}
