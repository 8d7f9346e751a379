"""How much references look like a target before anything is segmented: the panel's match score.

The score is the search's own (`rau.bank.search`): mean cosine of the encoder's descriptors over the target's slices,
each with the reference's slice that it is aligned with, in monotone order.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rau.volume.orientation import canonical_geometry, orientation_of
from rau.volume.volume import Geometry, Volume
from rau.worker import protocol
from rau.worker.arrays import open_image

if TYPE_CHECKING:
    from rau.models.engine import Engine

PLANES = ("axial", "coronal", "sagittal")  # by the canonical axis across which the slices lie
OBLIQUE = 0.95  # cosine to the nearest axis of the body below which a plane is called oblique


def matched(folder: Path, request: protocol.Match, engine: Engine, tell: Callable[[str], None]) -> dict[str, Any]:
    """The answer to a `match`. Raises InputError: an image that nothing can be done with, a bank that is none."""
    target = open_image(folder, request.target)
    images = [open_image(folder, one) for one in request.references]
    told: dict[str, Any] = {"references": similarities(target, images, engine), "bank": []}
    if request.bank:
        from rau.bank.bank import Bank
        from rau.bank.search import rank

        bank = Bank.open(request.bank)
        found = rank(bank, target, engine, request.settings, most=len(bank.entries(lambda _: None)), tell=tell)
        told["bank"] = [
            {"id": one.entry.id, "similarity": _rounded(one.similarity), "doubts": list(one.doubts)} for one in found
        ]
    return told


def similarities(target: Volume, images: list[Volume], engine: Engine) -> list[float | None]:
    """0 to 1 for each image; None for one of another dimension, and for all when the model has no encoder."""
    from rau.bank.descriptors import encoder_key, volume_descriptors
    from rau.preparation import slice_axis
    from rau.references.retrieval import align, cosines

    if not images or not encoder_key(engine):
        return [None] * len(images)
    grid = _canonical(target.geometry)
    axis = slice_axis(grid)
    described = volume_descriptors(engine, target, axis)
    found: list[float | None] = []
    for image in images:
        if (min(image.geometry.shape) == 1) != (min(target.geometry.shape) == 1):
            found.append(None)
            continue
        step = grid.spacing[axis] / _canonical(image.geometry).spacing[axis]
        found.append(_rounded(align(cosines(described, volume_descriptors(engine, image, axis)), step).mean))
    return found


def plane_of(geometry: Geometry) -> str:
    """The plane in which the slices of an image lie: axial, coronal, sagittal or oblique."""
    from rau.preparation import slice_axis

    grid = _canonical(geometry)
    axis = slice_axis(grid)
    normal = np.abs(np.asarray(grid.direction)[:, axis])
    return PLANES[axis] if normal.max() >= OBLIQUE else "oblique"


def _canonical(geometry: Geometry) -> Geometry:
    return canonical_geometry(geometry, orientation_of(geometry))


def _rounded(similarity: float | None) -> float | None:
    return None if similarity is None else round(min(1.0, max(0.0, float(similarity))), 4)
