"""Steps 1 and 2 of the way of the data: target and references in one orientation, cut, described, matched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rau.errors import InputError
from rau.events import OnEvent, StageEvent, WarningEvent
from rau.references.reference import Reference
from rau.references.retrieval import align, cosines
from rau.references.selection import choose, unify
from rau.results import SliceResult
from rau.settings import SegmentSettings
from rau.volume.orientation import Orientation, acquisition_axis, canonical
from rau.volume.planes import Planes
from rau.volume.volume import Geometry, Structure, Volume
from rau.volume.window import to_uint8

if TYPE_CHECKING:
    from rau.models.engine import Engine
    from rau.references.encoded import EncodedReference
    from rau.sam.propagation import Match, SliceMasks

MOST_SLICES = 600  # of all three planes together, for planes="auto"
MOST_VOTES = 500_000_000  # bytes of probability volumes, for planes="auto" and "all"


@dataclass(frozen=True)
class CasePlane:
    """The target's slices across one axis, and what each reference offers for them."""

    images: Planes
    matches: tuple[Match, ...]


@dataclass(frozen=True)
class Case:
    """A target ready to be segmented. Arrays inside are canonical; `orientation` leads back."""

    structures: tuple[Structure, ...]
    orientation: Orientation
    planes: tuple[CasePlane, ...]
    single: tuple[int, ...]
    reference_orientations: tuple[Orientation, ...]
    described: bool

    @property
    def values(self) -> tuple[int, ...]:
        return tuple(s.value for s in self.structures)

    def place(self, axis: int, index: int) -> tuple[int, int]:
        """Canonical axis and index to the target's own."""
        return self.orientation.axis_to_source(axis), self.orientation.index_to_source(axis, index)

    def slice_back(self, axis: int, labels: np.ndarray) -> np.ndarray:
        """A canonical slice (rows, columns) as the target's own array has it."""
        first, second = (a for a in range(3) if a != axis)
        flips = [slice(None, None, -1 if self.orientation.flipped[a] else 1) for a in (first, second)]
        turned = labels[flips[0], flips[1]]
        swap = self.orientation.order[first] > self.orientation.order[second]
        return np.ascontiguousarray(turned.T if swap else turned)

    def slice_result(self, plane: CasePlane, one: SliceMasks, milliseconds: float) -> SliceResult:
        axis, index = self.place(plane.images.axis, one.index)
        theirs = self.reference_orientations[one.reference]
        back = theirs.index_to_source(plane.images.axis, one.reference_index)
        parts = ["memory", "retrieval" if self.described else "position"] if one.values else []
        parts += ["neighbours"] if one.neighbours else []
        return SliceResult(index, axis, one.reference, back, one.similarity, tuple(parts), milliseconds)


def slice_axis(geometry: Geometry) -> int:
    """The axis to cut across: by the spacing, else (spacing alike or unknown) a clearly shorter one, else axial."""
    axis = acquisition_axis(geometry)
    shortest = int(np.argmin(geometry.shape))
    others = [n for i, n in enumerate(geometry.shape) if i != shortest]
    alike = max(geometry.spacing) < 1.3 * min(geometry.spacing)
    return shortest if alike and geometry.shape[shortest] * 4 <= min(others) else axis


def axes_for(settings: SegmentSettings, geometries: Sequence[Geometry], structures: int) -> list[int]:
    """Canonical axes to cut the target (first geometry) across, the acquisition axis first."""
    target = geometries[0]
    first = slice_axis(target)
    flat = min(target.shape) == 1
    votes = structures * int(np.prod(target.shape)) * 3
    if settings.planes == "acquisition" or flat or votes > MOST_VOTES:
        return [first]
    if settings.planes == "auto":
        cubic = all(
            max(g.spacing) < 1.6 * min(g.spacing) and min(g.shape) >= 12 and min(g.shape) * 5 > max(g.shape)
            for g in geometries
        )
        if not cubic or sum(target.shape) > MOST_SLICES:
            return [first]
    return [first, *(axis for axis in range(3) if axis != first)]


