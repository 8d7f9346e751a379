"""What it costs to call a predicted box by the name of a reference box (RAU Eq. 4; papers.md, A3.4).

Axes: N predicted boxes, M structures of the reference. Boxes are (N, 4) and (M, 4) as in `rau.vlm.boxes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rau.vlm.boxes import as_array, centres, giou, sizes

W_CENTRE, W_GIOU, W_SIZE, W_VLM = 1.0, 1.0, 0.5, 1.0
NAMED, NOT_NAMED = 0.8, 0.02  # probability of a label where the VLM only names one
FEWEST = 3  # boxes that have a layout of their own: the frame of two is that of any two


class Frame(NamedTuple):
    """Where a layout is and how wide: its median centre, (2,), and the median distance of the centres from it."""

    origin: np.ndarray
    unit: float

    def apply(self, boxes: np.ndarray) -> np.ndarray:
        return (boxes - np.tile(self.origin, 2)) / self.unit


class Frames(NamedTuple):
    """In what the predicted boxes and the reference boxes are measured."""

    boxes: Frame
    reference: Frame


def frame_of(boxes: np.ndarray) -> Frame | None:
    """The frame of (N, 4) boxes; None of fewer than FEWEST boxes, and where most of their centres coincide."""
    if len(boxes) < FEWEST:
        return None
    places = centres(boxes)
    origin = np.median(places, axis=0)
    unit = float(np.median(np.linalg.norm(places - origin, axis=1)))
    return Frame(origin, unit) if unit > 1e-6 else None


def shared_frames(reference_boxes: np.ndarray) -> Frames:
    """The picture as it is: no layout is moved against the other. The unit is the reference's, if it has one."""
    frame = frame_of(reference_boxes) or Frame(np.zeros(2), 1.0)
    return Frames(frame, frame)


def own_frames(boxes: np.ndarray, reference_boxes: np.ndarray) -> Frames:
    """Each layout without its own translation and scale (A3.4); shared where one of them has no frame."""
    own, reference = frame_of(boxes), frame_of(reference_boxes)
    return shared_frames(reference_boxes) if own is None or reference is None else Frames(own, reference)


def cost_matrix(
    boxes: np.ndarray, probability: np.ndarray, reference_boxes: np.ndarray, frames: Frames | None = None
) -> np.ndarray:
    """(N, M) costs, 0 to 1: distance of centres, GIoU, difference of sizes, and 1 - probability (A3.4).

    probability: (N, M), 0 to 1, of box i carrying label j. frames: `own_frames` if None. ValueError if the shapes do
    not agree.
    """
    boxes, reference_boxes = as_array(boxes), as_array(reference_boxes)
    if np.shape(probability) != (len(boxes), len(reference_boxes)):
        raise ValueError(
            f"{np.shape(probability)} probabilities of {len(boxes)} boxes and {len(reference_boxes)} structures"
        )
    frames = frames or own_frames(boxes, reference_boxes)
    a, b = frames.boxes.apply(boxes), frames.reference.apply(reference_boxes)
    centre = np.linalg.norm(centres(a)[:, None] - centres(b)[None], axis=2)
    log_a, log_b = (np.log(np.maximum(sizes(x), 1e-6)) for x in (a, b))
    size = np.abs(log_a[:, None] - log_b[None]).mean(axis=2)
    total = W_CENTRE * np.minimum(centre, 3) / 3 + W_GIOU * (1 - giou(a, b)) / 2
    total += W_SIZE * np.minimum(size, 2) / 2 + W_VLM * (1 - np.asarray(probability, np.float64))
    return np.asarray(total / (W_CENTRE + W_GIOU + W_SIZE + W_VLM))


def named_probability(said: Sequence[int | None], structures: int) -> np.ndarray:
    """(N, M) probabilities where the VLM only named a structure (or none) for each of N boxes."""
    probability = np.full((len(said), structures), NOT_NAMED)
    for i, j in enumerate(said):
        if j is not None:
            probability[i, j] = NAMED
    return probability
