"""Codes of structures: Slicer's serialised terminology entry, its parts, and the colours of structures without any."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

CONTEXT = "Segmentation category and type - DICOM master list"
ANATOMIC_CONTEXT = "Anatomic codes - DICOM master list"

_PALETTE = (
    (0.90, 0.36, 0.31), (0.31, 0.62, 0.85), (0.95, 0.77, 0.29), (0.38, 0.74, 0.45), (0.66, 0.45, 0.80),
    (0.95, 0.58, 0.27), (0.33, 0.77, 0.76), (0.93, 0.52, 0.69), (0.62, 0.72, 0.26), (0.55, 0.45, 0.36),
)  # fmt: skip


@dataclass(frozen=True)
class Code:
    """A coded concept: scheme ("SCT"), value ("10200004"), meaning ("Liver")."""

    scheme: str = ""
    value: str = ""
    meaning: str = ""

    def __bool__(self) -> bool:
        return bool(self.scheme and self.value and self.meaning)

    def __str__(self) -> str:
        return "^".join(_plain(part) for part in (self.scheme, self.value, self.meaning))


ANATOMICAL_STRUCTURE = Code("SCT", "123037004", "Anatomical Structure")
TISSUE = Code("SCT", "85756007", "Tissue")


@dataclass(frozen=True)
class Terminology:
    """The parts of a terminology entry; modifiers and region may be empty codes."""

    category: Code
    type: Code
    modifier: Code = Code()
    region: Code = Code()
    region_modifier: Code = Code()

    def serialised(self) -> str:
        """Slicer's form: context~category~type~modifier~anatomic context~region~region modifier."""
        parts = (CONTEXT, self.category, self.type, self.modifier, ANATOMIC_CONTEXT, self.region, self.region_modifier)
        return "~".join(str(part) for part in parts)


def parsed(text: str) -> Terminology | None:
    """The parts of Slicer's serialised form; None when it is empty or carries no category and type."""
    fields = text.split("~")
    codes = []
    for field in fields[1:4] + fields[5:7]:
        parts = field.split("^")
        codes.append(Code(*(part.strip() for part in parts)) if len(parts) == 3 else Code())
    codes += [Code()] * (5 - len(codes))
    if not (codes[0] and codes[1]):
        return None
    return Terminology(*codes)


def _plain(part: str) -> str:
    """Without the characters that separate the parts."""
    for mark in "~^|\r\n":
        part = part.replace(mark, " ")
    return part.strip()


def color_of(value: int) -> tuple[float, float, float]:
    """A fixed, pleasant colour (RGB, 0 to 1) for a label value: ten by hand, the rest spread over the colour wheel."""
    if 1 <= value <= len(_PALETTE):
        return _PALETTE[value - 1]
    turn = (value * 0.61803398875) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(turn, 0.50 + 0.18 * (value % 3), 0.92 - 0.12 * (value // 3 % 3))
    return round(red, 3), round(green, 3), round(blue, 3)


def usable_color(values: Sequence[float] | None, fallback: tuple[float, float, float]) -> tuple[float, float, float]:
    """Three numbers from 0 to 1, or the fallback."""
    try:
        red, green, blue = (float(v) for v in values or ())
    except (TypeError, ValueError):
        return fallback
    return (red, green, blue) if all(0 <= v <= 1 for v in (red, green, blue)) else fallback
