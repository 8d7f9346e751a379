"""Steps 1 and 2 of the way of the data: target and references in one orientation, cut, described, matched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from rau.errors import InputError
from rau.events import OnEvent, StageEvent, WarningEvent
from rau.references.reference import Reference
from rau.references.retrieval import align, cosines
from rau.references.selection import choose, unify
from rau.results import SliceResult, StructureResult
from rau.settings import SegmentSettings
from rau.volume.orientation import Orientation, acquisition_axis, canonical, canonical_geometry, orientation_of
from rau.volume.planes import Planes
from rau.volume.volume import Geometry, LabelMap, Structure, Volume
from rau.volume.window import to_uint8

if TYPE_CHECKING:
    from rau.corrections import Corrected, Corrections
    from rau.models.engine import Engine
    from rau.references.encoded import EncodedReference
    from rau.references.registration import Registered
    from rau.sam.propagation import Match, SliceMasks

MOST_SLICES = 600  # of all three planes together, for planes="auto"
STEPPED = 24  # slices of a plane, from which every second one is enough
MOST_VOTES = 500_000_000  # bytes of probability volumes, for planes="auto" and "all"


@dataclass(frozen=True)
class CasePlane:
    """The target's slices across one axis. matches: what goes into memory. retrieved: the slices of the references as
    they are that look most alike, for the record (the same as `matches` without registration). corrected: the target's
    own corrected slices, which are among `matches`."""

    images: Planes
    matches: tuple[Match, ...]
    retrieved: tuple[Match, ...]
    corrected: Match | None = None


@dataclass(frozen=True)
class Ready:
    """One reference, canonical. image: uint8; labels: unified values; registered: laid on the target, if it helped."""

    image: np.ndarray
    labels: np.ndarray
    geometry: Geometry
    orientation: Orientation
    registered: Registered | None = None


@dataclass(frozen=True)
class Case:
    """A target ready to be segmented. Arrays inside are canonical; `orientation` leads back.

    smoothness: how far each structure's masks in the references can be smoothed (`rau.assembly.smoothness`).
    """

    structures: tuple[Structure, ...]
    target: np.ndarray
    orientation: Orientation
    planes: tuple[CasePlane, ...]
    single: tuple[int, ...]
    references: tuple[Ready, ...]
    described: bool
    corrected: Corrected | None = None
    smoothness: Mapping[int, float] = field(default_factory=dict)

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

    def has_prior(self, value: int) -> bool:
        """Whether a registered reference shows the structure."""
        return any(one.registered is not None and value in one.labels for one in self.references)

    def prior(self, value: int) -> np.ndarray | None:
        """(S, R, C) float32: where registration expects the structure, mean over the references; None: no such."""
        used = [one.registered for one in self.references if one.registered is not None and value in one.labels]
        return np.stack([one.prior(value) for one in used]).mean(0) if used else None

    def unlike(self, labels: LabelMap, results: Sequence[StructureResult]) -> list[Structure]:
        """The structures found whose place does not look like them (see `rau.assembly.plausibility`).

        Of volumes alone: in pictures of validation tasks it took away more than it saved.
        """
        from rau.assembly.plausibility import likeness, unlike

        if len(self.target) == 1 or self.target.ndim == 4:
            return []
        found = [one.structure.value for one in results if one.present]
        references = [(one.image, one.labels) for one in self.references]
        shares = likeness(self.target, self.orientation.forth(labels.array), references, found)
        odd = unlike(shares, {one.structure.value: one.score for one in results})
        return [one for one in self.structures if one.value in odd and not self.put_right(one.value)]

    def put_right(self, value: int) -> bool:
        """Whether the user has drawn the structure in a corrected slice."""
        return self.corrected is not None and self.corrected.shows(value)

    def slice_result(self, plane: CasePlane, one: SliceMasks, milliseconds: float) -> SliceResult:
        axis, index = self.place(plane.images.axis, one.index)
        best = max(plane.retrieved, key=lambda match: match.similarity[one.index])
        theirs = self.references[best.number]
        back = theirs.orientation.index_to_source(plane.images.axis, int(best.index[one.index]))
        parts = ["memory", "retrieval" if self.described else "position"] if one.values else []
        parts += ["registration"] if one.values and any(r.registered for r in self.references) else []
        parts += ["adaptation"] if one.prompted else []
        parts += ["neighbours"] if one.neighbours else []
        parts += ["corrections"] if plane.corrected is not None and one.values else []
        parts += one.hinted
        similarity = float(best.similarity[one.index])
        return SliceResult(index, axis, best.number, back, similarity, tuple(parts), milliseconds)


def slice_axis(geometry: Geometry) -> int:
    """The axis to cut across: by the spacing, else (spacing alike or unknown) a clearly shorter one, else axial."""
    axis = acquisition_axis(geometry)
    shortest = int(np.argmin(geometry.shape))
    others = [n for i, n in enumerate(geometry.shape) if i != shortest]
    alike = max(geometry.spacing) < 1.3 * min(geometry.spacing)
    return shortest if alike and geometry.shape[shortest] * 4 <= min(others) else axis


def cut_across(geometry: Geometry) -> int:
    """The axis of the target's own array across which its slices are cut first (`slice_axis` of what is canonical)."""
    orientation = orientation_of(geometry)
    return orientation.axis_to_source(slice_axis(canonical_geometry(geometry, orientation)))


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


