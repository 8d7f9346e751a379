"""`python -m rau.samples FOLDER`: the two synthetic patients of `rau demo`, as arrays, for the panel to try.

Needs numpy and scipy alone, which Slicer's own Python has: before the worker's environment is set up as well.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rau.volume.volume import Geometry, LabelMap

SHAPE = (48, 128, 128)  # of `rau demo`: slice, row, column


def write(folder: Path, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> None:
    """reference.npy, target.npy: int16 HU (S, R, C) on one grid. labels.npy: uint8, of the reference. sample.json, the
    last: {"modality", "geometry", "structures"}, as in the worker's messages. The folder must be there.
    """
    from rau.training.patient import patient_pair

    reference, (target, _truth) = patient_pair(seed, shape)
    arrays = {"reference": reference.image.array, "labels": reference.labels.array, "target": target.array}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    told = {
        "modality": target.modality,
        "geometry": _geometry(target.geometry),
        "structures": _structures(reference.labels),
    }
    (folder / "sample.json").write_text(json.dumps(told), encoding="utf-8")


def _geometry(geometry: Geometry) -> dict[str, Any]:
    return {
        "shape": [int(n) for n in geometry.shape],
        "spacing": [float(s) for s in geometry.spacing],
        "origin": [float(x) for x in geometry.origin],
        "direction": np.asarray(geometry.direction, float).tolist(),
    }


def _structures(labels: LabelMap) -> list[dict[str, Any]]:
    return [
        {"value": one.value, "name": one.name, "color": list(one.color), "terminology": one.terminology}
        for one in labels.structures
    ]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
