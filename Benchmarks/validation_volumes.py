"""Fixed volumes to choose settings of volumes by: pairs of sets that may be trained on, rendered brains, patients.

Hippocampi that the training validates on, the two prostates both ways, brains of label maps of which no picture exists
(rendered; eight deep structures), synthetic patients with seeds of their own; some of them moved and turned. Each
variant is a run of `rau segment` with these settings; mean Dice over groups. No evaluation set is read.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import common
import numpy as np
from validation_tasks import Task, volumes

from rau.errors import RauError
from rau.evaluation.datasets import Case, find_data, training_cases
from rau.evaluation.metrics import dice_of_structures, mean, mean_of
from rau.evaluation.tables import Cell, print_table
from rau.pipeline import segment
from rau.references.reference import Reference
from rau.settings import SegmentSettings
from rau.volume.orientation import canonical
from rau.volume.volume import Geometry, LabelMap, Volume

DEEP = ("hippocampus", "thalamus", "caudate", "putamen")
MOVED = (0.12, 30.0)  # of the slice's sides, and degrees


def tasks(quick: bool) -> Iterator[Task]:
    data = find_data()
    if data is not None:
        heads = training_cases("msd_hippocampus", data)[-6:]
        pairs = [volumes("hippocampus", one, other) for one, other in zip(heads, heads[1:])]
        if quick:
            yield pairs[0]
            return
        yield from pairs
        yield moved(pairs[0])
        one, other = training_cases("msd_prostate", data)
        yield volumes("prostate", one, other)
        yield volumes("prostate", other, one)
        maps = training_cases("synthseg_labelmaps", data)[-3:]
        yield brains(maps[0], maps[1], 1)
        yield brains(maps[2], maps[1], 2)
    yield from patients(1 if quick else 2)


def patients(count: int) -> Iterator[Task]:
    from rau.training.patient import patient_pair

    for seed in range(300, 300 + count):
        reference, target = patient_pair(seed)
        yield Task("patients", reference, *target)


def moved(task: Task) -> Task:
    """The same pair, the target turned and moved in its slices."""
    from scipy import ndimage

    share, angle = MOVED

    def away(array: np.ndarray, order: int) -> np.ndarray:
        steps = (0, share * array.shape[1], -share * array.shape[2])
        turned = ndimage.rotate(array.astype(np.float32), angle, (1, 2), reshape=False, order=order)
        return np.asarray(ndimage.shift(turned, steps, order=order)).round().astype(array.dtype)

    image, truth = task.target, task.truth
    there = Volume(away(image.array, 1), image.geometry, image.modality, spacing_known=image.spacing_known)
    return Task("moved", task.reference, there, LabelMap(away(truth.array, 0), truth.geometry, truth.structures))


def brains(reference: Case, target: Case, seed: int) -> Task:
    """Two heads at half their resolution, rendered with about the same contrast."""
    rng = np.random.default_rng(seed)
    brightness = rng.uniform(30, 220, 2**16)
    brightness[0] = 5
    one, two = (rendered(case, brightness + rng.normal(0, 8, 2**16), rng) for case in (reference, target))
    return Task("brains", Reference(*one), *two)


def rendered(case: Case, brightness: np.ndarray, rng: np.random.Generator) -> tuple[Volume, LabelMap]:
    from scipy import ndimage

    labels = case.read_labels()
    maps, geometry, _ = canonical(labels.array, labels.geometry)
    maps = maps[::2, ::2, ::2]
    grid = Geometry(maps.shape, tuple(2 * s for s in geometry.spacing))
    image = ndimage.gaussian_filter(brightness[maps] + rng.normal(0, 8, maps.shape), 0.6)
    kept = tuple(one for one in labels.structures if any(word in one.name for word in DEEP))
    shown = np.where(np.isin(maps, [one.value for one in kept]), maps, 0).astype(np.uint16)
    return Volume(np.clip(image, 0, 255).astype(np.uint8), grid, "MR"), LabelMap(shown, grid, kept)


def settings_of(text: str, base: SegmentSettings) -> SegmentSettings:
    """ "region=off,neighbours=2" as settings; nothing: as they are."""
    changed = dict(part.split("=", 1) for part in text.split(",") if part)
    return SegmentSettings.model_validate({**base.model_dump(), "quality": "off", **changed})


def main() -> int:
    parser = common.options(__doc__)
    parser.add_argument("--variants", default=";region=off;neighbours=1", help="settings that differ, by ;")
    arguments = parser.parse_args()
    variants = arguments.variants.split(";")
    found: dict[str, dict[str, list[float | None]]] = {one: {} for one in variants}
    seconds = dict.fromkeys(variants, 0.0)
    try:
        engine, base = common.engine_for(arguments)
        for task in tasks(arguments.quick):
            told = []
            for one in variants:
                start = time.process_time()
                result = segment([task.reference], task.target, settings_of(one, base), engine=engine)
                seconds[one] += time.process_time() - start
                dice = dice_of_structures(task.truth, result.labels, task.reference.labels.structures)
                found[one].setdefault(task.group, []).append(mean_of(dice))
                told.append(f"{one or 'default'} {common.number(found[one][task.group][-1])}")
            common.say(f"  {task.group}: {'; '.join(told)}")
    except RauError as problem:
        return common.stop(problem)
    groups = list(found[variants[0]])
    rows: list[list[Cell]] = []
    for one in variants:
        dice = [mean(found[one][group]) or 0.0 for group in groups]
        rows.append([one or "default", *dice, float(np.mean(dice)), seconds[one]])
    print_table("Volumes for validation", ["settings", *groups, "mean Dice", "processor seconds"], rows)
    means = {str(row[0]): float(row[-2] or 0) for row in rows}
    common.write_json(arguments.json, {"means": means, "found": found})
    best = max(means, key=lambda name: means[name])
    common.say(f"best of {len(rows)}: {best} {means[best]:.3f}, the first ({rows[0][0]}) {float(rows[0][-2] or 0):.3f}")
    return int(arguments.check and means[best] > float(rows[0][-2] or 0) + 0.01)


if __name__ == "__main__":
    sys.exit(main())
