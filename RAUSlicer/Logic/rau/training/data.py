"""Where training slices come from: random anatomies, and the labelled sets that may be used for training.

A `Source` draws one *task*: F frames of P x P pixels (references first, then the target, then its neighbour) with label
maps and, where the picture is real, images. `rau.training.batch` turns tasks into what the network reads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import numpy as np

from rau.training.anatomy import FORMAT, TISSUE, Family, Style, random_pair
from rau.vlm.routing import UNKNOWN

RAW = 208  # P, pixels of a drawn frame
RENDERED = {
    Style.STAIN: "microscopy",
    Style.FUNDUS: "fundus photography",
    Style.XRAY: "X-ray",
    Style.ULTRASOUND: "ultrasound",
    Style.GLOW: "angiography",
}  # modalities that random anatomies are rendered as; plain ones look like none
Rng = np.random.Generator


@dataclass(frozen=True)
class Layout:
    """What the frames of a task are: `references` reference slices, one target, `neighbours` target neighbours."""

    references: int = 1
    neighbours: int = 0

    @property
    def frames(self) -> int:
        return self.references + 1 + self.neighbours

    @property
    def target(self) -> int:
        return self.references


@dataclass(frozen=True)
class Task:
    """labels: (F, P, P) uint8; images: (F, P, P) float32 in 0 to 1, or None (to be rendered from the labels).

    subjects: for each frame whose anatomy it is (frames of one subject deform alike). amount: how strongly subjects are
    deformed, 1 where both are the same original. wander: extra deformation of each frame, for levels that differ.
    relief: (F, P, P) float32, materials: (256,), style: as in `rau.training.anatomy.Anatomy`. names: of the label
    values, "" where there is none; empty: none has. modality: of `rau.vlm.routing.MODALITIES`.
    """

    labels: np.ndarray
    images: np.ndarray | None
    subjects: tuple[int, ...]
    amount: float
    wander: float
    relief: np.ndarray | None = None
    materials: np.ndarray | None = None
    style: Style = Style.PLAIN
    names: tuple[str, ...] = ()
    modality: str = UNKNOWN


class Source(Protocol):
    removal: float

    def draw(self, rng: Rng, layout: Layout) -> Task: ...


def subjects_of(rng: Rng, layout: Layout, several: float) -> tuple[int, ...]:
    """Subject 0 is the reference's, 1 the target's; with chance `several` each further reference is another patient."""
    apart = rng.random() < several
    references = [i + 1 if apart and i else 0 for i in range(layout.references)]
    return (*references, *([layout.references] * (1 + layout.neighbours)))


def remove_one(rng: Rng, labels: np.ndarray, layout: Layout) -> None:
    """Take one structure out of the target (and its neighbours), in place: its place goes to what surrounds it."""
    target = labels[layout.target]
    values = [v for v in np.unique(labels[: layout.references]) if 0 < v < TISSUE]
    if len(values) < 3:
        return
    value = rng.choice(values)
    rows, columns = np.nonzero(target == value)
    if not len(rows):
        return
    around = target[max(0, rows.min() - 3) : rows.max() + 4, max(0, columns.min() - 3) : columns.max() + 4]
    counts = np.bincount(around[around != value], minlength=256)
    if counts.any():
        later = labels[layout.target :]
        later[later == value] = counts.argmax()


PAIR = np.dtype(
    [("labels", "u1", (2, RAW, RAW)), ("relief", "i1", (2, RAW, RAW)), ("materials", "u1", (256,)), ("style", "u1")]
)  # two instances of an anatomy in the pool; relief in 1/127


def anatomy_pair(rng: Rng, family: Family | None = None) -> np.ndarray:
    """One `PAIR` of a random family, or of this one."""
    pair, record = random_pair(rng, RAW, family), np.zeros((), PAIR)
    for k, one in enumerate(pair):
        record["labels"][k], record["relief"][k] = one.labels, np.round(one.relief * 127)
    record["materials"], record["style"] = pair[0].materials, pair[0].style
    return record


def numbered_pair(seed: int, family: Family | None, number: int) -> np.ndarray:
    """The pair of this number in the pool of `seed`, whoever draws it."""
    return anatomy_pair(np.random.default_rng([seed, number]), family)


def drawn_pool(seed: int, count: int, family: Family | None = None, workers: int = 0) -> np.ndarray:
    """(count,) `PAIR`. workers: 0: one generator draws all; else each pair has its own seed, whoever draws it."""
    if not workers:
        rng = np.random.default_rng(seed)
        return np.stack([anatomy_pair(rng, family) for _ in range(count)])
    draw = partial(numbered_pair, seed, family)
    with get_context("fork").Pool(workers) as pool:
        return np.stack(pool.map(draw, range(count), chunksize=16))


class Anatomies:
    """A pool of random anatomies, two instances of each; every use is a new pair of subjects."""

    removal = 0.3  # chance that the target lacks a structure of the reference
    apart = 0.75  # chance that reference and target are two instances, not one deformed twice

    def __init__(
        self, seed: int, count: int = 1200, cache: Path | None = None, family: Family | None = None, workers: int = 0
    ) -> None:
        """cache: folder in which the pool is kept. workers: of `drawn_pool`."""
        name = f"anatomies-f{FORMAT}-{seed}-{count}{'-apart' if workers else ''}.npy"
        path = cache / name if cache else None
        if path and path.exists():
            self.pool = np.load(path, mmap_mode="r", allow_pickle=False)
            return
        self.pool = drawn_pool(seed, count, family, workers)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.npy")  # other runs may draw the same pool just now
            np.save(part, self.pool)
            os.replace(part, path)

    def draw(self, rng: Rng, layout: Layout) -> Task:
        record = self.pool[rng.integers(len(self.pool))]
        first, apart = int(rng.integers(2)), rng.random() < self.apart
        which = [first] * layout.references + [1 - first if apart else first] * (layout.frames - layout.references)
        relief = record["relief"][which].astype(np.float32) / 127
        stacked = turn(rng, np.stack([record["labels"][which].astype(np.float32), relief], 1).reshape(-1, RAW, RAW))
        labels = stacked[0::2].astype(np.uint8)
        if rng.random() < self.removal:
            remove_one(rng, labels, layout)
        amount = float(rng.uniform(0.0, 0.5) if apart else rng.uniform(0.4, 1.1))
        relief = np.ascontiguousarray(stacked[1::2])
        style = Style(int(record["style"]))
        subjects = subjects_of(rng, layout, 0.5)
        shown = RENDERED.get(style, UNKNOWN)
        return Task(labels, None, subjects, amount, 0.12, relief, np.array(record["materials"]), style, modality=shown)


def turn(rng: Rng, frames: np.ndarray) -> np.ndarray:
    """The same flips and quarter turns for all frames (F, P, P): the task stays consistent."""
    if rng.random() < 0.5:
        frames = frames[:, :, ::-1]
    if rng.random() < 0.3:
        frames = frames[:, ::-1]
    return np.rot90(frames, int(rng.integers(4)), (1, 2)) if rng.random() < 0.3 else frames


@dataclass(frozen=True)
class Patient:
    """labels: (Z, Y, X) uint8 in LPS order with unlabelled tissue from TISSUE on; image: uint8 alike, or None.

    names: of the label values, "" for none. modality: of the image.
    """

    labels: np.ndarray
    image: np.ndarray | None
    spacing: tuple[float, float, float]
    extents: tuple[tuple[int, int], ...]  # along each axis, first and last index with a structure
    names: tuple[str, ...] = ()
    modality: str = UNKNOWN


def tissue_classes(image: np.ndarray, labels: np.ndarray, bins: int = 5) -> np.ndarray:
    """labels with the unlabelled voxels split into `bins` classes of brightness (after light smoothing)."""
    from scipy import ndimage

    smoothed = ndimage.gaussian_filter(image.astype(np.float32), 1.0)
    edges = np.quantile(
        smoothed[::3, ::3, ::3] if min(image.shape) > 9 else smoothed, np.linspace(0, 1, bins + 1)[1:-1]
    )
    return np.where(labels > 0, labels, TISSUE + np.digitize(smoothed, edges)).astype(np.uint8)


def as_patient(
    image: np.ndarray | None,
    labels: np.ndarray,
    spacing: Sequence[float],
    landmarks: Sequence[int] = (),
    names: Mapping[int, str] | None = None,
    modality: str = UNKNOWN,
) -> Patient:
    """image: uint8 (Z, Y, X) or None; labels: integers, renumbered below TISSUE.

    landmarks: label values whose extents make the levels of two patients comparable; empty: all. names: of the values.
    modality: of the image, of `rau.vlm.routing.MODALITIES`.
    """
    values = np.unique(labels)
    compact = (
        np.searchsorted(values, labels).astype(np.uint8)
        if values[0] == 0
        else np.searchsorted(np.r_[0, values], labels)
    )
    found = np.nonzero(np.isin(labels, landmarks) if landmarks else compact)
    extents = tuple((int(axis.min()), int(axis.max())) for axis in found)
    compact = compact.astype(np.uint8)
    if image is not None:
        compact = tissue_classes(image, compact)
    kept = [int(v) for v in values if v] if names else []
    called = ("", *((names or {}).get(v, "") for v in kept)) if kept else ()
    return Patient(compact, image, (spacing[0], spacing[1], spacing[2]), extents, called, modality)


def square(frames: np.ndarray, spacing: tuple[float, float], nearest: bool) -> np.ndarray:
    """(F, rows, columns) to (F, RAW, RAW), true proportions, padded with 0: as `rau.sam.pixels` does at use."""
    import torch
    import torch.nn.functional as F

    height, width = frames.shape[1] * spacing[0], frames.shape[2] * spacing[1]
    side = max(height, width)
    h, w = max(1, round(RAW * height / side)), max(1, round(RAW * width / side))
    x = torch.from_numpy(np.ascontiguousarray(frames)).float()[:, None]
    if nearest:
        x = F.interpolate(x, size=(h, w), mode="nearest-exact")
    else:
        x = F.interpolate(x, size=(h, w), mode="bilinear", align_corners=False, antialias=h < x.shape[2])
    top, left = (RAW - h) // 2, (RAW - w) // 2
    return F.pad(x, (left, RAW - left - w, top, RAW - top - h))[:, 0].numpy()


class Patients:
    """One labelled set: tasks between slices of its patients.

    planes: array axes that slices may be cut across. real: chance of the real pictures (where there are any).
    same: chance that reference and target are the same patient, deformed apart (1 where patients are few).
    """

    def __init__(
        self, patients: Sequence[Patient], planes: Sequence[int] = (0, 1, 2), real: float = 0.7, same: float = 0.2
    ) -> None:
        self.patients, self.planes, self.real, self.same = list(patients), tuple(planes), real, same
        self.removal = 0.25

    def _levels(self, rng: Rng, patient: Patient, axis: int, middle: float, n: int) -> list[int]:
        first, last = patient.extents[axis]
        step = max(1.0, (last - first) * float(rng.uniform(0.01, 0.05)))
        offsets = [0.0, *(np.repeat([1, 2, 3], 2) * np.tile([1, -1], 3) * step)][:n]
        levels = first + middle * (last - first) + np.array(offsets)
        return [int(v) for v in np.clip(np.round(levels), 0, patient.labels.shape[axis] - 1)]

    def draw(self, rng: Rng, layout: Layout) -> Task:
        same = len(self.patients) == 1 or rng.random() < self.same
        a, b = (int(v) for v in rng.choice(len(self.patients), 2, replace=same))
        b = a if same else b
        axis = int(rng.choice(self.planes))
        middle = float(rng.uniform(-0.03, 1.03))
        spread = 0.35 if rng.random() < 0.12 else 0.04
        aim = float(np.clip(middle + rng.normal() * spread, -0.1, 1.1))
        cuts = [
            (self.patients[a], level) for level in self._levels(rng, self.patients[a], axis, middle, layout.references)
        ]
        cuts += [
            (self.patients[b], level) for level in self._levels(rng, self.patients[b], axis, aim, 1 + layout.neighbours)
        ]
        real = self.patients[a].image is not None and rng.random() < self.real
        frames = []
        for patient, level in cuts:
            spacing = tuple(np.delete(patient.spacing, axis))
            labels = square(np.take(patient.labels, level, axis)[None], spacing, True)
            image = patient.image
            picture = (
                square(np.take(image, level, axis)[None], spacing, False) / 255
                if real and image is not None
                else labels
            )
            frames.append(np.concatenate([labels, picture]))
        stacked = turn(rng, np.concatenate(frames))
        labels = np.ascontiguousarray(stacked[0::2]).astype(np.uint8)
        images = np.ascontiguousarray(stacked[1::2]) if real else None
        if not real and rng.random() < self.removal:
            remove_one(rng, labels, layout)
        amount = float(rng.uniform(0.7, 1.2)) if same else float(rng.uniform(0.0, 0.45))
        modality = self.patients[b].modality if real else UNKNOWN
        subjects, names = subjects_of(rng, layout, 0.0), self.patients[a].names
        return Task(labels, images, subjects, amount, 0.08, names=names, modality=modality)


@dataclass
class Mixture:
    """Sources with weights."""

    sources: tuple[tuple[str, float, Source], ...]

    def draw(self, rng: Rng, layout: Layout) -> Task:
        weights = np.array([weight for _, weight, _ in self.sources])
        return self.sources[int(rng.choice(len(weights), p=weights / weights.sum()))][2].draw(rng, layout)

    @property
    def removal(self) -> float:
        """Chance that a rendered target lacks a structure of the reference; set it for all sources at once."""
        return float(np.mean([source.removal for _, _, source in self.sources]))

    @removal.setter
    def removal(self, chance: float) -> None:
        for _, _, source in self.sources:
            source.removal = chance
