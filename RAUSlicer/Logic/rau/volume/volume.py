"""Images with geometry: the types that every step of the engine speaks.

Arrays are in (slice, row, column) order. World coordinates are LPS millimetres (x to the patient's left, y to the back,
z to the head), as in ITK and DICOM. A 2-D image is a volume of one slice.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from rau.errors import InputError


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of an array lie in the world.

    shape: (slices, rows, columns), voxels.
    spacing: mm between neighbours along each array axis, in array order (slice, row, column).
    origin: LPS mm (x, y, z) of the centre of voxel (0, 0, 0).
    direction: (3, 3); column a is the unit LPS vector along array axis a (array order: slice, row, column).
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: np.ndarray = field(default_factory=lambda: np.eye(3)[:, ::-1].copy())

    def __post_init__(self) -> None:
        direction = np.array(self.direction, dtype=np.float64).reshape(3, 3)
        direction.setflags(write=False)
        object.__setattr__(self, "direction", direction)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "spacing", tuple(float(s) for s in self.spacing))
        object.__setattr__(self, "origin", tuple(float(o) for o in self.origin))
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise InputError(f"A volume needs three axes of at least one voxel, not {self.shape}")
        if min(self.spacing) <= 0 or not np.all(np.isfinite(self.spacing + self.origin)):
            raise InputError(f"The voxel spacing {self.spacing} or origin {self.origin} is not usable")
        if not np.all(np.isfinite(direction)) or abs(np.linalg.det(direction)) < 1e-3:
            raise InputError("The direction matrix of the image is singular")

    @property
    def affine(self) -> np.ndarray:
        """(4, 4): array index (slice, row, column, 1) to LPS mm (x, y, z, 1)."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.direction * np.array(self.spacing)
        matrix[:3, 3] = self.origin
        return matrix

    def to_world(self, index: np.ndarray) -> np.ndarray:
        """Array indices (N, 3) in (slice, row, column) to LPS mm (N, 3)."""
        return np.asarray(index, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, points: np.ndarray) -> np.ndarray:
        """LPS mm (N, 3) to continuous array indices (N, 3) in (slice, row, column)."""
        return (np.asarray(points, dtype=np.float64) - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T

    def matches(self, other: Geometry, tolerance_mm: float = 0.01) -> bool:
        """Same shape, and the corners of both grids lie within `tolerance_mm` of each other."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij")).reshape(3, -1).T
        return bool(np.abs(self.to_world(corners) - other.to_world(corners)).max() <= tolerance_mm)


@dataclass(frozen=True)
class Structure:
    """One named anatomical region: a segment in Slicer.

    value: label value (> 0) in the label map. color: RGB, 0 to 1. terminology: Slicer's serialised terminology entry
    (category~type~modifier...), empty when the reference has none.
    """

    value: int
    name: str
    color: tuple[float, float, float] = (0.5, 0.5, 0.5)
    terminology: str = ""


@dataclass(frozen=True)
class Volume:
    """An image. array: (S, R, C) of numbers, or (S, R, C, 3) uint8 for colour pictures.

    modality: "CT", "MR", "US", "XR", "OT" (other, also colour) or "" when unknown. CT is in HU.
    source: what to call it in messages (a file name without folder, a node name); never written to results.
    spacing_known: False for pictures without a physical scale; mm are then pixels.
    """

    array: np.ndarray
    geometry: Geometry
    modality: str = ""
    source: str = ""
    spacing_known: bool = True

    def __post_init__(self) -> None:
        if tuple(self.array.shape[:3]) != self.geometry.shape:
            raise InputError(f"Array of shape {self.array.shape} does not fit a grid of {self.geometry.shape}")
        if self.array.ndim not in (3, 4) or (self.array.ndim == 4 and self.array.shape[3] != 3):
            raise InputError(f"An image needs 3 axes, or 4 with three colours, not shape {self.array.shape}")

    @property
    def is_colour(self) -> bool:
        return self.array.ndim == 4

    def with_array(self, array: np.ndarray) -> Volume:
        return replace(self, array=array)


@dataclass(frozen=True)
class LabelMap:
    """Which structure each voxel belongs to. array: (S, R, C) integers, 0 is background."""

    array: np.ndarray
    geometry: Geometry
    structures: tuple[Structure, ...] = ()

    def __post_init__(self) -> None:
        if tuple(self.array.shape) != self.geometry.shape:
            raise InputError(f"Label map of shape {self.array.shape} does not fit a grid of {self.geometry.shape}")

    def structure(self, name_or_value: str | int) -> Structure:
        """The structure of that name (case does not matter) or label value. Raises InputError with the known names."""
        wanted = str(name_or_value).strip().lower()
        for one in self.structures:
            if one.name.lower() == wanted or str(one.value) == wanted:
                return one
        known = ", ".join(s.name for s in self.structures) or "none"
        raise InputError(f"No structure called {name_or_value!r} in the reference", f"It has: {known}")
