"""The frame in which places are told: the patient's, or the picture's where no patient's is known.

Everything is measured on canonical arrays (`rau.volume.orientation`), so that how an array happens to be stored changes
no fact. World axes are x, y, z; in the picture's frame they are column, row, slice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rau.errors import InputError
from rau.volume.orientation import acquisition_axis, canonical
from rau.volume.volume import Geometry, LabelMap, Volume

PATIENT = (("right", "left"), ("anterior", "posterior"), ("inferior", "superior"))
PICTURE = (("left", "right"), ("top", "bottom"), ("first slice", "last slice"))
AXES = {"patient": ("left-right", "anterior-posterior", "inferior-superior"), "picture": ("width", "height", "depth")}
PLANES = ("axial", "coronal", "sagittal")
NAMED_FROM = 0.5  # cosine of the angle to an axis from which a direction is named after it (60 degrees)


@dataclass(frozen=True)
class Frame:
    """labels: (S, R, C), canonical. image: the same, with a last axis of 3 for colours; None where there is none.

    kind: "patient" or "picture". unit: "mm", or "pixels" (one slice), "voxels" where the spacing is unknown; geometry
    then has a spacing of 1. flat: the array axis of a single slice, None in volumes.
    """

    kind: str
    unit: str
    labels: np.ndarray
    image: np.ndarray | None
    geometry: Geometry
    modality: str
    flat: int | None

    @property
    def spacing(self) -> tuple[float, float, float]:
        return self.geometry.spacing

    @property
    def words(self) -> tuple[tuple[str, str], ...]:
        """By world axis, what lies at its low and at its high end."""
        return PATIENT if self.kind == "patient" else PICTURE

    @property
    def measured(self) -> tuple[int, ...]:
        """The array axes with an extent: all but `flat`."""
        return tuple(axis for axis in range(3) if axis != self.flat)

    @property
    def world_axes(self) -> tuple[int, ...]:
        """The world axes in which places differ: all, but in a single slice the one across it."""
        return tuple(2 - axis for axis in reversed(self.measured))

    def axis_name(self, world: int) -> str:
        return AXES[self.kind][world]

    def reach(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest world coordinate (3,) of whole voxels (N, 3). A single slice has no thickness here."""
        sizes = np.array([self.spacing[axis] if axis in self.measured else 0.0 for axis in range(3)])
        half = np.abs(np.asarray(self.geometry.direction)) @ sizes / 2
        world = self.geometry.to_world(index)
        return world.min(0) - half, world.max(0) + half

    def field_of_view(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest world coordinate (3,) of the image."""
        ends = np.array(np.meshgrid(*[(0, n - 1) for n in self.geometry.shape], indexing="ij")).reshape(3, -1).T
        return self.reach(ends)

    def direction_words(self, vector: np.ndarray) -> tuple[str, ...]:
        """Words for a way in the world, the z axis first; () for no way. An axis is named from `NAMED_FROM` on."""
        way = np.array(vector, dtype=np.float64)
        way[[axis for axis in range(3) if axis not in self.world_axes]] = 0.0
        length = float(np.linalg.norm(way))
        if length < 1e-6:
            return ()
        share = np.round(way / length, 6)
        return tuple(self.words[axis][int(share[axis] > 0)] for axis in (2, 1, 0) if abs(share[axis]) >= NAMED_FROM)

    def end_word(self, axis: int, high: bool) -> str:
        """What lies at an end of an array axis: canonical axes run along the world's, as closely as they can."""
        return self.words[2 - axis][int(high)]

    def plane(self) -> tuple[int, str]:
        """The array axis across which the slices were taken, and what their plane is called."""
        axis = acquisition_axis(self.geometry)
        return axis, PLANES[axis] if self.kind == "patient" else "slice"


def has_patient_frame(image: Volume | None, geometry: Geometry) -> bool:
    """Whether left is known to be the patient's: not in colour pictures, nor where the file says nothing of the world.

    A single slice at exactly the origin with untouched axes counts as a plain picture too.
    """
    if image is not None and (not image.spacing_known or image.is_colour):
        return False
    return not (
        min(geometry.shape) == 1 and replace(geometry, spacing=(1.0, 1.0, 1.0)).matches(Geometry(geometry.shape))
    )


def says_nothing(geometry: Geometry) -> bool:
    """Whether a label map has the grid of a plain picture: one slice, nothing told of spacing or place."""
    return min(geometry.shape) == 1 and geometry.matches(Geometry(geometry.shape))


def frame_of(image: Volume | None, labels: LabelMap) -> Frame:
    """The frame of an image and its label map (without an image: of the label map alone). Raises InputError."""
    if image is not None and not labels.geometry.matches(image.geometry):
        raise InputError("The label map lies on another grid than its image", "Resample it to the image's grid first")
    geometry = labels.geometry if image is None else image.geometry
    known = not says_nothing(geometry) if image is None else image.spacing_known
    array = None if image is None else image.array
    numbers = labels.array
    single = min(geometry.shape) == 1
    kind = "patient" if has_patient_frame(image, geometry) else "picture"
    if kind == "patient":
        array = None if array is None else canonical(array, geometry)[0]
        numbers, geometry, _ = canonical(numbers, geometry)
    else:
        geometry = Geometry(geometry.shape, geometry.spacing)
    if not known:
        geometry = replace(geometry, spacing=(1.0, 1.0, 1.0))
    unit = "mm" if known else "pixels" if single else "voxels"
    flat = geometry.shape.index(1) if single else None
    return Frame(kind, unit, numbers, array, geometry, "" if image is None else image.modality, flat)