def check(references: Sequence[Reference], target: Volume, tell: OnEvent) -> None:
    """Raises InputError for pairs that cannot work; warns of those that may not."""
    if not references:
        raise InputError("No reference was given", "Give at least one annotated volume")
    flat = min(target.geometry.shape) == 1
    for reference in references:
        if (min(reference.image.geometry.shape) == 1) != flat:
            here, there = ("2-D", "3-D") if flat else ("3-D", "2-D")
            raise InputError(f"The target is {here} and the reference is {there}", "Use a reference of the same kind")
        one, other = reference.image.modality, target.modality
        if one and other and one != other:
            tell(WarningEvent(f"The reference is {one} and the target is {other}: expect a poor result"))
        if reference.image.is_colour != target.is_colour:
            tell(WarningEvent("One of reference and target is in colour, the other is not"))


def encode(
    engine: Engine,
    pixels: np.ndarray,
    labels: np.ndarray,
    spacing: tuple[float, float, float],
    axis: int,
    values: tuple[int, ...],
) -> EncodedReference:
    """A reference made ready for one plane; from the engine's memory when the same content was there before."""
    from rau.models.engine import content_hash
    from rau.references.encoded import EncodedReference

    def make() -> EncodedReference:
        images, maps = Planes(pixels, axis, spacing), Planes(labels, axis, spacing)
        return EncodedReference(images, maps, values, describe(engine, images))

    model = tuple(sorted(engine.folder.manifest.files.items()))
    return engine.remembered(content_hash(pixels, labels, spacing, axis, values, model), make)


def describe(engine: Engine, planes: Planes) -> np.ndarray:
    """(N, D) descriptors of all slices; zeros (N, 1) when the model has no encoder."""
    if engine.encoder is None:
        return np.zeros((len(planes), 1), np.float32)
    return engine.encoder.describe(planes.stack(list(range(len(planes)))), planes.frame)


def prepare(
    references: Sequence[Reference], target: Volume, settings: SegmentSettings, engine: Engine, tell: OnEvent
) -> Case:
    """Everything the segmenter needs. Raises InputError (see `check`, `rau.references.selection.choose`)."""
    from rau.assembly.labels import single_pieces
    from rau.sam.propagation import Match

    check(references, target, tell)
    structures, arrays = unify(references)
    structures = choose(structures, settings)
    values = tuple(s.value for s in structures)
    pixels, geometry, orientation = canonical(to_uint8(target, settings.window), target.geometry)
    theirs, single = [], set(values)
    for reference, labels in zip(references, arrays, strict=True):
        image, grid, turned = canonical(to_uint8(reference.image, settings.window), reference.image.geometry)
        maps = turned.forth(labels)
        present = set(np.unique(maps).tolist())
        single &= set(single_pieces(maps, values)) | (set(values) - present)
        theirs.append((image, maps, grid, turned))
    if not any(np.isin(values, maps).any() for _, maps, _, _ in theirs):
        raise InputError("The reference shows none of the structures asked for", "Pick other structures")
    tell(StageEvent("retrieve"))
    planes = []
    for axis in axes_for(settings, [geometry, *(grid for _, _, grid, _ in theirs)], len(values)):
        images = Planes(pixels, axis, geometry.spacing)
        described, matches = describe(engine, images), []
        for number, (image, maps, grid, _) in enumerate(theirs):
            encoded = encode(engine, image, maps, grid.spacing, axis, values)
            step = geometry.spacing[axis] / grid.spacing[axis]
            found = align(cosines(described, encoded.descriptors), step)
            matches.append(Match(encoded, number, found.index, found.similarity))
        planes.append(CasePlane(images, tuple(matches)))
    if engine.encoder is not None:
        best = float(np.max([m.similarity for m in planes[0].matches], axis=0).mean())
        if best < settings.retrieval_warning:
            tell(WarningEvent(f"The references look little like the target (similarity {best:.2f}): check the result"))
    orientations = tuple(turned for _, _, _, turned in theirs)
    return Case(structures, orientation, tuple(planes), tuple(sorted(single)), orientations, engine.encoder is not None)
