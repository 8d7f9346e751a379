"""What the estimate of quality is fitted on: pairs that training may see, new random anatomies and phantoms, and pairs
that cannot go well (shifted, mirrored, negative, noisy targets; references of something else).

No evaluation set is read, and no held-out case. The network has seen most of the real cases, where it is too good: so
the validation cases come first, and each real pair is also taken spoilt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from validation_tasks import Task, brains, cut, cut_labels, drawn_task, trunks, volumes

from rau.evaluation.datasets import training_cases
from rau.references.reference import Reference
from rau.training.anatomy import FAMILIES
from rau.training.patient import patient_pair
from rau.volume.volume import Geometry, LabelMap, Volume

SEED = 91_000
FIRST = 40  # of the random anatomies drawn from a pool; those before are the validation tasks' own
PHANTOM = (24, 96, 96)
HEADS = (4, 10, 17, 49, 53, 16)  # structures of the rendered heads: ventricle, thalamus, hippocampus, right ones, stem


@dataclass(frozen=True)
class FitTask:
    """source: what is left out together in the cross-validation. spoilt: how the pair was made bad; "" for as it is."""

    key: str
    source: str
    spoilt: str
    make: Callable[[], Task | None]


def fit_tasks(data: Path | None, each: int) -> Iterator[FitTask]:
    """All tasks; each: pairs of a family of random anatomies. Without the labelled images, the synthetic ones."""
    yield from spoilt_in_turn(anatomy_tasks(each), every=1)
    yield from spoilt_in_turn(phantom_tasks(6), every=2)
    if data is not None:
        yield from spoilt_in_turn(picture_tasks(data), every=2)
        yield from spoilt_in_turn(volume_tasks(data), every=2)


def spoilt_in_turn(tasks: Iterator[FitTask], every: int) -> Iterator[FitTask]:
    """Each task, and after every `every`-th the same one spoilt, in all ways by turns."""
    for number, one in enumerate(tasks):
        yield one
        if number % every == 0:
            way = list(SPOILERS)[(number // every) % len(SPOILERS)]
            make = partial(spoiled, one, way, number)
            yield FitTask(f"{one.key} {way}", one.source, way, make)


def spoiled(one: FitTask, way: str, seed: int) -> Task | None:
    task = one.make()
    return None if task is None else SPOILERS[way](task, np.random.default_rng([SEED, seed]))


def anatomy_tasks(each: int) -> Iterator[FitTask]:
    from rau.training.data import Anatomies

    for number, (_, family) in enumerate(FAMILIES):
        pool: list[Anatomies] = []

        def source(family=family, pool=pool) -> Anatomies:
            if not pool:
                pool.append(Anatomies(SEED, each + 1, family=family))
                pool[0].apart = 0.9
            return pool[0]

        for k in range(each):
            name = f"{family.__module__.rpartition('.')[2]} {family.__name__}"

            def make(k=k, name=name, source=source, number=number) -> Task | None:
                return drawn_task(name, source(), FIRST + 100 * number + k, 8)

            yield FitTask(f"{name} {k}", name, "", make)


def phantom_tasks(count: int) -> Iterator[FitTask]:
    """Synthetic patients of seeds that neither training nor demo use."""
    for seed in range(500, 500 + count):

        def make(seed=seed) -> Task:
            reference, (target, truth) = patient_pair(seed, PHANTOM)
            return Task("phantom", reference, target, truth)

        yield FitTask(f"phantom {seed}", "phantom", "", make)


def listed(source: str, made: Callable[[], Iterator[Task]], count: int) -> Iterator[FitTask]:
    """`count` tasks that come out of one iterator, made when the first is asked for."""
    kept: list[Task] = []

    def make(number: int) -> Task | None:
        if not kept:
            kept.extend(islice(made(), count))
        return kept[number] if number < len(kept) else None

    for number in range(count):
        yield FitTask(f"{source} {number}", source, "", lambda number=number: make(number))


def chained(source: str, name: str, data: Path, places: list[tuple[int, int]]) -> Iterator[FitTask]:
    """Pairs of cases by their places in the list of those for training."""
    cases = training_cases(name, data)
    for one, other in places:
        reference, target = cases[one], cases[other]

        def make(reference=reference, target=target) -> Task:
            return volumes(source, reference, target)

        yield FitTask(f"{source} {reference.name} {target.name}", source, "", make)


def picture_tasks(data: Path) -> Iterator[FitTask]:
    yield from chained("fetal heads", "hc18", data, [(k, (k + 1) % 14) for k in range(4, 14)])
    yield from listed("trunk slices", lambda: trunks(data), 12)
    yield from listed("trunk slices, MR to CT", lambda: across(data), 6)
    yield from listed("brain slices", lambda: brains(data, 10), 10)


def across(data: Path) -> Iterator[Task]:
    """Axial slices of an MR with the CT slices that show most of the same organs, each as the other's reference."""
    cases = training_cases("totalsegmentator", data)
    image, labels = cases[3].read()
    other, maps = cases[0].read()
    shown = [[set(np.unique(one)) - {0} for one in found.array] for found in (labels, maps)]
    agreement = np.array([[len(p & q) / max(3, len(p | q)) for q in shown[1]] for p in shown[0]])
    taken: list[int] = []
    for place in np.argsort(-agreement, axis=None)[:6000]:
        i, j = (int(n) for n in np.unravel_index(int(place), agreement.shape))
        if all(abs(i - k) >= 6 for k in taken):
            taken.append(i)
            common = sorted(shown[0][i] & shown[1][j])[:8]
            if common:
                one = (cut_mr(image, i), cut_labels(labels, i, common))
                two = (cut(other, j), cut_labels(maps, j, common))
                yield Task("across", Reference(*one), *two)
                yield Task("across", Reference(*two), *one)


