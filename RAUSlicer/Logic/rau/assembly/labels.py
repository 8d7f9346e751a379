"""One label a voxel: structures compete by probability, in the slices in which they are present."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rau.assembly.ends import Signs, presence_of
from rau.sam.propagation import SliceMasks

if TYPE_CHECKING:
    from rau.adaptation.guide import Guide
    from rau.vlm.reason import CaseCues


def smoothed(presence: np.ndarray) -> np.ndarray:
    """(T, K) presence of K structures in T slices, smoothed over three slices (a lone slice counts half)."""
    padded = np.pad(presence, ((1, 1), (0, 0)), mode="edge")
    return 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]


class PlaneVotes:
    """What one plane says of the target. Holds a uint8 probability volume for each structure that appears at all.

    values: label values, K of them. shape: canonical (S, R, C) of the target. axis: across which the slices were cut.
    single: the values of structures in one piece, where presence is judged by all signs (`rau.assembly.ends`); None:
    presence is what the network says, smoothed along the slices.
    """

    def __init__(
        self, values: Sequence[int], shape: tuple[int, int, int], axis: int, single: Sequence[int] | None = None
    ) -> None:
        self.values, self.shape, self.axis = tuple(values), shape, axis
        self.single = None if single is None else frozenset(single)
        self.votes: dict[int, np.ndarray] = {}
        self.presence = np.zeros((shape[axis], len(self.values)), np.float32)
        self.iou, self.area, self.beyond = (np.zeros_like(self.presence) for _ in range(3))
        self.asked, self.done = np.zeros(self.presence.shape, bool), np.zeros(shape[axis], bool)

    def add(self, one: SliceMasks) -> None:
        self.done[one.index] = True
        for k, value in enumerate(one.values):
            column = self.values.index(value)
            self.presence[one.index, column], self.iou[one.index, column] = one.presence[k], one.iou[k]
            self.asked[one.index, column], self.area[one.index, column] = True, (one.probability[k] > 0.5).sum()
            self.beyond[one.index, column] = one.beyond[k] if len(one.beyond) else 0.0
            if one.presence[k] < 0.1:
                continue
            if value not in self.votes:
                self.votes[value] = np.zeros(self.shape, np.uint8)
            np.moveaxis(self.votes[value], self.axis, 0)[one.index] = np.round(one.probability[k] * 255)

    def complete(self) -> None:
        """Slices that were not segmented get what the two beside them say, by how near they are; ends what one says."""
        done = np.flatnonzero(self.done)
        for t in np.flatnonzero(~self.done) if len(done) else ():
            place = int(np.searchsorted(done, t))
            one, other = done[max(0, place - 1)], done[min(place, len(done) - 1)]
            share = (t - one) / (other - one) if other > one else 0.0
            self.asked[t] = self.asked[one] | self.asked[other]
            for known in (self.presence, self.iou, self.area, self.beyond):
                known[t] = (1 - share) * known[one] + share * known[other]
            for votes in self.votes.values():
                slices = np.moveaxis(votes, self.axis, 0)
                slices[t] = np.round((1 - share) * slices[one] + share * slices[other])

    def signs(self, column: int) -> Signs:
        """What is known of the presence of a structure along the slices."""
        several = (self.asked, self.presence, self.iou, self.area, self.beyond)
        return Signs(*(one[:, column] for one in several))

    def gate(self, threshold: float = 0.5) -> np.ndarray:
        """(T, K) presence along the slices; one or two slices are taken as the network says."""
        if len(self.presence) < 3 or not self.values:
            return self.presence
        if self.single is None:
            return smoothed(self.presence)
        columns = [presence_of(self.signs(k), threshold, v in self.single) for k, v in enumerate(self.values)]
        return np.stack(columns, 1)


def preview(one: SliceMasks, threshold: float) -> np.ndarray:
    """(rows, columns) uint16 labels of one slice as far as it alone can tell."""
    labels = np.zeros(one.probability.shape[1:], np.uint16)
    best = np.full(labels.shape, 0.5, np.float32)
    for k, value in enumerate(one.values):
        if one.presence[k] >= threshold:
            wins = one.probability[k] > best
            labels[wins], best[wins] = value, one.probability[k][wins]
    return labels


PRIOR_WEIGHT = 0.3  # by validation; below a half: registration alone never makes a structure


def no_prior(value: int) -> np.ndarray | None:
    """Nothing is expected anywhere."""
    return None


def voted(planes: Sequence[PlaneVotes], column: int, threshold: float) -> np.ndarray:
    """(S, R, C) mean probability of a structure over the planes, each slice by its gate."""
    value, total = planes[0].values[column], np.zeros(planes[0].shape, np.float32)
    for plane in planes:
        if value in plane.votes:
            gate = np.clip(2 * plane.gate(threshold)[:, column] / max(threshold, 1e-6) - 1, 0, 1)
            total += plane.votes[value] * (np.moveaxis(gate[:, None, None], 0, plane.axis) / (255 * len(planes)))
    return total


def confidence(planes: Sequence[PlaneVotes], column: int) -> float:
    """Mean predicted IoU of a structure over the slices in which the network sees it; 0 where it sees it nowhere."""
    found = np.concatenate([plane.iou[plane.presence[:, column] >= 0.5, column] for plane in planes])
    return float(found.mean()) if len(found) else 0.0


def combined(
    planes: Sequence[PlaneVotes],
    column: int,
    threshold: float,
    expected: np.ndarray | None = None,
    guide: Guide | None = None,
    cues: CaseCues | None = None,
) -> np.ndarray:
    """(S, R, C) float32: the probability of one structure from all sources, as `assemble` compares them.

    expected: where registration expects it, 0 to 1; None: no such.
    """
    value, total = planes[0].values[column], voted(planes, column, threshold)
    share = guide.weights(value, confidence(planes, column)) if guide is not None else None
    if guide is not None and share is not None:
        asked = np.moveaxis((planes[0].presence[:, column] > 0)[:, None, None], 0, planes[0].axis)
        total = share.network * total + (share.expert / 255) * asked * guide.expected[value]
        total += 0.0 if expected is None else share.prior * asked * expected
    elif expected is not None:
        total = (1 - PRIOR_WEIGHT) * total + PRIOR_WEIGHT * expected
    seen = cues.gate(value) if cues is not None else None
    if cues is not None and seen is not None:
        total = total * np.moveaxis(seen[:, None, None], 0, cues.axis)
    return total


def assemble(
    planes: Sequence[PlaneVotes],
    threshold: float,
    prior: Callable[[int], np.ndarray | None] = no_prior,
    leave_out: Sequence[int] = (),
    guide: Guide | None = None,
    cues: CaseCues | None = None,
) -> np.ndarray:
    """(S, R, C) uint16 labels. A voxel goes to the structure of highest mean probability over the planes, if over 0.5.

    prior: for a label value, where registration expects it, (S, R, C) in 0 to 1; it counts PRIOR_WEIGHT of the sum.
    guide: the experts; where they know the structure, the shares of network, expert and prior are the gate's
    (`rau.adaptation.gate`), in the slices in which the network was asked for it.
    cues: what the VLM said; where it sees no structure, there is none.
    In each plane a structure's slices count fully where its gate is at or above `threshold`, not at all at half of it.
    """
    shape, values = planes[0].shape, planes[0].values
    labels, best = np.zeros(shape, np.uint16), np.full(shape, 0.5, np.float32)
    for column, value in enumerate(values):
        if value in leave_out or not any(value in plane.votes for plane in planes):
            continue
        total = combined(planes, column, threshold, prior(value), guide, cues)
        wins = total > best
        labels[wins], best[wins] = value, total[wins]
    return labels


def drop_islands(labels: np.ndarray, single: Sequence[int], fraction: float = 0.1) -> np.ndarray:
    """Remove pieces smaller than `fraction` of the largest, of the structures that are one piece in the references.

    labels: (S, R, C), changed in place and returned. Structures in several pieces are left alone.
    """
    from scipy import ndimage

    boxes = ndimage.find_objects(labels.astype(np.int32))
    for value in single:
        box = boxes[value - 1] if 0 < value <= len(boxes) else None
        if box is None:
            continue
        pieces, count = ndimage.label(labels[box] == value, np.ones((3, 3, 3)))
        if count > 1:
            sizes = np.bincount(pieces.ravel())
            sizes[0] = 0
            small = np.nonzero(sizes < fraction * sizes.max())[0]
            labels[box][np.isin(pieces, small[small > 0])] = 0
    return labels


def single_pieces(labels: np.ndarray, values: Sequence[int], fraction: float = 0.9) -> list[int]:
    """The structures of a reference whose largest piece holds at least `fraction` of their voxels."""
    from scipy import ndimage

    boxes = ndimage.find_objects(labels.astype(np.int32))
    found = []
    for value in values:
        box = boxes[value - 1] if 0 < value <= len(boxes) else None
        if box is None:
            continue
        pieces, _ = ndimage.label(labels[box] == value, np.ones((3, 3, 3)))
        sizes = np.bincount(pieces.ravel())[1:]
        if sizes.max() >= fraction * sizes.sum():
            found.append(value)
    return found
