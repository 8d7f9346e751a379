"""A tiny VLM, and pictures and masks of its size, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rau.vlm.build import VlmShape

TINY = VlmShape(96, 12, 2, 64, 2, 2, 96, (32, 2, 2, 64), 48, (1,))
SIDE = TINY.picture


def lively(loaded: Any) -> Any:
    """A new reasoner whose boxes move: a random head copies the reference's box."""
    with torch.no_grad():
        loaded.reasoner.heads.box[-1].weight.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    loaded.reasoner.eval().requires_grad_(False)
    return loaded


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)


def square(row: int, column: int, size: int = 20) -> np.ndarray:
    """A mask of `size` pixels a side."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[row : row + size, column : column + size] = True
    return mask


def masks_of(names: Sequence[str], step: tuple[int, int]) -> dict[str, np.ndarray]:
    """A mask for each name, every one `step` rows and columns further."""
    made = {}
    for k, name in enumerate(names):
        made[name] = np.zeros((SIDE, SIDE), bool)
        made[name][5 + step[0] * k : 25 + step[0] * k, 10 + step[1] * k : 50] = True
    return made