def cut_mr(image: Volume, index: int) -> Volume:
    from rau.training.sets import eight_bit

    array = eight_bit(image.array)[index : index + 1]
    return Volume(array, Geometry(array.shape), spacing_known=False)


def volume_tasks(data: Path) -> Iterator[FitTask]:
    last = len(training_cases("msd_hippocampus", data)) - 1
    places = [(last - k, last - (k + 1) % 6) for k in range(6)] + [(k, k + 20) for k in (0, 7)]
    yield from chained("hippocampus", "msd_hippocampus", data, places)
    yield from chained("prostate", "msd_prostate", data, [(0, 1), (1, 0)])
    yield from chained("spinal cord", "sct_spinalcord", data, [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2)])
    yield from chained("brain tumour", "pyradiomics_brain", data, [(0, 1), (1, 0)])
    yield from listed("rendered heads", lambda: rendered_heads(data), 6)


def rendered_heads(data: Path) -> Iterator[Task]:
    """Pairs of label maps of heads, coarsened to about 3.5 mm, labels of random brightness (alike in most pairs)."""
    cases = training_cases("synthseg_labelmaps", data)
    rng = np.random.default_rng(SEED)
    for k in range(6):
        one, other = cases[-1 - k % 4], cases[-2 - k % 5]
        levels = rng.uniform(20, 235, 3000)
        if one.name == other.name:
            other = cases[0]
        second = levels if k % 3 else rng.uniform(20, 235, 3000)
        read = [rendered(case.read_labels(), lit, rng) for case, lit in ((one, levels), (other, second))]
        yield Task("rendered heads", Reference(*read[0]), *read[1])


