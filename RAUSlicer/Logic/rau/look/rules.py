"""When a structure is looked at again, when a look is taken, and when it is the last one (papers.md C3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rau.evaluation.metrics import dice
from rau.look.window import Window, overlap


@dataclass(frozen=True)
class Looks:
    """How to look again. What papers.md C3 leaves open was chosen on validation tasks (`Benchmarks/mechanisms.py`).

    crops: looks after the one at the whole slice. margins: of each crop, times the structure's bounding square (the
    last one goes on). least: original pixels a side of a crop, at least. small: bounding squares below this part of
    the slice's square are looked at. closer: a crop above this part of the square shows nothing new. most: crops of a
    whole volume; with more of them none is made. picture: crops of a picture, those of its smallest structures, so that
    a picture of many takes no longer. prompted: the crop comes with what is known so far as mask prompt.
    Stop: the box moves less than (IoU) `same`, or fills `filled` of its crop. Reject: less Dice than `agreement` with
    what was there; a predicted IoU lower by more than `falls`; `presence` below; a box out of the crop's middle half.
    feather: of the crop's side, over which it goes over into the rest.
    """

    crops: int = 1
    margins: tuple[float, ...] = (2.0, 1.5)
    least: int = 32
    small: float = 1 / 3
    closer: float = 0.6
    most: int = 400
    picture: int = 8
    prompted: bool = False
    same: float = 0.85
    filled: float = 0.5
    agreement: float = 0.3
    falls: float = 0.1
    presence: float = 0.5
    feather: float = 0.1

    def margin(self, level: int) -> float:
        return self.margins[min(level, len(self.margins) - 1)]


def rejected(
    looks: Looks,
    window: Window,
    box: Window | None,
    masks: tuple[np.ndarray, np.ndarray],
    iou: tuple[float, float],
    presence: float,
) -> str:
    """Why a look is not taken, "" if it is. box: of what it found; masks, iou: before and now."""
    if box is None or presence < looks.presence:
        return "nothing there"
    if max(abs(box.row - window.row), abs(box.column - window.column)) > window.side / 4:
        return "out of the middle"
    if iou[1] < iou[0] - looks.falls:
        return "less sure"
    if masks[0].any() and (dice(*masks) or 0.0) < looks.agreement:
        return "elsewhere"
    return ""


def finished(looks: Looks, window: Window, before: Window, box: Window) -> bool:
    """Whether another look would show nothing new."""
    return overlap(before, box) > looks.same or box.side > looks.filled * window.side
