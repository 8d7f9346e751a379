"""Slices of the target that the user has put right: kept as they are, and remembered for the slices between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rau.errors import InputError
from rau.volume.orientation import Orientation
from rau.volume.volume import LabelMap, Structure

if TYPE_CHECKING:
    from rau.preparation import CasePlane
    from rau.sam.propagation import Match

# Slices up to which a corrected one is remembered, as a fraction of the structure's extent. Further away it stands in
# the way of the references' slices that fit.
REACH = 0.25
LEAST_REACH = 4  # slices
NEAR, ALONE = 0.6, 0.15  # of the reach, slices: one deviation of a corrected slice's nearness, see `Corrected.beside`
LEAST_NEAR = 1.5  # slices
CLOSE = 1.2  # of the longest reach: so far apart two corrected slices are close


@dataclass(frozen=True)
class Corrections:
    """labels: on the target's grid; only `slices` of it count: indices along `axis` of the target's own array.

    Structures go by their names. What a corrected slice does not show is not there. Raises InputError for no slice or
    one outside of the target.
    """

    labels: LabelMap
    axis: int
    slices: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.slices:
            raise InputError("No slice was marked as right", "Mark at least one corrected slice")
        if self.axis not in (0, 1, 2):
            raise InputError(f"An image has no axis {self.axis}", "Name 0, 1 or 2")
        count = self.labels.geometry.shape[self.axis]
        outside = [index for index in self.slices if not 0 <= index < count]
        if outside:
            raise InputError(
                f"There is no slice {outside[0]} along axis {self.axis}", f"It has slices 0 to {count - 1}"
            )


@dataclass(frozen=True)
class Corrected:
    """Canonical: axis, sorted slices along it, labels (S, R, C) uint16 with the case's values, 0 outside the slices."""

    axis: int
    slices: tuple[int, ...]
    labels: np.ndarray

    def laid_on(self, labels: np.ndarray) -> np.ndarray:
        """`labels` (S, R, C), changed in place and returned: the corrected slices as the user left them."""
        there, ours = (np.moveaxis(one, self.axis, 0) for one in (labels, self.labels))
        there[list(self.slices)] = ours[list(self.slices)]
        return labels

    def shows(self, value: int) -> bool:
        return bool((self.labels == value).any())

    def beside(self, reach: int, longest: int) -> np.ndarray:
        """How far an expert of the corrected slices is to be relied on, (S, R, C) but for `axis` of length 1.

        The nearer, the more. Between two corrected slices that are close it falls slowly; elsewhere only just beside
        one: an expert of few slices is wrong further out. 0 in the corrected slices: there it is to be seen what is
        found without them.
        reach: of the structure; longest: of all, slices.
        """
        count = self.labels.shape[self.axis]
        index, given = np.arange(count), np.array(self.slices)
        away = np.abs(index[:, None] - given[None]).min(1)
        after = np.searchsorted(given, index)
        gaps = np.diff(given, prepend=-np.inf, append=np.inf)[after]  # between the corrected slices around each
        deviation = np.where(gaps <= CLOSE * longest, NEAR, ALONE) * reach
        near = np.exp(-0.5 * (away / np.maximum(deviation, LEAST_NEAR)) ** 2).astype(np.float32)
        near[given] = 0
        return np.moveaxis(near[:, None, None], 0, self.axis)

    def match(self, plane: CasePlane, descriptors: np.ndarray, values: tuple[int, ...]) -> Match:
        """The target as a reference of itself, annotated in the corrected slices alone. descriptors: (T, D)."""
        from rau.references.encoded import EncodedReference
        from rau.sam.propagation import Match
        from rau.volume.planes import Planes

        images = plane.images
        maps = Planes(self.labels, images.axis, images.spacing)
        reference = EncodedReference(images, maps, values, descriptors)
        reach = {value: self._reach(plane, value) for value in values}
        return Match(reference, -1, np.arange(len(images)), np.ones(len(images)), reach, self.slices)

    def _reach(self, plane: CasePlane, value: int) -> int:
        """Slices of the target, by how long the structure is in the references."""
        longest = 0.0
        for match in plane.retrieved:
            where, theirs = match.reference.where[value], match.reference.images
            if len(where):
                longest = max(longest, (where[-1] - where[0] + 1) * theirs.spacing[theirs.axis])
        return max(LEAST_REACH, round(REACH * longest / plane.images.spacing[plane.images.axis]))


def canonical_corrections(
    given: Corrections,
    target_shape: tuple[int, int, int],
    turned: Orientation,
    structures: Sequence[Structure],
    axis: int,
) -> Corrected:
    """Corrections in the orientation and the label values of a case that is cut across canonical `axis`.

    Raises InputError for another grid, another plane, or a structure that was not asked for.
    """
    if given.labels.geometry.shape != target_shape:
        raise InputError("The corrections lie on another grid than the target", "Correct the result of this target")
    own = turned.axis_to_source(axis)
    if given.axis != own:
        raise InputError(
            f"The corrected slices lie across axis {given.axis}, the target is cut across axis {own}",
            "Correct slices of the acquisition plane",
        )
    values = {one.name.strip().lower(): one.value for one in structures}
    found = np.zeros(target_shape, np.uint16)
    there, theirs = np.moveaxis(found, own, 0), np.moveaxis(given.labels.array, own, 0)
    chosen = sorted(set(given.slices))
    for one in given.labels.structures:
        value = values.get(one.name.strip().lower())
        if value is not None:
            for index in chosen:
                there[index][theirs[index] == one.value] = value
    turned_slices = sorted(turned.index_to_source(axis, index) for index in chosen)  # its own inverse
    return Corrected(axis, tuple(turned_slices), turned.forth(found))
