"""Crops of the original pixels in, what was found in them out again. S: pixels a side of the network's square."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rau.look.window import Window, corner, longest
from rau.sam.pixels import Frame

if TYPE_CHECKING:
    import torch

MOST_FOLD = 8  # samples a side that are averaged for a pixel, where a crop has more pixels than the square
TINY = 1e-6


def crop(slices: np.ndarray, frame: Frame, windows: Sequence[Window], size: int) -> torch.Tensor:
    """uint8 slices (N, rows, columns[, 3]), each in its window -> (N, 1 or 3, size, size) in 0 to 1; 0 outside."""
    import torch
    import torch.nn.functional as F

    x = torch.from_numpy(np.ascontiguousarray(slices)).float().div_(255)
    x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)
    largest = max(window.side for window in windows)
    fold = min(MOST_FOLD, max(1, math.ceil(largest * longest(frame) / size)))
    line = (torch.arange(size * fold) + 0.5) / (size * fold)
    grids = []
    for window in windows:
        axes = [
            2 * (low + window.side * line - first) / part - 1
            for low, first, part in zip(window.box[:2], corner(frame), frame.fraction, strict=True)
        ]
        rows, columns = torch.meshgrid(axes[0], axes[1], indexing="ij")
        grids.append(torch.stack([columns, rows], -1))
    found = F.grid_sample(x, torch.stack(grids), mode="bilinear", padding_mode="zeros", align_corners=False)
    return F.avg_pool2d(found, fold) if fold > 1 else found


def crop_masks(masks: np.ndarray, frame: Frame, windows: Sequence[Window], size: int) -> torch.Tensor:
    """Boolean masks (N, rows, columns) -> (N, 1, size, size) of 0 and 1; a mask in its window never vanishes."""
    x = crop(masks.astype(np.uint8) * 255, frame, windows, size)
    peak = x.flatten(1).max(1).values.clamp(min=TINY, max=0.5)[:, None, None, None]
    return (x >= peak).float()


def paste(coarse: np.ndarray, fine: torch.Tensor, window: Window, frame: Frame, feather: float) -> np.ndarray:
    """`coarse` (rows, columns) with `fine` (S', S') in its window; papers.md C3 step 4.

    Across a border of `feather` of the window's side the one goes over into the other, except where the window ends
    with the slice.
    """
    import torch
    import torch.nn.functional as F

    out, first = coarse.astype(np.float32), corner(frame)
    places, weights, spans = [], [], []
    for axis in (0, 1):
        centres = first[axis] + (np.arange(frame.shape[axis]) + 0.5) * frame.fraction[axis] / frame.shape[axis]
        low, high = window.box[axis], window.box[axis + 2]
        inside = np.nonzero((centres > low) & (centres < high))[0]
        if not len(inside):
            return out
        spans.append(slice(int(inside[0]), int(inside[-1]) + 1))
        at = centres[inside]
        from_low = np.inf if low <= first[axis] + TINY else at - low
        from_high = np.inf if high >= 1 - first[axis] - TINY else high - at
        weights.append(np.clip(np.minimum(from_low, from_high) / max(TINY, feather * window.side), 0, 1))
        places.append(torch.from_numpy(2 * (at - low) / window.side - 1).float())
    grid = torch.stack(torch.meshgrid(places[0], places[1], indexing="ij")[::-1], -1)[None]
    there = F.grid_sample(fine[None, None].float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    weight = np.minimum.outer(*[np.broadcast_to(w, (len(p),)) for w, p in zip(weights, places, strict=True)])
    here = out[spans[0], spans[1]]
    out[spans[0], spans[1]] = here + weight * (there[0, 0].numpy() - here)
    return out
