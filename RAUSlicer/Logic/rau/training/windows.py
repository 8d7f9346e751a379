"""Closer looks in training: a task seen through windows about one of its structures, as `rau.look` makes them.

Papers.md C3: training with jittered crops. All frames of a task show the same structure at about the same scale; the
window of the target (and of its neighbours) is as wrong as a first look is.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from rau.training.anatomy import TISSUE
from rau.training.data import Layout, Rng
from rau.training.synthetic import sample_labels

COARSE = 64  # pixels a side at which structures are found
SMALL = 1 / 3  # longer side of a structure that is looked at, at most this part of the frame
MARGINS = (1.4, 3.0)  # of the window, times the structure's longer side
LEAST = 0.15  # side of a window, of the frame's
JITTER = 0.12  # standard deviation of the target's window, of its side


def box_of(mask: np.ndarray) -> tuple[float, float, float] | None:
    """(row, column, longer side) of a mask (P, P), in parts of the frame; None where it is empty."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return None
    ends = [(v.min() / len(mask), (v.max() + 1) / len(mask)) for v in (rows, columns)]
    return sum(ends[0]) / 2, sum(ends[1]) / 2, max(high - low for low, high in ends)


def windows_of(labels: np.ndarray, layout: Layout, rng: Rng) -> np.ndarray | None:
    """(F, 3) row, column, side of a window for each frame of a task; None where no structure is small.

    labels: (F, P, P). Windows lie within the frame, as at use. A frame that lacks the structure is seen where the
    first reference shows it.
    """
    first = labels[0]
    boxes = {int(v): box_of(first == v) for v in np.unique(first) if 0 < v < TISSUE}
    small = [v for v, box in boxes.items() if box is not None and box[2] < SMALL]
    if not small:
        return None
    value = int(rng.choice(small))
    here = [box_of(frame == value) or boxes[value] for frame in labels]
    margin = float(rng.uniform(*MARGINS))
    side = min(1.0, max(LEAST, margin * max(box[2] for box in here if box is not None)))
    windows = np.array([[box[0], box[1], side] for box in here if box is not None])
    windows[:, :2] += rng.normal(size=(1, 2)) * 0.05 * side
    windows[layout.target :, :2] += rng.normal(size=(1, 2)) * JITTER * side
    windows[layout.target :, 2] = min(1.0, side * np.exp(rng.normal() * JITTER))
    windows[:, :2] = np.clip(windows[:, :2], windows[:, 2:] / 2, 1 - windows[:, 2:] / 2)
    return windows


def looked_at(originals: torch.Tensor, grids: torch.Tensor, layout: Layout, rng: Rng, chance: float) -> torch.Tensor:
    """Sampling grids (N, S, S, 2) of the same tasks, some of them through windows. originals: (N, P, P) uint8."""
    chosen = [i for i in range(len(grids) // layout.frames) if rng.random() < chance]
    if not chosen:
        return grids
    size, out = grids.shape[1], grids.clone()
    coarse = F.interpolate(grids.permute(0, 3, 1, 2), size=(COARSE, COARSE), mode="bilinear", align_corners=False)
    labels = sample_labels(originals, coarse.permute(0, 2, 3, 1)).numpy()
    steps = (torch.arange(size) + 0.5) / size - 0.5
    for i in chosen:
        frames = slice(i * layout.frames, (i + 1) * layout.frames)
        windows = windows_of(labels[frames], layout, rng)
        if windows is None:
            continue
        row, column, side = torch.from_numpy(windows).float().T[:, :, None]
        rows, columns = (row + side * steps) * 2 - 1, (column + side * steps) * 2 - 1
        places = torch.stack([columns[:, None].expand(-1, size, -1), rows[:, :, None].expand(-1, -1, size)], -1)
        seen = F.grid_sample(grids[frames].permute(0, 3, 1, 2), places, padding_mode="border", align_corners=False)
        out[frames] = seen.permute(0, 2, 3, 1)
    return out
