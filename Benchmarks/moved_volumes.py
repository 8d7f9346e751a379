"""Is a volume found that lies elsewhere? Laid labels of pairs of training cases, the target moved and turned.

Dice of the registered reference's labels and the target's, as it is and in three other positions, by the search from
centre on centre alone and by `rau.references.registration.register` as it is. Registration only; no network, no set
that is for evaluation.
"""

from __future__ import annotations

import sys
from unittest.mock import patch

import common
import numpy as np
from scipy import ndimage
from validation_tasks import Task, volumes

from rau.evaluation.datasets import find_data, training_cases
from rau.evaluation.metrics import dice
from rau.evaluation.tables import Cell, print_table
from rau.references import registration
from rau.volume.orientation import canonical
from rau.volume.window import to_uint8

POSITIONS = ((0.0, 0.0), (0.0, 0.2), (30.0, 0.0), (-35.0, 0.12))  # degrees in the slices, share of their sides
SEEN = 50  # voxels of a structure, at least
GAIN, LOSS = 0.05, 0.01  # mean Dice: at least to gain where moved, at most to lose in place


def pairs(quick: bool) -> list[Task]:
    data = find_data()
    if data is None:
        return []
    heads = training_cases("msd_hippocampus", data)[-6:]
    found = [volumes("hippocampus", one, other) for one, other in list(zip(heads, heads[1:]))[: 1 if quick else 3]]
    if not quick:
        one, other = training_cases("msd_prostate", data)
        found += [volumes("prostate", one, other), volumes("prostate", other, one)]
    return found


def moved(array: np.ndarray, angle: float, share: float, order: int) -> np.ndarray:
    """(S, R, C) turned and moved in its slices, of the same type."""
    found = array.astype(np.float32)
    if angle:
        found = ndimage.rotate(found, angle, (1, 2), reshape=False, order=order)
    if share:
        found = ndimage.shift(found, (0, share * array.shape[1], -share * array.shape[2]), order=order)
    return np.asarray(found).round().clip(0, np.iinfo(array.dtype).max).astype(array.dtype)


def scores(task: Task, angle: float, share: float) -> tuple[float, float]:
    """Mean Dice of the structures, by the search from centre on centre and as it is."""
    image, grid, turned = canonical(to_uint8(task.reference.image), task.reference.image.geometry)
    target, place, back = canonical(to_uint8(task.target), task.target.geometry)
    labels, truth = turned.forth(task.reference.labels.array), back.forth(task.truth.array)
    target, truth = moved(target, angle, share, 1), moved(truth, angle, share, 0)
    values = [int(v) for v in np.unique(truth) if v and (truth == v).sum() >= SEEN]

    def laid() -> float:
        found = registration.register(target, place.spacing, image, labels, grid.spacing).labels
        return float(np.mean([dice(found == v, truth == v) or 0.0 for v in values]))

    with patch.object(registration, "elsewhere", lambda fixed, moving, start, affine: affine):
        plain = laid()
    return plain, laid()


def main() -> int:
    arguments = common.options(__doc__).parse_args()
    rows: list[list[Cell]] = []
    figures: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for task in pairs(arguments.quick):
        for angle, share in POSITIONS:
            found = scores(task, angle, share)
            figures[bool(angle or share)].append(found)
            rows.append([task.group, angle, share, *found])
    if not rows:
        common.say("the labelled images are not here: set RAU_DATA to their folder")
        return 1
    print_table("Laid labels", ["pair", "degrees", "moved", "from the centre", "as it is"], rows)
    means = {kind: np.mean(some, 0) for kind, some in figures.items()}
    common.write_json(arguments.json, {"moved": means[True].tolist(), "in place": means[False].tolist()})
    gain, lost = means[True][1] - means[True][0], means[False][0] - means[False][1]
    common.say(
        f"moved or turned: {means[True][0]:.3f} -> {means[True][1]:.3f}; "
        f"in place: {means[False][0]:.3f} -> {means[False][1]:.3f}"
    )
    return int(arguments.check and not arguments.quick and not (gain >= GAIN and lost <= LOSS))


if __name__ == "__main__":
    sys.exit(main())
