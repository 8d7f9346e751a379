"""Structural priors that correct: a piece that lies where its structure cannot be, while another piece lies right.

Only of structures that are one piece in every reference, only relations that hold clearly there (`rau.quality.prior`),
never the only piece, never the last one that is left. What is taken away goes to the runner-up of each voxel where that
lies next to it, else to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rau.assembly.labels import PlaneVotes, combined
from rau.quality.layout import further, line_of, measure, touched
from rau.quality.prior import OUTSIDE, PICTURE_WORDS, VOLUME_WORDS, Relation, StructuralPrior, learn

if TYPE_CHECKING:
    from rau.adaptation.guide import Guide
    from rau.preparation import Case
    from rau.vlm.reason import CaseCues
    from rau.volume.volume import LabelMap

ASIDE = 0.2  # chance that a voxel of the piece lies on the right side of the other structure, from which down it is odd
AGREED = 0.5  # the same, above which the piece that stays is not
APART = 1.2  # times the largest extent that references allow: from there on two pieces are too far apart,
MINOR = 0.5  # if the one is at most this share of the other; both set on validation tasks (`Benchmarks/priors.py`)
Box = tuple[slice, ...]
RunnersUp = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Move:
    """A piece that a structure lost. value: the structure; given: voxels by the structure that took them over.

    broken: what does not hold of it, in words. ml: None of pictures.
    """

    value: int
    voxels: int
    ml: float | None
    broken: tuple[str, ...]
    given: Mapping[int, int]

    def words(self, names: Mapping[int, str]) -> str:
        """One line for the user: "corrected: spleen, a piece of 3.1 ml (spleen is not left of liver) was removed"."""
        size = f"{self.voxels} voxels" if self.ml is None else f"{self.ml:.2g} ml"
        takers = ", ".join(names[value] for value in sorted(self.given, key=lambda v: -self.given[v]))
        became = f"was given to {takers}" if takers else "was removed"
        more = f" and {len(self.broken) - 1} more" if len(self.broken) > 1 else ""
        return f"corrected: {names[self.value]}, a piece of {size} ({self.broken[0]}{more}) {became}"

    def report(self, names: Mapping[int, str]) -> dict[str, Any]:
        """Ready for JSON."""
        given = {names[value]: count for value, count in self.given.items()}
        told = {"value": self.value, "name": names[self.value], "voxels": self.voxels, "ml": self.ml}
        return {**told, "broken": list(self.broken), "given": given}


@dataclass(frozen=True)
class Piece:
    """A connected part of a structure. box: where it lies; mask: in that box; broken: relations it breaks, in words."""

    box: Box
    mask: np.ndarray
    broken: tuple[str, ...] = ()

    @property
    def voxels(self) -> int:
        return int(self.mask.sum())


def prior_of(case: Case) -> StructuralPrior:
    """What the case's references say of the layout."""
    return learn([measure(one.labels, one.geometry.spacing, case.values) for one in case.references])


def corrected(
    case: Case,
    votes: Sequence[PlaneVotes],
    guide: Guide | None,
    cues: CaseCues | None,
    labels: LabelMap,
    threshold: float,
    leave_out: Sequence[int] = (),
) -> tuple[LabelMap, list[Move]]:
    """The label map of a finished case (`rau.pipeline.join`) with odd pieces moved, and what was moved.

    What the user has drawn in corrected slices is left alone. leave_out: structures that are not to be found.
    """
    names = {one.value: one.name for one in case.structures}
    array = case.orientation.forth(labels.array).copy()
    single = [value for value in case.single if not case.put_right(value)]

    def best_other(where: np.ndarray, value: int) -> np.ndarray:
        """By the probabilities that `rau.assembly.labels.assemble` compares."""
        found, best = np.zeros(len(where), np.uint16), np.full(len(where), 0.5, np.float32)
        for column, other in enumerate(case.values):
            if other != value and other not in leave_out and any(other in plane.votes for plane in votes):
                total = combined(votes, column, threshold, case.prior(other), guide, cues).ravel()[where]
                wins = total > best
                found[wins], best[wins] = other, total[wins]
        return found

    moves = correct(array, case.planes[0].images.spacing, prior_of(case), single, names, best_other)
    return (replace(labels, array=case.orientation.back(array)) if moves else labels), moves


