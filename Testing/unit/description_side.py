"""The facts of a scene once more, by brute force: one voxel, one corner, one pair at a time; and scenes to try."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import strategies as st
from scipy.spatial import ConvexHull
from scipy.spatial.distance import cdist

from builders import rotation, signed_permutation
from rau.volume.volume import Geometry, LabelMap, Structure, Volume

NAMES = {1: "liver", 2: "spleen", 3: "kidney"}
AXES = ("left-right", "anterior-posterior", "inferior-superior")
WORDS = (("right", "left"), ("anterior", "posterior"), ("inferior", "superior"))

straight = st.builds(
    signed_permutation, st.permutations((0, 1, 2)).map(tuple), st.tuples(*[st.sampled_from((-1, 1))] * 3)
)
oblique = st.builds(rotation, st.integers(0, 10_000))


@st.composite
def scenes(draw, directions=straight, flat=False, least=3):
    """(Volume, LabelMap): blobs of up to three labels, some noise, any spacing."""
    shape = [draw(st.integers(least, 7)) for _ in range(3)]
    if flat:
        shape[draw(st.integers(0, 2))] = 1
    spacing = tuple(draw(st.sampled_from((0.7, 1.0, 1.3, 2.0, 3.5))) for _ in range(3))
    origin = tuple(draw(st.floats(-90, 90)) for _ in range(3))
    geometry = Geometry(tuple(shape), spacing, origin, draw(directions))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    labels = np.zeros(shape, np.uint8)
    for value in range(1, draw(st.integers(1, 3)) + 1):
        centre, radius = rng.uniform(0, shape), rng.uniform(0.8, 3.0)
        index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
        labels[np.linalg.norm(index - centre, axis=-1) + rng.normal(0, 0.4, shape) < radius] = value
        labels[tuple(rng.integers(0, shape))] = value
    array = (labels * rng.integers(-60, 90) + rng.normal(0, 15, shape)).astype(np.int16)
    return Volume(array, geometry, "CT"), with_names(labels, geometry)


def with_names(labels, geometry, names=NAMES):
    return LabelMap(labels, geometry, tuple(Structure(value, name) for value, name in names.items()))


def stored_otherwise(volume, labels, order, flips):
    """The same world in an array whose axes are permuted and reversed."""
    geometry = volume.geometry
    corner = np.array([geometry.shape[a] - 1 if flips[a] else 0 for a in range(3)])
    sign = np.where(flips, -1.0, 1.0)
    turned = Geometry(
        tuple(geometry.shape[a] for a in order),
        tuple(geometry.spacing[a] for a in order),
        tuple(geometry.to_world(corner[None])[0]),
        (np.asarray(geometry.direction) * sign)[:, list(order)],
    )
    flip = tuple(slice(None, None, -1 if one else 1) for one in flips)
    arrays = [np.transpose(a[flip], order) for a in (volume.array, labels.array)]
    return Volume(arrays[0], turned, volume.modality), LabelMap(arrays[1], turned, labels.structures)


class Brute:
    """One structure of a volume (LPS frame), measured without any of the engine's code but `Geometry.to_world`."""

    def __init__(self, volume, labels, value):
        self.volume, self.labels, self.value = volume, labels, value
        self.grid = labels.geometry
        self.spacing = np.array(self.grid.spacing)
        self.axes = [a for a in range(3) if a != self.flat()]
        self.index = np.argwhere(labels.array == value)
        self.centres = self.grid.to_world(self.index)

    def flat(self):
        return self.grid.shape.index(1) if 1 in self.grid.shape else None

    def corners(self, index):
        halves = [(-0.5, 0.5) if a in self.axes else (0.0,) for a in range(3)]
        return self.grid.to_world(np.concatenate([index + np.array(half) for half in product(*halves)]))

    def size(self):
        return len(self.index) * float(np.prod(self.spacing[self.axes]))

    def extent(self):
        return np.ptp(self.corners(self.index), axis=0)

    def principal(self):
        unit = np.asarray(self.grid.direction)
        spread = unit @ np.diag([s**2 / 12 if a in self.axes else 0 for a, s in enumerate(self.spacing)]) @ unit.T
        away = self.centres - self.centres.mean(0)
        values = np.sort(np.linalg.eigvalsh(away.T @ away / len(away) + spread))[::-1][: len(self.axes)]
        return 2 * np.sqrt(np.maximum(values, 0) * (5 if len(self.axes) == 3 else 4))

    def solidity(self):
        """Over the hull of the centres of all faces of all voxels."""
        steps = np.array([way * step for step in np.eye(3)[self.axes] for way in (-0.5, 0.5)])
        points = self.grid.to_world((self.index[:, None] + steps).reshape(-1, 3))
        if len(self.axes) == 2:
            points = points @ np.asarray(self.grid.direction)[:, self.axes]
        return self.size() / ConvexHull(points).volume

    def pieces(self):
        left, sizes = {tuple(one) for one in self.index.tolist()}, []
        while left:
            todo, size = [left.pop()], 0
            while todo:
                here, size = todo.pop(), size + 1
                for step in product((-1, 0, 1), repeat=3):
                    there = tuple(np.add(here, step).tolist())
                    if there in left:
                        left.remove(there)
                        todo.append(there)
            sizes.append(size)
        return len(sizes), max(sizes) / sum(sizes)

    def view(self):
        every = self.corners(np.argwhere(np.ones(self.grid.shape)))
        return every.min(0), every.max(0)

    def all_labelled(self):
        points = self.corners(np.argwhere(self.labels.array > 0))
        return points.min(0), points.max(0)

    def share_of(self, ends):
        return (self.centres.mean(0) - ends[0]) / (ends[1] - ends[0])

    def faces(self):
        """{label: area}, steps, slopes over all faces; -1 beyond the image, which has no step."""
        area, steps, slopes = {}, [], []
        for here in self.index:
            for axis, way in product(self.axes, (-1, 1)):
                there = here.copy()
                there[axis] += way
                inside = 0 <= there[axis] < self.grid.shape[axis]
                label = int(self.labels.array[tuple(there)]) if inside else -1
                if label == self.value:
                    continue
                face = float(np.prod([self.spacing[a] for a in self.axes if a != axis]))
                area[label] = area.get(label, 0.0) + face
                if inside:
                    steps.append(abs(float(self.volume.array[tuple(here)]) - float(self.volume.array[tuple(there)])))
                    slopes.append(steps[-1] / self.spacing[axis])
        return area, steps, slopes

    def steps_inside(self):
        found = []
        for here in self.index:
            for axis in self.axes:
                there = here.copy()
                there[axis] += 1
                if there[axis] < self.grid.shape[axis] and self.labels.array[tuple(there)] == self.value:
                    found.append(abs(float(self.volume.array[tuple(here)]) - float(self.volume.array[tuple(there)])))
        return found

    def reach(self):
        finest = min(self.spacing[self.axes])
        return min(max(5.0, 2 * finest), 4 * finest)

    def distances(self):
        """Least distance of every voxel of the image to the structure, and their labels and intensities."""
        every = np.argwhere(np.ones(self.grid.shape))
        least = cdist(self.grid.to_world(every), self.centres).min(1)
        return least, self.labels.array.ravel(), self.volume.array.ravel().astype(float)

    def values(self):
        return self.volume.array[self.labels.array == self.value].astype(float)

    def ends_touched(self):
        """Words of the ends of the image at which a voxel lies; for straight directions."""
        words = set()
        for axis in self.axes:
            column = np.asarray(self.grid.direction)[:, axis]
            world = int(np.argmax(np.abs(column)))
            for index, rising in ((0, False), (self.grid.shape[axis] - 1, True)):
                if np.any(self.index[:, axis] == index):
                    words.add(WORDS[world][int(rising == (column[world] > 0))])
        return words
