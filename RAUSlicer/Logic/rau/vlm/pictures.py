"""What the VLM sees: the slice in a square, its structures in colours, one region in white with a black rim.

All pictures are (S, S, 3) uint8; masks are (S, S) bool of the same square (`rau.sam.pixels.to_square`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rau.vlm.vocabulary import COLOURS

OPACITY = 0.65  # of a structure's colour: a small vision tower must see it, and what lies below
SMALLEST = 5  # pixels a side: smaller structures are drawn as large as that
WHITE = (255, 255, 255)
RIM = 2  # pixels of black about a marked region: white alone is not seen in what is bright


def picture(image: np.ndarray) -> np.ndarray:
    """(1 or 3, S, S) float in 0 to 1, as `to_square` gives it, to (S, S, 3) uint8."""
    pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def enlarged(mask: np.ndarray) -> np.ndarray:
    """The mask, or where it is too small to be seen, a square around it."""
    rows, columns = np.nonzero(mask)
    if not len(rows) or max(np.ptp(rows), np.ptp(columns)) + 1 >= SMALLEST:
        return mask
    row, column, half = int(round(rows.mean())), int(round(columns.mean())), SMALLEST // 2
    drawn = mask.copy()
    drawn[max(0, row - half) : row + half + 1, max(0, column - half) : column + half + 1] = True
    return drawn


def tinted(pixels: np.ndarray, mask: np.ndarray, colour: Sequence[int], opacity: float = OPACITY) -> np.ndarray:
    """A copy with the mask laid over it in a colour."""
    drawn, place = pixels.copy(), enlarged(mask)
    drawn[place] = np.round((1 - opacity) * drawn[place] + opacity * np.asarray(colour)).astype(np.uint8)
    return drawn


def overlay(pixels: np.ndarray, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Structure k in the k-th colour of the legend; the smallest is drawn last."""
    colours = list(COLOURS.values())
    for k in sorted(range(len(masks)), key=lambda k: -int(masks[k].sum())):
        pixels = tinted(pixels, masks[k], colours[k])
    return pixels


def marked(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """One region of the target in white with a black rim, for the labelling question."""
    from scipy import ndimage

    shown = enlarged(mask)
    drawn = tinted(pixels, shown, WHITE)
    drawn[ndimage.binary_dilation(shown, iterations=RIM) & ~shown] = 0
    return drawn