def rendered(labels: LabelMap, levels: np.ndarray, rng: np.random.Generator) -> tuple[Volume, LabelMap]:
    from scipy import ndimage

    step = tuple(max(1, round(3.5 / s)) for s in labels.geometry.spacing)
    grid = labels.geometry
    maps = labels.array[:: step[0], :: step[1], :: step[2]]
    coarse = Geometry(maps.shape, tuple(s * k for s, k in zip(grid.spacing, step)), grid.origin, grid.direction)
    image = np.where(maps > 0, levels[maps.astype(int)], 3.0) + rng.normal(0, 6, maps.shape)
    image = ndimage.gaussian_filter(image, 0.6)
    kept = np.where(np.isin(maps, HEADS), maps, 0).astype(np.uint8)
    structures = tuple(one for one in labels.structures if one.value in HEADS)
    return Volume(image.astype(np.float32), coarse, "MR"), LabelMap(kept, coarse, structures)


def with_target(task: Task, image: np.ndarray, truth: np.ndarray) -> Task:
    target = replace(task.target, array=np.ascontiguousarray(image))
    return replace(task, target=target, truth=replace(task.truth, array=np.ascontiguousarray(truth)))


def shifted(task: Task, rng: np.random.Generator) -> Task:
    """The target's content rolled by 15 to 35 % along rows and columns."""
    shape = task.truth.array.shape
    steps = [int(rng.choice([-1, 1]) * rng.uniform(0.15, 0.35) * n) for n in shape[1:3]]
    return with_target(task, *(np.roll(a, steps, (1, 2)) for a in (task.target.array, task.truth.array)))


def mirrored(task: Task, rng: np.random.Generator) -> Task:
    return with_target(task, task.target.array[:, :, ::-1], task.truth.array[:, :, ::-1])


def negative(task: Task, rng: np.random.Generator) -> Task:
    image = task.target.array
    low, high = image.min(), image.max()
    return with_target(task, (float(low) + float(high) - image).astype(image.dtype), task.truth.array)


def noisy(task: Task, rng: np.random.Generator) -> Task:
    """With noise of 15 to 40 % of the range of brightness."""
    image = task.target.array.astype(np.float32)
    low, high = np.percentile(image, [1, 99])
    spoilt = np.clip(
        image + rng.normal(0, rng.uniform(0.15, 0.4) * (high - low), image.shape), image.min(), image.max()
    )
    return with_target(task, spoilt.astype(task.target.array.dtype), task.truth.array)


def turned(task: Task, rng: np.random.Generator) -> Task:
    """Half a turn in the slice's plane."""
    return with_target(task, task.target.array[:, ::-1, ::-1], task.truth.array[:, ::-1, ::-1])


def stranger(task: Task, rng: np.random.Generator) -> Task:
    """A target that shows none of it: the reference's own image, its blocks of an eighth shuffled; nothing is true."""
    image = task.reference.image.array.copy()
    rows, columns = (max(2, n // 8) for n in image.shape[1:3])
    blocks = [(r, c) for r in range(image.shape[1] // rows) for c in range(image.shape[2] // columns)]
    for here, there in zip(blocks, rng.permutation(blocks)):
        (r, c), (s, d) = np.multiply(here, (rows, columns)), np.multiply(there, (rows, columns))
        image[:, r : r + rows, c : c + columns] = task.reference.image.array[:, s : s + rows, d : d + columns]
    target = replace(task.reference.image, array=image)
    nothing = replace(task.reference.labels, array=np.zeros_like(task.reference.labels.array))
    return replace(task, target=target, truth=nothing)


def misnamed(task: Task, rng: np.random.Generator) -> Task:
    """The reference's labels moved to a wrong place: what is learnt from it is not what is true."""
    maps = task.reference.labels.array
    steps = [int(0.12 * n) for n in maps.shape[1:3]]
    labels = replace(task.reference.labels, array=np.roll(maps, steps, (1, 2)))
    return replace(task, reference=Reference(task.reference.image, labels))


SPOILERS: dict[str, Callable[[Task, np.random.Generator], Task]] = {
    "shifted": shifted,
    "negative": negative,
    "stranger": stranger,
    "mirrored": mirrored,
    "noisy": noisy,
    "misnamed": misnamed,
    "turned": turned,
}
