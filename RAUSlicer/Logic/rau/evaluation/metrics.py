"""How well a label map agrees with the truth.

The rule for empty structures: absent in truth and result means nothing was asked and nothing was drawn, so there is no
score (None), and the structure stays out of means. Absent in one of the two only: 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from rau.errors import InputError
from rau.volume.volume import LabelMap, Structure


def dice(truth: np.ndarray, result: np.ndarray) -> float | None:
    """2 |A and B| / (|A| + |B|) of two boolean arrays of one shape, 0 to 1; None where both are empty.

    Raises InputError when the shapes differ.
    """
    if truth.shape != result.shape:
        raise InputError(f"Label maps of {truth.shape} and {result.shape} cannot be compared")
    a, b = truth.astype(bool), result.astype(bool)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return float(2 * np.count_nonzero(a & b) / total) if total else None


def dice_of_values(truth: np.ndarray, result: np.ndarray, values: Iterable[int]) -> dict[int, float | None]:
    """Dice of each label value; see `dice`."""
    return {value: dice(truth == value, result == value) for value in values}


def dice_of_structures(
    truth: LabelMap, result: LabelMap, structures: Iterable[Structure] | None = None
) -> dict[str, float | None]:
    """Dice by structure (default: those of the truth); both sides are looked up by name, whatever their label values.

    A side that does not know the structure shows none of it. Raises InputError when the grids differ.
    """
    if not truth.geometry.matches(result.geometry):
        raise InputError("The result lies on another grid than the truth")
    chosen = truth.structures if structures is None else structures
    return {one.name: dice(mask_of(truth, one.name), mask_of(result, one.name)) for one in chosen}


def mask_of(labels: LabelMap, name: str) -> np.ndarray:
    """The voxels of the structure of that name (case does not matter); none where the map does not know it."""
    values = [one.value for one in labels.structures if one.name.lower() == name.lower()]
    return np.isin(labels.array, values)


def mean(scores: Iterable[float | None]) -> float | None:
    """The mean of what has a score; None when nothing has."""
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if known else None


def mean_of(scores: Mapping[int, float | None] | Mapping[str, float | None]) -> float | None:
    """The mean over the structures that have a score."""
    return mean(scores.values())
