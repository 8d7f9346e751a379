"""Random anatomies: label maps that nobody has, in families.

A family is drawn with two generators: the *plan* is what all instances of one anatomy share (which organs, where, how
large, how they look), the *own* numbers are those of one instance (one subject). They teach the *use of a reference*.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rau.training.anatomy import abstract, cells, head, projection, trunk, vessels
from rau.training.anatomy.shapes import TISSUE, Anatomy, Rng, Style

__all__ = ["FAMILIES", "FORMAT", "Family", "TISSUE", "Anatomy", "Style", "random_pair"]

FORMAT = 3  # of what the families draw: raise it when they change, so that no old cache is read
Family = Callable[[Rng, Rng, int], Anatomy]
FAMILIES: tuple[tuple[float, Family], ...] = (
    (0.14, abstract.blobs),
    (0.08, abstract.regions),
    (0.05, abstract.layers),
    (0.04, abstract.tubes),
    (0.07, vessels.fundus),
    (0.05, vessels.mesh),
    (0.03, vessels.angiogram),
    (0.06, cells.smear),
    (0.04, cells.tissue_cells),
    (0.12, trunk.abdomen),
    (0.05, trunk.chest),
    (0.06, trunk.heart),
    (0.03, trunk.column),
    (0.09, head.brain),
    (0.04, head.fetus),
    (0.03, head.lumps),
    (0.03, projection.lungs),
    (0.03, projection.bones),
    (0.02, projection.jaw),
)


def random_pair(rng: Rng, size: int, family: Family | None = None) -> tuple[Anatomy, Anatomy]:
    """Two instances of one random anatomy, `size` pixels a side; the same label value is the same structure in both."""
    weights = np.array([weight for weight, _ in FAMILIES])
    chosen = FAMILIES[int(rng.choice(len(FAMILIES), p=weights / weights.sum()))][1]
    plan, one, other = (int(seed) for seed in rng.integers(2**62, size=3))
    draw = family or chosen
    return (
        draw(np.random.default_rng(plan), np.random.default_rng(one), size),
        draw(np.random.default_rng(plan), np.random.default_rng(other), size),
    )
