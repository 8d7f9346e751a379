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
from rau.volume.orientation import canonical
from rau.volume.volume import Geometry, LabelMap, Structure, Volume

SEED = 777
SIDE = 256  # pixels of a random anatomy
MOST = 12  # structures of a task
LEAST = 30  # pixels of a structure, in both slices of a pair
LEVELS = 0.06  # how far apart their levels are, of the structures' extent


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


@dataclass(frozen=True)
class Scan:
    """A case in canonical orientation. image: 8-bit; labels alike; spacing: mm along the three axes."""

    image: np.ndarray
    labels: np.ndarray
    spacing: tuple[float, ...]
    structures: tuple[Structure, ...]


def slices(data: Path | None = None) -> Iterator[Task]:
    """Real slices of two patients each, cut along every axis at about the same level: hippocampi, CT, prostates.

    What is trained on random anatomies alone (`--sources anatomies`) has seen none of these kinds of pictures, and can
    be judged by them.
    """
    from rau.volume.window import SOFT_TISSUE

    data = data or find_data()
    if data is None:
        return
    rows = (
        ("hippocampus", training_cases("msd_hippocampus", data)[-8:], (0, 1, 2), 1, None),
        ("CT", training_cases("totalsegmentator", data)[:3], (0, 1, 2), 4, SOFT_TISSUE),
        ("prostate", training_cases("msd_prostate", data), (0,), 4, None),
    )
    for number, (name, cases, axes, each, window) in enumerate(rows):
        rng = np.random.default_rng([SEED, number])
        scans = [scan_of(case, window) for case in cases]
        for one, other in zip(scans, [*scans[1:], scans[0]]):
            for axis in axes:
                made = (slice_pair(f"{name} {axis}", one, other, axis, rng) for _ in range(each))
                yield from (task for task in made if task is not None)


def scan_of(case: Case, window: tuple[float, float] | None) -> Scan:
    from rau.volume.window import to_uint8

    image, labels = case.read()
    maps, geometry, orientation = canonical(labels.array, labels.geometry)
    return Scan(orientation.forth(to_uint8(image, window)), maps, geometry.spacing, labels.structures)


def slice_pair(group: str, one: Scan, other: Scan, axis: int, rng: np.random.Generator) -> Task | None:
    """A slice of each, at levels that differ a little; None where they share no structure of `LEAST` pixels."""
    share = rng.uniform(0.15, 0.85)
    levels = []
    for scan, away in ((one, 0.0), (other, LEVELS * rng.normal())):
        shown = np.nonzero((scan.labels > 0).any(tuple(k for k in range(3) if k != axis)))[0]
        levels.append(int(shown[0] + np.clip(share + away, 0, 1) * (shown[-1] - shown[0])))
    maps = [np.take(scan.labels, level, axis) for scan, level in zip((one, other), levels, strict=True)]
    counts = [np.bincount(part.ravel(), minlength=65536) for part in maps]
    common = [int(v) for v in np.nonzero((counts[0] > LEAST) & (counts[1] > LEAST))[0] if v][:MOST]
    if not common:
        return None
    images, labels = [], []
    for scan, level, part in zip((one, other), levels, maps, strict=True):
        rows, columns = (size for k, size in enumerate(scan.spacing) if k != axis)
        grid = Geometry((1, *part.shape), (1.0, rows, columns))
        images.append(Volume(np.take(scan.image, level, axis)[None], grid))
        named = tuple(structure for structure in scan.structures if structure.value in common)
        labels.append(LabelMap(np.where(np.isin(part, common), part, 0)[None], grid, named))
    return Task(group, Reference(images[0], labels[0]), images[1], labels[1])


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
