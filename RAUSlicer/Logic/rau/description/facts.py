"""The facts of a structure: everything that is said of it later is one of these, measured from its mask and the image.

A fact that cannot be measured is None (no spacing, no image, one voxel ...), never guessed. Lengths are in `unit`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

T = TypeVar("T")
DIGITS = 9  # significant ones that facts keep: how a sum was rounded must not decide a word or a printed digit
NOTHING = 1e-9  # numbers closer to 0 are 0


@dataclass(frozen=True)
class Level:
    """first, last, largest: slices, counted from 1 at the end `counted_from`; count: slices of the image.

    plane: "axial", "coronal", "sagittal", or "slice" without a patient's frame. largest: where its area is greatest
    (the first of several).
    """

    plane: str
    first: int
    last: int
    largest: int
    count: int
    counted_from: str


@dataclass(frozen=True)
class Side:
    """word: "left", "right", "midline"; in pictures "left", "right", "middle" of the picture.

    relative_to: "image" (its middle) or the name of the structure that is its partner on the other side. distance: of
    its centre from that middle, or from the middle between both. named: the side in its name, None: no side there.
    """

    word: str
    relative_to: str
    distance: float
    named: str | None

    @property
    def contradicts_name(self) -> bool:
        return self.named is not None and self.word in ("left", "right") and self.word != self.named


@dataclass(frozen=True)
class Intensity:
    """In `unit` ("HU", "grey levels" of 8 bits a colour, or "arbitrary units"). Colours: of their mean.

    channels: mean of red, green, blue, () in grey images. density: CT alone, what the mean would fit
    (see DENSITIES in `rau.description.measuring`), None where the sd is above 100 HU.
    """

    unit: str
    mean: float
    sd: float
    median: float
    percentile_5: float
    percentile_95: float
    channels: tuple[float, ...]
    density: str | None


@dataclass(frozen=True)
class Contrast:
    """Against all that lies within `reach` around it. difference: of the means. in_sd: that over the pooled sd
    (root of the mean variance); None where both are constant. word: "darker", "similar" (below 0.5 sd), "brighter".
    """

    reach: float
    difference: float
    in_sd: float | None
    word: str


@dataclass(frozen=True)
class Margin:
    """gradient: mean absolute change of intensity across the border, per `unit` of length.

    ratio: mean step across the border over the mean step between neighbouring voxels inside; None where there are none.
    grade: "well defined" (ratio 3 and more), "moderately defined" (1.5 and more), "ill defined"; None without a ratio.
    """

    gradient: float
    ratio: float | None
    grade: str | None


@dataclass(frozen=True)
class Neighbour:
    """share: of the structure's border that both have in common, 0 to 1. gap: 0 where they touch, else the least
    distance between centres of voxels. direction: where the neighbour's centre lies, seen from the structure's."""

    value: int
    name: str
    share: float
    gap: float
    direction: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """One structure, measured. See `rau.description.measuring.measure`.

    frame: "patient" (LPS) or "picture". unit: of lengths: "mm", or "pixels"/"voxels" where the spacing is unknown.
    volume_ml: volumes of known spacing. area: single slices, in the square of `unit`.
    extent: by axis of the frame, over whole voxels. axes: full lengths of the ellipsoid (ellipse) of the same moments,
    longest first. elongation, flatness: second and third of them over the first; 1 is round (IBSI). solidity: share of
    its convex hull that it fills. surface: in `unit` squared; in a single slice the perimeter. compactness: 1: a ball.
    centre: of gravity; LPS (x, y, z), in pictures (column, row, slice). position: the centre by axis as a share of the
    field of view, position_in_labels: of the box around all structures; 0 at the first named end of the axis.
    contained_in: the structure that has at least 0.9 of its border; surrounds: the other way round.
    cut_off: the ends of the image that it touches.
    """

    value: int
    name: str
    frame: str
    unit: str
    modality: str
    voxels: int
    share_of_image: float
    volume_ml: float | None
    area: float | None
    extent: dict[str, float]
    axes: tuple[float, ...]
    elongation: float
    flatness: float | None
    solidity: float
    surface: float
    compactness: float
    pieces: int
    largest_piece: float
    centre: tuple[float, float, float]
    position: dict[str, float]
    position_in_labels: dict[str, float]
    level: Level | None
    side: Side | None
    intensity: Intensity | None
    contrast: Contrast | None
    margin: Margin | None
    neighbours: tuple[Neighbour, ...]
    contained_in: str | None
    surrounds: tuple[str, ...]
    cut_off: tuple[str, ...]

    @property
    def is_flat(self) -> bool:
        return self.area is not None

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON; numbers with six significant digits."""
        found: dict[str, Any] = rounded(asdict(self))
        return found


def settled(value: T) -> T:
    """The same fact, tuple or dictionary with every float rounded to `DIGITS`."""
    found: Any = value
    if is_dataclass(value) and not isinstance(value, type):
        found = replace(value, **{one.name: settled(getattr(value, one.name)) for one in fields(value)})
    elif isinstance(value, dict):
        found = {key: settled(one) for key, one in value.items()}
    elif isinstance(value, tuple):
        found = tuple(settled(one) for one in value)
    elif isinstance(value, float):
        found = 0.0 if abs(value) < NOTHING else float(f"{value:.{DIGITS}g}")
    whole: T = found
    return whole


def rounded(value: Any) -> Any:
    """Tuples to lists, floats to six significant digits, all the way down."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
