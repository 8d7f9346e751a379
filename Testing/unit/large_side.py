"""A large reasoner's base at a size that a test can carry, what is asked of it, and the awakening of what trains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from rau.vlm import untrained
from rau.vlm.dialogue import Dialogue, encode
from rau.vlm.large import LargeSettings
from rau.vlm.prompts import segment_answer
from rau.vlm.untrained import PLAIN, SMALL, SPECIAL

SIDE, HIDDEN, SPARE = 112, SMALL.hidden, SMALL.spare
NAMES = ("liver", "left kidney")
__all__ = ["HIDDEN", "NAMES", "PLAIN", "SIDE", "SPARE", "SPECIAL"]


def write_base(folder, tied=False, spare=SPARE):
    return untrained.write_base(folder, replace(SMALL, spare=spare), tied)


def settings_of(folder, **more):
    return LargeSettings(str(folder), picture=SIDE, device="cpu", **more)


def dialogue(names=NAMES, asked="Segment each structure in the target.", answer=""):
    rng = np.random.default_rng(5)
    images = tuple(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(3))
    return Dialogue(names, asked, images, segment_answer(names) if answer == "" else answer)


def reading_of(loaded):
    with torch.inference_mode():
        return loaded.reasoner.read(encode(loaded.processor, [dialogue()]).inputs)


def wake(loaded, seed=1):
    """Give everything that trains other values than it began with."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in loaded.reasoner.parameters():
            if value.requires_grad:
                value.add_(0.05 * torch.randn_like(value))
