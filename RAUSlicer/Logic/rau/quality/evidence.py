"""What is known of each structure of a finished case without the truth: one frozen record a structure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rau.assembly.labels import PlaneVotes, combined, voted
from rau.quality.layout import Layout, measure
from rau.quality.prior import Finding, findings, learn
from rau.quality.slices import SliceSigns, slice_signs

if TYPE_CHECKING:
    from rau.adaptation.guide import Guide
    from rau.preparation import Case, Ready
    from rau.results import StructureResult
    from rau.vlm.reason import CaseCues

DARK = 0.02  # probability below which a voxel is surely none of the structure's


@dataclass(frozen=True)
class StructureEvidence:
    """All that is known of a structure found, None where a source is not there. Dice values and shares are 0 to 1.

    iou, presence: of the network, over the slices that show the structure, by area. similarity: of the descriptors
    there. correlation: of target and laid reference. trust, fineness: of the expert (`rau.adaptation.gate`).
    network_expert, network_prior, expert_prior: Dice of what two sources say alone. final_network, final_expert,
    final_prior: of the result and each. planes: of what the planes say alone, mean of all pairs. soft: Dice that the
    final probability expects of itself. doubt: probability mass on the wrong side of a half, by the structure's size.
    size_ratio, extent_ratio: of the result to the nearest reference, natural logarithm. size: share of the target.
    smoothness: Dice of neighbouring slices, less that of the reference. pieces: share of the largest piece, less that
    of the reference. likeness: `rau.assembly.plausibility`. shift: of the centre from where the laid reference (without
    one: the reference itself) has it, by the structure's extent. believed: presence by the VLM. reverse: Dice of
    reverse classification. broken: share of the structural priors that do not hold. touching_edge: reaches the edge.
    """

    value: int
    flat: bool
    iou: float
    presence: float
    similarity: float
    correlation: float | None
    trust: float | None
    fineness: float | None
    network_expert: float | None
    network_prior: float | None
    expert_prior: float | None
    final_network: float
    final_expert: float | None
    final_prior: float | None
    planes: float | None
    soft: float
    doubt: float
    size_ratio: float
    extent_ratio: float
    size: float
    smoothness: float | None
    pieces: float
    likeness: float | None
    shift: float
    believed: float | None
    reverse: float | None
    broken: float
    touching_edge: bool


@dataclass(frozen=True)
class Witness:
    """The evidence of all structures found, what the priors say, and what is known of each slice."""

    structures: Mapping[int, StructureEvidence]
    findings: Mapping[int, Finding]
    slices: tuple[SliceSigns, ...]


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Dice of two masks; 0 where both are empty (no agreement to speak of)."""
    total = np.count_nonzero(one) + np.count_nonzero(other)
    return 2 * np.count_nonzero(one & other) / total if total else 0.0


@dataclass(frozen=True)
class Reading:
    """A case and its result, ready to be read structure by structure. labels: (S, R, C), canonical."""

    case: Case
    votes: Sequence[PlaneVotes]
    guide: Guide | None
    cues: CaseCues | None
    labels: np.ndarray
    threshold: float

    @property
    def spacing(self) -> tuple[float, float, float]:
        return self.case.planes[0].images.spacing

    @property
    def axis(self) -> int:
        return self.case.planes[0].images.axis


def witness(
    reading: Reading, results: Sequence[StructureResult], reverse: Mapping[int, float], go_on: Callable[[], None]
) -> Witness:
    """Read everything. results: of the same label map; reverse: `rau.quality.reverse.reverse_dice`."""
    from rau.assembly.plausibility import likeness

    case, found = reading.case, [one.structure.value for one in results if one.present]
    names = {one.value: one.name for one in case.structures}
    theirs = [measure(one.labels, one.geometry.spacing, case.values) for one in case.references]
    layout = measure(reading.labels, reading.spacing, found)
    broken = findings(learn(theirs), layout, names)
    alike = likeness(grey(case.target), reading.labels, [(grey(r.image), r.labels) for r in case.references], found)
    known, signs = {}, []
    for value in layout.values:
        go_on()
        told = {"likeness": alike.get(value), "reverse": reverse.get(value), "broken": broken[value].share}
        known[value], of_slices = read_structure(reading, value, layout, theirs, told)
        signs += of_slices
    return Witness(known, broken, tuple(signs))


