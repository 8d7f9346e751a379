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
from rau.quality.layout import line_of, measure, touched
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
Lines = list[np.ndarray]  # one for each axis
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

    def total(column: int) -> np.ndarray:
        return combined(votes, column, threshold, case.prior(case.values[column]), guide, cues)

    columns = {
        value: column
        for column, value in enumerate(case.values)
        if value not in leave_out and any(value in plane.votes for plane in votes)
    }
    best_other = Ranked(array, columns, total)
    moves = correct(array, case.planes[0].images.spacing, prior_of(case), single, names, best_other)
    return (replace(labels, array=case.orientation.back(array)) if moves else labels), moves


class Ranked:
    """The two most probable structures of each voxel that has a label, as `rau.assembly.labels.assemble` compares them;
    computed when first asked for. columns: of each value that may be found; total: (S, R, C) probability of a column.
    """

    def __init__(self, labels: np.ndarray, columns: Mapping[int, int], total: Callable[[int], np.ndarray]) -> None:
        self._where = np.flatnonzero(labels)
        self._columns, self._total = columns, total
        self._two: np.ndarray | None = None  # (2, N) values, 0: none

    def __call__(self, where: np.ndarray, value: int) -> np.ndarray:
        """(N,) the best value but `value` of these flat indices, which had a label; 0 where there is none."""
        if self._two is None:
            self._two = self._ranked()
        first, second = self._two[:, np.searchsorted(self._where, where)]
        return np.where(first == value, second, first)

    def _ranked(self) -> np.ndarray:
        two = np.zeros((2, len(self._where)), np.uint16)
        best = np.full(two.shape, 0.5, np.float32)
        for value, column in self._columns.items():
            total = self._total(column).ravel()[self._where]
            first, second = total > best[0], total > best[1]
            two[1] = np.where(first, two[0], np.where(second, value, two[1]))
            best[1] = np.where(first, best[0], np.where(second, total, best[1]))
            two[0][first], best[0][first] = value, total[first]
        return two


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
    scene = Scene(labels, spacing, prior, names)
    while found := next(odd_pieces(scene, single), None):
        value, piece = found
        given = taken(labels, value, piece, runners_up, free)
        scene.changed(piece.box, (value, *given))
        ml = None if prior.flat else round(piece.voxels * float(np.prod(spacing)) / 1000, 4)
        moves.append(Move(value, piece.voxels, ml, piece.broken, given))
    return moves


def odd_pieces(scene: Scene, single: Sequence[int]) -> Iterator[tuple[int, Piece]]:
    """(value, piece) of pieces that break what the references keep, where a larger or smaller one of theirs does not.

    Structures that are not in two pieces or more, and those of which no piece lies right, give none.
    """
    for value in single:
        pieces = scene.pieces(value)
        if len(pieces) < 2:
            continue
        broken, agrees = scene.judged(value)
        right = [one for one, said, kept in zip(pieces, broken, agrees, strict=True) if kept and not said]
        if not right:
            continue
        home = max(right, key=lambda one: one.voxels)
        if not scene.large_enough(value, home):
            continue
        for one, said in zip(pieces, broken, strict=True):
            found = said or (scene.too_far(value, home, one) if one is not home else [])
            if found:
                yield value, replace(one, broken=tuple(found))


def pieces_of(labels: np.ndarray, value: int, box: Box) -> Iterator[Piece]:
    """The connected parts of a structure (26 neighbours)."""
    from scipy import ndimage

    numbered, _ = ndimage.label(labels[box] == value, np.ones((3, 3, 3)))
    for number, part in enumerate(ndimage.find_objects(numbered), 1):
        own = tuple(slice(b.start + p.start, b.start + p.stop) for b, p in zip(box, part, strict=True))
        yield Piece(own, numbered[part] == number)