def step_of(settings: SegmentSettings, number: int, slices: int) -> int:
    """Every how many slices one is segmented. Across the acquisition plane (number 0): all; else by planes="auto" every
    second one of enough slices: on validation volumes that cost no Dice, and a third of the time less."""
    return 2 if settings.planes == "auto" and number and slices >= STEPPED else 1


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
    region: tuple[int, int, int, int] | None = None,
) -> EncodedReference:
    """A reference made ready for one plane; from the engine's memory when the same content was there before."""
    from rau.models.engine import content_hash
    from rau.references.encoded import EncodedReference

    def make() -> EncodedReference:
        images, maps = Planes(pixels, axis, spacing, region), Planes(labels, axis, spacing)
        return EncodedReference(images, maps, values, describe(engine, images))

    model = tuple(sorted(engine.folder.manifest.files.items()))
    return engine.remembered(content_hash(pixels, labels, spacing, axis, values, region or (), model), make)


def describe(engine: Engine, planes: Planes) -> np.ndarray:
    """(N, D) descriptors of all slices; zeros (N, 1) when the model has no encoder."""
    if engine.encoder is None:
        return np.zeros((len(planes), 1), np.float32)
    return engine.encoder.describe(planes.stack(list(range(len(planes)))), planes.frame)


def retrieve(engine: Engine, images: Planes, references: Sequence[Ready], values: tuple[int, ...]) -> list[Match]:
    """The slices of each reference, as it is, that fit the target's slices."""
    from rau.sam.propagation import Match

    described, matches = describe(engine, images), []
    for number, one in enumerate(references):
        encoded = encode(engine, one.image, one.labels, one.geometry.spacing, images.axis, values)
        step = images.spacing[images.axis] / one.geometry.spacing[images.axis]
        found = align(cosines(described, encoded.descriptors), step)
        matches.append(Match(encoded, number, found.index, found.similarity))
    return matches


def laid(engine: Engine, images: Planes, references: Sequence[Ready], values: tuple[int, ...]) -> list[Match]:
    """The registered references, slice on slice; a reference that lost a structure on the way is not among them."""
    from rau.sam.propagation import Match

    matches, described = [], describe(engine, images)
    for number, one in enumerate(references):
        if one.registered is None:
            continue
        image, labels = one.registered.image, one.registered.labels
        encoded = encode(engine, image, labels, images.spacing, images.axis, values, images.region)
        similarity = (described * encoded.descriptors).sum(1)
        matches.append(Match(encoded, number, np.arange(len(images)), similarity))
    return matches


def _laid_volumes(engine: Engine, images: Planes, references: Sequence[Ready], values: tuple[int, ...]) -> list[Match]:
    """`laid`, for volumes; a picture keeps its own texture in memory."""
    return laid(engine, images, references, values) if len(images) > 1 else []


def looked_at(images: Planes, references: Sequence[Ready], corrected: Corrected | None) -> Planes:
    """The slices with the region in which the laid references show something; none where one reference is not laid."""
    from rau.references.region import ALIKE, region_of

    laid_on = [one.registered for one in references]
    if len(images) == 1 or any(one is None or one.after < ALIKE for one in laid_on):
        return images
    shown = [one.labels for one in laid_on if one is not None]
    drawn = [] if corrected is None else [corrected.labels]
    return replace(images, region=region_of([*shown, *drawn], images))