def grey(image: np.ndarray) -> np.ndarray:
    """(S, R, C) of a picture with or without colours."""
    return image.mean(3) if image.ndim == 4 else image


def read_structure(
    reading: Reading, value: int, layout: Layout, theirs: Sequence[Layout], told: Mapping[str, Any]
) -> tuple[StructureEvidence, list[SliceSigns]]:
    """The evidence of one structure, and of its slices. told: what was found out of all structures at once."""
    case, votes, guide = reading.case, reading.votes, reading.guide
    column = votes[0].values.index(value)
    final = reading.labels == value
    weight = final.sum(tuple(a for a in range(3) if a != reading.axis)).astype(float)
    laid = case.prior(value)
    masks = masks_of(reading, value, column, laid)
    total = combined(votes, column, reading.threshold, laid, guide, reading.cues)
    known = guide.evidence.get(value) if guide is not None else None
    used = [one.registered.after for one in case.references if one.registered is not None]
    reference = next((one for one in case.references if value in one.labels), None)
    nearest = nearest_reference(value, layout, theirs)
    size_ratio, extent_ratio = ratios(value, layout, nearest)
    (soft, doubt), (smooth, pieces) = probability_signs(total, final), shape_signs(reading, final, reference, value)
    similarity = np.max([match.similarity for match in case.planes[0].retrieved], axis=0)

    def pair(one: str, other: str) -> float | None:
        return overlap(masks[one], masks[other]) if one in masks and other in masks else None

    evidence = StructureEvidence(
        value=value,
        flat=layout.flat,
        iou=by_area(votes[0].iou[:, column], weight),
        presence=by_area(votes[0].presence[:, column], weight),
        similarity=by_area(similarity, weight),
        correlation=max(used) if used else None,
        trust=known.trust if known is not None else None,
        fineness=known.fineness if known is not None else None,
        network_expert=pair("network", "expert"),
        network_prior=pair("network", "prior"),
        expert_prior=pair("expert", "prior"),
        final_network=overlap(final, masks["network"]),
        final_expert=overlap(final, masks["expert"]) if "expert" in masks else None,
        final_prior=overlap(final, masks["prior"]) if "prior" in masks else None,
        planes=planes_agree(votes, value),
        size_ratio=size_ratio,
        extent_ratio=extent_ratio,
        size=float(final.mean()),
        shift=shift_of(final, laid, reference, value),
        believed=believed(reading.cues, value),
        touching_edge=bool(layout.cut[layout.values.index(value)]),
        soft=soft,
        doubt=doubt,
        smoothness=smooth,
        pieces=pieces,
        **told,
    )
    return evidence, slice_signs(value, reading.axis, final, masks, votes[0].iou[:, column])


def masks_of(reading: Reading, value: int, column: int, laid: np.ndarray | None) -> dict[str, np.ndarray]:
    """What each source says alone: "network", and "expert", "prior" where they are there. (S, R, C) boolean."""
    masks = {"network": voted(reading.votes, column, reading.threshold) > 0.5}
    if reading.guide is not None and value in reading.guide.expected:
        masks["expert"] = reading.guide.expected[value] > 127
    if laid is not None:
        masks["prior"] = laid > 0.5
    return masks


def by_area(numbers: np.ndarray, weight: np.ndarray) -> float:
    """Mean of a number of each slice, by the structure's area in it."""
    return float((numbers * weight).sum() / weight.sum())


def planes_agree(votes: Sequence[PlaneVotes], value: int) -> float | None:
    """Mean Dice over the pairs of planes; None of one plane."""
    masks = [vote.votes[value] > 127 if value in vote.votes else np.zeros(vote.shape, bool) for vote in votes]
    pairs = [overlap(one, other) for i, one in enumerate(masks) for other in masks[i + 1 :]]
    return float(np.mean(pairs)) if pairs else None


