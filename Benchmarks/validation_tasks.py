"""Fixed tasks to choose by: pairs of the sets that may be trained on (no held-out case) and of random anatomies.

What is tuned by hand or fitted (the gate of the adaptation, settings of the expert) is tuned on these, never on the
evaluation sets. The network has seen the cases of the sets in training; the random anatomies have seeds of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rau.evaluation.datasets import Case, find_data, training_cases
from rau.references.reference import Reference
from rau.training.anatomy import FAMILIES
from rau.training.data import Source
from rau.volume.volume import Geometry, LabelMap, Structure, Volume

SEED = 777
SIDE = 256  # pixels of a random anatomy
MOST = 12  # structures of a task


@dataclass(frozen=True)
class Task:
    """One reference, one target with its truth. group: tasks of a kind, averaged first."""

    group: str
    reference: Reference
    target: Volume
    truth: LabelMap


def tasks(data: Path | None = None, quick: bool = False) -> Iterator[Task]:
    """All tasks, or one of each group. Random anatomies alone where the labelled images are not here."""
    seen: set[str] = set()
    for one in (*anatomies(1 if quick else 3), *real(data or find_data())):
        if not (quick and one.group in seen):
            seen.add(one.group)
            yield one


def anatomies(each: int) -> Iterator[Task]:
    """`each` pairs of every family of random anatomies, drawn as training draws them, with other seeds."""
    from rau.training.data import Anatomies

    for _, family in FAMILIES:
        source = Anatomies(SEED, each + 1, family=family)
        source.removal, source.apart = 0.0, 1.0
        for number in range(each):
            task = drawn_task(family.__name__, source, number, 8)
            if task is not None:
                yield task


def drawn_task(group: str, source: Source, number: int, structures: int) -> Task | None:
    """A task as training draws them."""
    from rau.training.batch import make_batch
    from rau.training.data import Layout

    batch = make_batch(source, (SEED, number), Layout(1, 0), 1, structures, SIDE, 0.8)
    maps = np.zeros((2, SIDE, SIDE), np.uint16)
    for k in np.argsort(-batch.masks[:, 0].flatten(1).sum(1).numpy()):
        maps[batch.masks[k, :, 0].numpy() > 0] = k + 1
    return picture_task(group, (batch.images[0] * 255).numpy().astype(np.uint8), maps)


def picture_task(group: str, pictures: np.ndarray, maps: np.ndarray) -> Task | None:
    """pictures: (2, 3, S, S), reference and target; maps: (2, S, S). None where the reference shows nothing."""
    grey = np.ptp(pictures.astype(int), axis=1).max() < 3
    arrays = pictures[:, 0][:, None] if grey else np.moveaxis(pictures, 1, -1)[:, None]
    geometry = Geometry((1, *maps.shape[1:]))
    values = [int(v) for v in np.unique(maps[0]) if v]
    if not values:
        return None
    structures = tuple(Structure(v, f"structure {v}") for v in values)
    images = [Volume(array, geometry, spacing_known=False) for array in arrays]
    labels = [LabelMap(np.where(np.isin(one, values), one, 0)[None], geometry, structures) for one in maps]
    return Task(group, Reference(images[0], labels[0]), images[1], labels[1])


def real(data: Path | None) -> Iterator[Task]:
    """Pairs of real images, of cases that training may see; none without the labelled images."""
    if data is None:
        return
    heads = training_cases("hc18", data)
    for one, other in zip(heads, heads[1:]):
        yield volumes("hc18", one, other)
    hippocampi = training_cases("msd_hippocampus", data)[-6:]
    for one, other in zip(hippocampi, hippocampi[1:]):
        yield volumes("hippocampus", one, other)
    glands = training_cases("msd_prostate", data)
    yield volumes("prostate", glands[0], glands[1])
    yield volumes("prostate", glands[1], glands[0])
    yield from trunks(data)
    yield from brains(data)


def volumes(group: str, reference: Case, target: Case) -> Task:
    image, truth = target.read()
    return Task(group, Reference(*reference.read()), image, truth)


def trunks(data: Path, each: int = 3, apart: int = 12) -> Iterator[Task]:
    """Axial CT slices of two patients that share most organs: `each` of every two of the three patients."""
    read = [case.read() for case in training_cases("totalsegmentator", data)[:3]]
    for a, (image, labels) in enumerate(read):
        for b, (other, maps) in enumerate(read):
            if a != b:
                shown = [[set(np.unique(one)) - {0} for one in found.array] for found in (labels, maps)]
                agreement = np.array([[len(p & q) / max(3, len(p | q)) for q in shown[1]] for p in shown[0]])
                taken: list[int] = []
                for place in np.argsort(-agreement, axis=None)[:4000]:
                    i, j = np.unravel_index(int(place), agreement.shape)
                    if len(taken) < each and all(abs(int(j) - k) >= apart for k in taken):
                        taken.append(int(j))
                        common = sorted(shown[0][i] & shown[1][j])[:MOST]
                        reference = Reference(cut(image, int(i)), cut_labels(labels, int(i), common))
                        yield Task("trunk", reference, cut(other, int(j)), cut_labels(maps, int(j), common))


def cut(image: Volume, index: int) -> Volume:
    """One slice of a CT in the soft tissue window, as a picture."""
    from rau.volume.window import SOFT_TISSUE, to_uint8

    array = to_uint8(image, SOFT_TISSUE)[index : index + 1]
    return Volume(array, Geometry(array.shape), spacing_known=False)


def cut_labels(labels: LabelMap, index: int, values: list[int]) -> LabelMap:
    array = labels.array[index : index + 1]
    array = np.where(np.isin(array, values), array, 0)
    return LabelMap(array, Geometry(array.shape), tuple(one for one in labels.structures if one.value in values))


def brains(data: Path, count: int = 6) -> Iterator[Task]:
    """Slices of the two heads that validate the training, rendered."""
    from rau.training.data import Patients
    from rau.training.sets import LANDMARKS, cases_of, read_patient

    name = "synthseg_labelmaps"
    heads = [read_patient(case, LANDMARKS[name]) for case in cases_of(data, name)[1]]
    source = Patients(heads, (0, 1, 2), 0.0, 0.0)
    source.removal = 0.0
    for number in range(count):
        task = drawn_task("brain slices", source, number, MOST)
        if task is not None:
            yield task