def correct(
    labels: np.ndarray,
    spacing: Sequence[float],
    prior: StructuralPrior,
    single: Sequence[int],
    names: Mapping[int, str],
    runners_up: RunnersUp,
) -> list[Move]:
    """Take odd pieces away from `labels` (S, R, C), changed in place, until there are none; what was moved comes back.

    spacing: mm. single: the structures that may lose a piece. names: of all label values. runners_up: (indices into the
    flat labels (N,), value) -> (N,) the best other value of these voxels, 0 where there is none. What was given once is
    not given again, so this ends; then nothing is odd, and a second call changes nothing.
    """
    moves: list[Move] = []
    if prior.flat != (labels.shape[0] == 1):
        return moves
    free = np.ones(labels.shape, bool)  # of voxels that may still be given
    while found := next(odd_pieces(labels, spacing, prior, single, names), None):
        value, piece = found
        given = taken(labels, value, piece, runners_up, free)
        ml = None if prior.flat else round(piece.voxels * float(np.prod(spacing)) / 1000, 4)
        moves.append(Move(value, piece.voxels, ml, piece.broken, given))
    return moves


def odd_pieces(
    labels: np.ndarray,
    spacing: Sequence[float],
    prior: StructuralPrior,
    single: Sequence[int],
    names: Mapping[int, str],
) -> Iterator[tuple[int, Piece]]:
    """(value, piece) of pieces that break what the references keep, where a larger or smaller one of theirs does not.

    Structures that are not in two pieces or more, and those of which no piece lies right, give none.
    """
    from scipy import ndimage

    boxes = ndimage.find_objects(labels.astype(np.int32))
    for value in single:
        if not 0 < value <= len(boxes) or boxes[value - 1] is None:
            continue
        pieces = list(pieces_of(labels, value, boxes[value - 1]))
        if len(pieces) < 2:
            continue
        scene = Scene(labels, spacing, prior, names, boxes)
        broken = [scene.aside(value, one) for one in pieces]
        right = [one for one, said in zip(pieces, broken, strict=True) if not said and scene.agrees(value, one)]
        if not right:
            continue
        home = max(right, key=lambda one: one.voxels)
        if not scene.large_enough(value, home):
            continue
        for one, said in zip(pieces, broken, strict=True):
            found = said or (scene.too_far(value, home, one) if one is not home else ())
            if found:
                yield value, replace(one, broken=tuple(found))


def pieces_of(labels: np.ndarray, value: int, box: Box) -> Iterator[Piece]:
    """The connected parts of a structure (26 neighbours)."""
    from scipy import ndimage

    numbered, _ = ndimage.label(labels[box] == value, np.ones((3, 3, 3)))
    for number, part in enumerate(ndimage.find_objects(numbered), 1):
        own = tuple(slice(b.start + p.start, b.start + p.stop) for b, p in zip(box, part, strict=True))
        yield Piece(own, numbered[part] == number)


