"""What SimpleITK does not tell of a NIfTI: its reader replaces NaN and infinity by zero, and fills the missing end of a
cut off file with whatever lies in memory, both without a word."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_FLOATS = {16: "f4", 64: "f8"}
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Contents:
    """not_finite: voxels that are NaN or infinite. cut_off: the file ends before its last voxel."""

    not_finite: int = 0
    cut_off: bool = False


@dataclass(frozen=True)
class _Voxels:
    """kind: numpy type of floating-point voxels, "" of others. start, size: where they lie, bytes."""

    kind: str
    start: int
    size: int


def check_contents(path: Path) -> Contents:
    """Read a NIfTI-1 or -2 file (.nii, .nii.gz) to its end. What has no such header counts as whole."""
    packed = path.name.lower().endswith(".gz")
    opener = gzip.open if packed else open
    count, seen = 0, 0
    try:
        with opener(path, "rb") as stream:
            voxels = _voxels(stream.read(540))
            if voxels is None:
                return Contents()
            if not packed and not voxels.kind:
                return Contents(0, path.stat().st_size < voxels.start + voxels.size)
            stream.seek(voxels.start)
            while block := stream.read(min(_CHUNK, voxels.size - seen)):
                seen += len(block)
                if voxels.kind:
                    values = np.frombuffer(block[: len(block) // 8 * 8], dtype=voxels.kind)
                    count += int(values.size - np.count_nonzero(np.isfinite(values)))
    except (OSError, EOFError, ValueError, struct.error, zlib.error):
        return Contents(count, cut_off=True)
    return Contents(count, seen < voxels.size)


def _voxels(header: bytes) -> _Voxels | None:
    if len(header) < 348:
        return None
    for order in "<>":
        size = struct.unpack(order + "i", header[:4])[0]
        if size == 348:
            dimensions = struct.unpack(order + "8h", header[40:56])
            kind, bits = struct.unpack(order + "2h", header[70:74])
            start = int(struct.unpack(order + "f", header[108:112])[0])
        elif size == 540 and len(header) == 540:
            kind, bits = struct.unpack(order + "2h", header[12:16])
            dimensions = struct.unpack(order + "8q", header[16:80])
            start = struct.unpack(order + "q", header[168:176])[0]
        else:
            continue
        extent = math.prod(max(1, n) for n in dimensions[1 : 1 + max(0, min(7, dimensions[0]))])
        return _Voxels(order + _FLOATS[kind] if kind in _FLOATS else "", max(0, start), extent * bits // 8)
    return None
