"""Left, right or in the middle: by the mirrored partner where there is one, else by the middle of the image."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rau.description.facts import Side

MIDDLE = 0.03  # of the field of view's width: closer to its middle counts as in the middle
HAIR = 1e-6  # so that rounding never decides
_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left"}


def side_named(name: str) -> str | None:
    """ "left" or "right" where a name says one of them as a word of its own ("kidney_left"), else None."""
    found = {one.lower() for one in _SIDE.findall(name)}
    return found.pop() if len(found) == 1 else None


def mirrored_name(name: str) -> str | None:
    """The name with the other side, lower case; None without a side."""
    if side_named(name) is None:
        return None
    return _SIDE.sub(lambda one: _OTHER[one[1].lower()], name).lower()


def partners(names: Mapping[int, str]) -> dict[int, int]:
    """{label value: that of its partner}, of {label value: name}."""
    by_name = {name.lower(): value for value, name in names.items()}
    mirrored = {value: mirrored_name(name) for value, name in names.items()}
    return {value: by_name[name] for value, name in mirrored.items() if name in by_name}


def side_in_patient(
    x: float, width: Sequence[float], name: str, partner: tuple[str, float] | None, voxel: float
) -> Side:
    """The side of a centre at x (LPS mm, rising to the left). width: least and greatest x of the field of view.

    partner: name and x of the partner; both are in the midline where they lie within one voxel (mm) of each other.
    """
    if partner is not None:
        offset, least, to = (x - partner[1]) / 2, voxel / 2, partner[0]
    else:
        offset, least, to = x - (width[0] + width[1]) / 2, MIDDLE * (width[1] - width[0]), "image"
    word = "midline" if abs(offset) <= least + HAIR else "left" if offset > 0 else "right"
    return Side(word, to, abs(offset), side_named(name))


def side_in_picture(x: float, width: Sequence[float]) -> Side:
    """The side of a column; names are the patient's, so they do not count here."""
    offset = x - (width[0] + width[1]) / 2
    word = "middle" if abs(offset) <= MIDDLE * (width[1] - width[0]) + HAIR else "right" if offset > 0 else "left"
    return Side(word, "image", abs(offset), None)