def lay(target: np.ndarray, geometry: Geometry, one: Ready, match: Match) -> Ready:
    """The reference with its registration onto the target, if that made the two more alike.

    The search begins where retrieval saw the same slices (see `rau.references.registration.register`).
    """
    from rau.references.registration import can_register, register

    if not can_register(target, one.image):
        return one
    axis = match.reference.images.axis
    here = (np.arange(len(match.index)) - (len(match.index) - 1) / 2) * geometry.spacing[axis]
    there = (match.index - (len(match.reference.images) - 1) / 2) * one.geometry.spacing[axis]
    shift = [0.0, 0.0, 0.0]
    shift[axis] = float(np.median(there - here))
    spacing = one.geometry.spacing
    found = register(target, geometry.spacing, one.image, one.labels, spacing, (shift[0], shift[1], shift[2]))
    kept = set(np.unique(one.labels)) <= set(np.unique(found.labels))
    return replace(one, registered=found) if found.useful and kept else one


def ready(references: Sequence[Reference], arrays: Sequence[np.ndarray], settings: SegmentSettings) -> list[Ready]:
    found = []
    for reference, labels in zip(references, arrays, strict=True):
        image, grid, turned = canonical(to_uint8(reference.image, settings.window), reference.image.geometry)
        found.append(Ready(image, turned.forth(labels), grid, turned))
    return found


def with_corrections(
    plane: CasePlane, corrected: Corrected | None, engine: Engine, values: tuple[int, ...]
) -> CasePlane:
    """The plane with the target's own corrected slices among what goes into memory."""
    if corrected is None or plane.images.axis != corrected.axis:
        return plane
    match = corrected.match(plane, describe(engine, plane.images), values)
    return replace(plane, matches=(match, *plane.matches), corrected=match)


def prepare(
    references: Sequence[Reference],
    target: Volume,
    settings: SegmentSettings,
    engine: Engine,
    tell: OnEvent,
    corrections: Corrections | None = None,
) -> Case:
    """Everything the segmenter needs.

    Raises InputError (see `check`, `rau.references.selection.choose`, `rau.corrections.canonical_corrections`).
    """
    from rau.assembly.labels import single_pieces
    from rau.assembly.smoothness import borne
    from rau.corrections import canonical_corrections

    check(references, target, tell)
    structures, arrays = unify(references)
    structures = choose(structures, settings)
    values = tuple(s.value for s in structures)
    pixels, geometry, orientation = canonical(to_uint8(target, settings.window), target.geometry)
    theirs, single = ready(references, arrays, settings), set(values)
    for one in theirs:
        single &= set(single_pieces(one.labels, values)) | (set(values) - set(np.unique(one.labels).tolist()))
    if not any(np.isin(values, one.labels).any() for one in theirs):
        raise InputError("The reference shows none of the structures asked for", "Pick other structures")
    tell(StageEvent("retrieve"))
    axes = axes_for(settings, [geometry, *(one.geometry for one in theirs)], len(values))
    corrected = None
    if corrections is not None:
        corrected = canonical_corrections(corrections, target.geometry.shape, orientation, structures, axes[0])
    cuts = [Planes(pixels, axis, geometry.spacing) for axis in axes]
    retrieved = [retrieve(engine, images, theirs, values) for images in cuts]
    if settings.registration == "auto":
        tell(StageEvent("register"))
        theirs = [lay(pixels, geometry, one, match) for one, match in zip(theirs, retrieved[0], strict=True)]
        if settings.region == "auto" and not engine.uses(settings):
            cuts = [looked_at(images, theirs, corrected) for images in cuts]
    planes = [
        CasePlane(images, tuple(_laid_volumes(engine, images, theirs, values) or matches), tuple(matches))
        for images, matches in zip(cuts, retrieved, strict=True)
    ]
    planes = [with_corrections(plane, corrected, engine, values) for plane in planes]
    if engine.encoder is not None:
        best = float(np.max([m.similarity for m in retrieved[0]], axis=0).mean())
        if best < settings.retrieval_warning:
            tell(WarningEvent(f"The references look little like the target (similarity {best:.2f}): check the result"))
    one_piece, described = tuple(sorted(single)), engine.encoder is not None
    smoothness = borne([(one.labels, one.geometry.spacing) for one in theirs], values)
    ours = (structures, pixels, orientation, tuple(planes), one_piece)
    return Case(*ours, tuple(theirs), described, corrected, smoothness)