@dataclass(frozen=True)
class Scene:
    """A label map (S, R, C) held against a prior. boxes: of all its values, as `ndimage.find_objects` has them."""

    labels: np.ndarray
    spacing: Sequence[float]
    prior: StructuralPrior
    names: Mapping[int, str]
    boxes: Sequence[Box | None]

    def chances(self, value: int, piece: Piece) -> Iterator[tuple[Relation, float]]:
        """Relations of side of the structure, each with the chance that a voxel of the piece lies as it says."""
        words = {kind: axis for axis, _, kind in (PICTURE_WORDS if self.prior.flat else VOLUME_WORDS)}
        ups = {kind: up for _, up, kind in (PICTURE_WORDS if self.prior.flat else VOLUME_WORDS)}
        for relation in self.prior.relations:
            other = relation.other if relation.one == value else relation.one
            box = self.boxes[other - 1] if 0 < other <= len(self.boxes) else None
            if value not in (relation.one, relation.other) or relation.kind not in words or box is None:
                continue
            axis = words[relation.kind]
            length = self.labels.shape[axis]
            theirs = line_of(self.labels[box] == other, box, axis, length)
            chance = float(further(np.stack([line_of(piece.mask, piece.box, axis, length), theirs]))[0, 1])
            yield relation, chance if ups[relation.kind] == (relation.one == value) else 1 - chance

    def aside(self, value: int, piece: Piece) -> list[str]:
        """The relations that the piece breaks clearly, in words."""
        broken = [relation for relation, chance in self.chances(value, piece) if chance <= ASIDE]
        broken += [one for one, share in self.wholes(value, piece) if share < OUTSIDE / 2]
        return [one.broken(self.names) for one in broken]

    def agrees(self, value: int, piece: Piece) -> bool:
        """Whether the piece keeps every relation."""
        sides = all(chance > AGREED for _, chance in self.chances(value, piece))
        return sides and all(share >= OUTSIDE for _, share in self.wholes(value, piece))

    def wholes(self, value: int, piece: Piece) -> Iterator[tuple[Relation, float]]:
        """What the structure lies inside of, with the share of the piece's rim that is it."""
        for relation in self.prior.relations:
            if relation.kind == "inside" and relation.one == value and (self.labels == relation.other).any():
                alone = np.where(self.labels == value, 0, self.labels)
                alone[piece.box][piece.mask] = value
                yield relation, float(touched(alone, piece.box, value, (relation.other,))[0])

    def large_enough(self, value: int, home: Piece) -> bool:
        """Whether what would stay is no smaller than the references allow."""
        allowed = self.prior.ranges.get(value)
        if allowed is None:
            return True
        unit = 1 / self.labels.size if self.prior.flat else float(np.prod(self.spacing)) / 1000
        return home.voxels * unit >= allowed.size[0]

    def too_far(self, value: int, home: Piece, piece: Piece) -> list[str]:
        """Said of a minor piece when both together reach further than references allow, and the larger one does not."""
        allowed = self.prior.ranges.get(value)
        if allowed is None or piece.voxels > MINOR * home.voxels:
            return []
        steps = 1 / np.array(self.labels.shape) if self.prior.flat else np.asarray(self.spacing, float)
        for axis in range(1 if self.prior.flat else 0, 3):
            low, high = home.box[axis].start, home.box[axis].stop
            alone = (high - low) * steps[axis]
            both = (max(high, piece.box[axis].stop) - min(low, piece.box[axis].start)) * steps[axis]
            if alone <= allowed.extent[axis][1] < both / APART:
                unit = "of the picture" if self.prior.flat else "mm"
                return [f"too far apart: {both:.3g} {unit}, expected up to {allowed.extent[axis][1]:.3g}"]
        return []


def taken(labels: np.ndarray, value: int, piece: Piece, runners_up: RunnersUp, free: np.ndarray) -> dict[int, int]:
    """Take the piece away, in place; the voxels that others took over are counted. A voxel goes to its runner-up where
    that grows on from what it has already. free: (S, R, C), those that may go to another; changed in place.
    """
    from scipy import ndimage

    there = np.zeros(labels.shape, bool)
    there[piece.box][piece.mask] = True
    where = np.flatnonzero(there & free)
    wanted = np.zeros(labels.shape, labels.dtype)
    wanted.ravel()[where] = runners_up(where, value)
    labels[there], free[there] = 0, False
    given, corners = {}, np.ones((3, 3, 3))
    for taker in np.unique(wanted[there]).tolist():
        if taker not in (0, value):
            own = labels == taker
            asked = wanted == taker
            joined = ndimage.binary_propagation(own, corners, own | asked) & asked
            if joined.any():
                labels[joined] = taker
                given[taker] = int(joined.sum())
    return given