class Scene:
    """A label map (S, R, C) held against a prior. What was measured of a structure is kept until it is `changed`."""

    def __init__(
        self, labels: np.ndarray, spacing: Sequence[float], prior: StructuralPrior, names: Mapping[int, str]
    ) -> None:
        from scipy import ndimage

        self.labels, self.spacing, self.prior, self.names = labels, spacing, prior, names
        found = enumerate(ndimage.find_objects(labels.astype(np.int32)), 1)
        self._boxes: dict[int, Box] = {value: box for value, box in found if box is not None}
        self._pieces: dict[int, tuple[list[Piece], Lines]] = {}
        self._below: dict[int, Lines] = {}
        words = {kind: (axis, up) for axis, up, kind in (PICTURE_WORDS if prior.flat else VOLUME_WORDS)}
        self._sides = [(one, *words[one.kind]) for one in prior.relations if one.kind in words]

    def changed(self, box: Box, values: Sequence[int]) -> None:
        """Forget what was measured of structures that changed within `box`."""
        from scipy import ndimage

        for value in values:
            old = self._boxes.pop(value, box)
            both = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(old, box, strict=True))
            now = ndimage.find_objects((self.labels[both] == value).astype(np.uint8))
            if now:
                self._boxes[value] = tuple(
                    slice(a.start + b.start, a.start + b.stop) for a, b in zip(both, now[0], strict=True)
                )
            self._pieces.pop(value, None)
            self._below.pop(value, None)

    def pieces(self, value: int) -> list[Piece]:
        """The connected parts of a structure."""
        return self._measured(value)[0]

    def _measured(self, value: int) -> tuple[list[Piece], Lines]:
        """The pieces (P) of a structure, and for each axis (P, L) the shares of their voxels along it."""
        if value not in self._pieces:
            box = self._boxes.get(value)
            found = [] if box is None else list(pieces_of(self.labels, value, box))
            lines = [
                np.array([line_of(one.mask, one.box, axis, length) for one in found]).reshape(-1, length)
                for axis, length in enumerate(self.labels.shape)
            ]
            self._pieces[value] = found, lines
        return self._pieces[value]

    def _before(self, value: int, axis: int) -> np.ndarray:
        """(L,) the share of a structure that lies before each place along the axis; half of what lies there."""
        if value not in self._below:
            box = self._boxes[value]
            mask = self.labels[box] == value
            lines = [line_of(mask, box, a, length) for a, length in enumerate(self.labels.shape)]
            self._below[value] = [np.cumsum(line) - 0.5 * line for line in lines]
        return self._below[value][axis]

    def chances(self, value: int) -> Iterator[tuple[Relation, np.ndarray]]:
        """Relations of side of the structure, each with (P,) the chance that a voxel of a piece lies as it says."""
        lines = self._measured(value)[1]
        for relation, axis, up in self._sides:
            other = relation.other if relation.one == value else relation.one
            if value in (relation.one, relation.other) and other in self._boxes:
                chance = lines[axis] @ self._before(other, axis)
                yield relation, chance if up == (relation.one == value) else 1 - chance

    def judged(self, value: int) -> tuple[list[list[str]], np.ndarray]:
        """Of each piece: the relations that it breaks clearly, in words; and whether it keeps every relation (P,)."""
        pieces = self.pieces(value)
        broken: list[list[str]] = [[] for _ in pieces]
        agrees = np.ones(len(pieces), bool)
        for relation, chance in self.chances(value):
            agrees &= chance > AGREED
            for index in np.flatnonzero(chance <= ASIDE).tolist():
                broken[index].append(relation.broken(self.names))
        for index, piece in enumerate(pieces):
            for relation, share in self.wholes(value, piece):
                agrees[index] &= share >= OUTSIDE
                if share < OUTSIDE / 2:
                    broken[index].append(relation.broken(self.names))
        return broken, agrees

    def wholes(self, value: int, piece: Piece) -> Iterator[tuple[Relation, float]]:
        """What the structure lies inside of, with the share of the piece's rim that is it."""
        for relation in self.prior.relations:
            if relation.kind == "inside" and relation.one == value and relation.other in self._boxes:
                there, inner = grown(piece.box, self.labels.shape)
                alone = np.where(self.labels[there] == value, 0, self.labels[there])
                alone[inner][piece.mask] = value
                yield relation, float(touched(alone, inner, value, (relation.other,))[0])

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

    there, inner = grown(piece.box, labels.shape)
    mine = np.zeros(labels[there].shape, bool)
    mine[inner] = piece.mask
    own, asked = labels[there], mine & free[there]
    wanted = np.zeros(own.shape, labels.dtype)
    places = np.nonzero(asked)
    offset = [place + s.start for place, s in zip(places, there, strict=True)]
    wanted[places] = runners_up(np.ravel_multi_index(offset, labels.shape), value)
    own[mine], free[there][mine] = 0, False
    given, corners = {}, np.ones((3, 3, 3))
    for taker in np.unique(wanted[mine]).tolist():
        if taker not in (0, value):
            theirs, some = own == taker, wanted == taker
            joined = ndimage.binary_propagation(theirs, corners, theirs | some) & some
            if joined.any():
                own[joined] = taker
                given[taker] = int(joined.sum())
    return given


def grown(box: Box, shape: Sequence[int]) -> tuple[Box, Box]:
    """The box with one voxel more on every side that has one, and where it lies in that."""
    there = tuple(slice(max(0, s.start - 1), min(n, s.stop + 1)) for s, n in zip(box, shape, strict=True))
    return there, tuple(slice(s.start - t.start, s.stop - t.start) for s, t in zip(box, there, strict=True))