def probability_signs(total: np.ndarray, final: np.ndarray) -> tuple[float, float]:
    """soft and doubt, see `StructureEvidence`. total: (S, R, C) probability."""
    near = (total > DARK) | final
    p, inside = total[near], final[near]
    soft = 2 * float(p[inside].sum()) / float(p.sum() + inside.sum())
    wrong = float(np.where(inside, 1 - p, p).sum())
    return soft, wrong / float(inside.sum())


def shape_signs(reading: Reading, final: np.ndarray, reference: Ready | None, value: int) -> tuple[float | None, float]:
    """smoothness and pieces, see `StructureEvidence`."""
    pieces, smooth = largest_piece(final), smoothness(final, reading.axis)
    if reference is None:
        return None, pieces - 1.0
    theirs = reference.labels == value
    usual = smoothness(theirs, reading.axis)
    both = None if smooth is None or usual is None else smooth - usual
    return both, pieces - largest_piece(theirs)


def smoothness(mask: np.ndarray, axis: int) -> float | None:
    """Mean Dice of neighbouring slices of which at least one shows the mask; None of a mask in one slice alone."""
    moved = np.moveaxis(mask, axis, 0)
    areas = moved.reshape(len(moved), -1).sum(1)
    where = np.nonzero(areas)[0]
    if len(where) < 2:
        return None
    here = moved[where[0] : where[-1] + 1]
    both = (here[:-1] & here[1:]).reshape(len(here) - 1, -1).sum(1)
    sums = areas[where[0] : where[-1]] + areas[where[0] + 1 : where[-1] + 1]
    return float(np.mean(2 * both / np.maximum(sums, 1)))


def largest_piece(mask: np.ndarray) -> float:
    """Share of the voxels that belong to the largest piece."""
    from scipy import ndimage

    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    pieces, _ = ndimage.label(mask[box], np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel())[1:]
    return float(sizes.max() / sizes.sum())


def nearest_reference(value: int, layout: Layout, theirs: Sequence[Layout]) -> tuple[Layout, int] | None:
    """The reference whose structure is most alike in size, and its column there."""
    size = layout.size[layout.values.index(value)]
    known = [(one, i) for one in theirs if (i := one.column(value)) is not None]
    return min(known, key=lambda one: abs(float(np.log(size / one[0].size[one[1]])))) if known else None


def ratios(value: int, layout: Layout, nearest: tuple[Layout, int] | None) -> tuple[float, float]:
    """Logarithms of size and of mean extent by the reference's; 0 where there is none."""
    if nearest is None:
        return 0.0, 0.0
    (one, j), i = nearest, layout.values.index(value)
    axes = slice(1, 3) if layout.flat else slice(0, 3)
    extent = np.log(layout.extent[i, axes] / one.extent[j, axes]).mean()
    return float(np.log(layout.size[i] / one.size[j])), float(extent)


def shift_of(final: np.ndarray, laid: np.ndarray | None, reference: Ready | None, value: int) -> float:
    """Distance of the centres of result and expectation, by the result's own extent along each axis.

    Without a laid reference it is expected at the reference's own place, as a share of its array.
    """
    centre, extent = middle(final)
    if laid is not None and (laid > 0.5).any():
        there = middle(laid > 0.5)[0]
    elif reference is None:
        return 0.0
    else:
        there = middle(reference.labels == value)[0] / reference.labels.shape * final.shape
    return float(np.linalg.norm((centre - there) / extent))


def middle(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(3,) centre and (3,) extent of a mask, voxels."""
    where = np.argwhere(mask)
    return where.mean(0), np.ptp(where, axis=0) + 1.0


def believed(cues: CaseCues | None, value: int) -> float | None:
    """Largest presence that the VLM told of the structure; None where it was not asked."""
    known = cues.cues.get(value) if cues is not None else None
    return max(cue.presence for cue in known.values()) if known else None
