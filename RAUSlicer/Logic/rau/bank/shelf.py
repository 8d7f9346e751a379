"""The entries of a bank made ready to be searched: of several of one image the latest, sorted into kinds.

Entries of one kind are alike in all that is held against a target before looks, so that is judged once a kind: of ten
thousand entries there are few kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rau.bank.entry import Entry
from rau.volume.orientation import canonical_geometry, orientation_of
from rau.volume.volume import Geometry


@dataclass(frozen=True)
class Shelf:
    """entries: (N,), the latest first. kinds: (N,), the place of each entry's kind in `examples`, an entry of each.

    of_image: the place of the entry of an image, by its hash. source: the entries that it was made of.
    """

    entries: tuple[Entry, ...]
    kinds: np.ndarray
    examples: tuple[Entry, ...]
    of_image: dict[str, int]
    source: Sequence[Entry]


def shelf_of(entries: Sequence[Entry]) -> Shelf:
    """entries: the oldest first."""
    latest = tuple(reversed({one.image: one for one in entries}.values()))
    places: dict[tuple[object, ...], int] = {}
    kinds = [places.setdefault(kind_of(one), len(places)) for one in latest]
    first = {kind: one for one, kind in zip(reversed(latest), reversed(kinds), strict=True)}
    examples = tuple(first[kind] for kind in range(len(places)))
    return Shelf(latest, np.array(kinds, int), examples, {one.image: k for k, one in enumerate(latest)}, entries)


def kind_of(entry: Entry) -> tuple[object, ...]:
    """What `rau.bank.search.judged` looks at, but for the image itself."""
    plane = thin_axis(entry.geometry) if entry.flat else None
    return entry.flat, plane, entry.modality, entry.colour, entry.body_part.strip().lower(), entry.names


def thin_axis(geometry: Geometry) -> int:
    """The canonical axis along which a 2-D image has one pixel."""
    return int(np.argmin(canonical_geometry(geometry, orientation_of(geometry)).shape))
