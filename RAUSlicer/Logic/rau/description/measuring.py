"""From masks and image to facts. Each structure is looked at in its own bounding box; borders are found in one walk."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from rau.description import shape
from rau.description.borders import OUTSIDE, Borders, brightness, find_borders
from rau.description.facts import Contrast, Facts, Intensity, Level, Margin, Neighbour, Side, settled
from rau.description.frame import Frame, frame_of
from rau.description.sides import partners, side_in_patient, side_in_picture
from rau.description.surroundings import Surroundings, reach_of, surroundings
from rau.volume.volume import LabelMap, Volume

SIMILAR = 0.5  # pooled sd: a smaller difference from the surroundings is none
WELL, MODERATE = 3.0, 1.5  # steps across the border, in steps inside
NO_STEP = 1e-3  # of the image's range: a smaller mean step inside counts as this
CONTAINED = 0.9  # of the border
MIXED = 100.0  # HU: above this sd a mean says nothing of what a structure is made of
DIGITS = 6  # decimals kept of what is compared with a threshold: the order of a sum must not decide
DENSITIES = (  # upper ends of the mean, HU
    (-800.0, "air"),
    (-200.0, "air-containing tissue"),
    (-30.0, "fat"),
    (20.0, "fluid"),
    (90.0, "soft tissue"),
    (300.0, "enhanced or dense tissue"),
    (float("inf"), "bone, calcification or metal"),
)


@dataclass(frozen=True)
class _Shape:
    """What the mask alone says. box: slices into the frame's arrays; corners: `shape.tips` in the
    mask; low, high: world ends (3,) over whole voxels."""

    value: int
    name: str
    box: tuple[slice, ...]
    mask: np.ndarray
    centre: np.ndarray
    covariance: np.ndarray
    corners: np.ndarray
    low: np.ndarray
    high: np.ndarray


def measure(image: Volume | None, labels: LabelMap, only: Collection[int] | None = None) -> tuple[Facts, ...]:
    """The facts of every structure with at least one voxel, in the order of the label values.

    image: None leaves out what needs intensities. only: these label values alone (neighbours are sought among all).
    How the arrays are stored (order and direction of their axes) makes no difference in a patient's frame.
    Raises InputError where image and label map lie on different grids.
    """
    frame = frame_of(image, labels)
    shapes = _shapes(frame, labels)
    if not shapes:
        return ()
    borders = find_borders(frame)
    scene = _Scene(frame, {one.value: one for one in shapes}, borders)
    wanted = [one for one in shapes if only is None or one.value in only]
    return tuple(settled(scene.facts(one)) for one in wanted)


def _shapes(frame: Frame, labels: LabelMap) -> list[_Shape]:
    from scipy import ndimage

    names = {one.value: one.name for one in labels.structures}
    found = []
    for value, box in enumerate(ndimage.find_objects(frame.labels), 1):
        if box is None:
            continue
        mask = frame.labels[box] == value
        start = np.array([one.start for one in box])
        mean, covariance = shape.moments(mask)
        corners = shape.tips(mask, frame.measured)
        low, high = frame.reach(corners + start)
        centre = frame.geometry.to_world((mean + start)[None])[0]
        name = names.get(value, f"structure {value}")
        found.append(_Shape(value, name, box, mask, centre, covariance, corners, low, high))
    return found


class _Scene:
    """All structures of one image: what is measured once."""

    def __init__(self, frame: Frame, shapes: dict[int, _Shape], borders: Borders) -> None:
        self.frame, self.shapes, self.borders = frame, shapes, borders
        self.view = frame.field_of_view()
        self.around = np.min([s.low for s in shapes.values()], 0), np.max([s.high for s in shapes.values()], 0)
        self.partners = partners({one.value: one.name for one in shapes.values()})
        self.range = 0.0 if frame.image is None else float(frame.image.max()) - float(frame.image.min())
        self.shares = {value: borders.shares(value) for value in shapes}

    def facts(self, one: _Shape) -> Facts:
        frame, axes = self.frame, self.frame.measured
        flat, known = frame.flat is not None, frame.unit == "mm"
        voxels = int(np.count_nonzero(one.mask))
        size = voxels * float(np.prod([frame.spacing[axis] for axis in axes]))
        lengths = shape.principal_axes(one.covariance, frame.spacing, axes)
        surface = shape.surface(one.mask, frame.spacing, axes)
        pieces, largest = shape.pieces(one.mask)
        near = surroundings(frame, one.value, one.box)
        ends = {frame.axis_name(axis): float(one.high[axis] - one.low[axis]) for axis in frame.world_axes}
        return Facts(
            value=one.value,
            name=one.name,
            frame=frame.kind,
            unit=frame.unit,
            modality=frame.modality,
            voxels=voxels,
            share_of_image=voxels / frame.labels.size,
            volume_ml=size / 1000 if known and not flat else None,
            area=size if flat else None,
            extent=ends,
            axes=lengths,
            elongation=lengths[1] / lengths[0],
            flatness=None if flat else lengths[2] / lengths[0],
            solidity=shape.solidity(voxels, one.corners, axes),
            surface=surface,
            compactness=shape.compactness(size, surface, len(axes)),
            pieces=pieces,
            largest_piece=largest,
            centre=(float(one.centre[0]), float(one.centre[1]), float(one.centre[2])),
            position=self.position(one, self.view),
            position_in_labels=self.position(one, self.around),
            level=self.level(one),
            side=self.side(one),
            intensity=self.intensity(one),
            contrast=self.contrast(one, near),
            margin=self.margin(one.value),
            neighbours=self.neighbours(one, near),
            contained_in=next((self.shapes[b].name for b, s in self.shares[one.value].items() if s >= CONTAINED), None),
            surrounds=tuple(
                other.name for other in self.shapes.values() if self.shares[other.value].get(one.value, 0) >= CONTAINED
            ),
            cut_off=self.cut_off(one),
        )

    def position(self, one: _Shape, ends: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
        width = ends[1] - ends[0]
        return {
            self.frame.axis_name(a): float((one.centre[a] - ends[0][a]) / width[a]) if width[a] > 1e-9 else 0.5
            for a in self.frame.world_axes
        }

    def level(self, one: _Shape) -> Level | None:
        if self.frame.flat is not None:
            return None
        axis, plane = self.frame.plane()
        areas = one.mask.sum(axis=tuple(a for a in range(3) if a != axis))
        start, count = one.box[axis].start + 1, self.frame.geometry.shape[axis]
        largest = start + int(np.argmax(areas))
        return Level(plane, start, one.box[axis].stop, largest, count, self.frame.end_word(axis, high=False))

    def side(self, one: _Shape) -> Side | None:
        if 0 not in self.frame.world_axes:
            return None
        width = (float(self.view[0][0]), float(self.view[1][0]))
        x = float(one.centre[0])
        if self.frame.kind == "picture":
            return side_in_picture(x, width)
        other = self.shapes.get(self.partners.get(one.value, 0))
        partner = None if other is None else (other.name, float(other.centre[0]))
        return side_in_patient(x, width, one.name, partner, min(self.frame.spacing[a] for a in self.frame.measured))

    def intensity(self, one: _Shape) -> Intensity | None:
        image = self.frame.image
        if image is None:
            return None
        values = image[one.box][one.mask]
        channels = tuple(values.mean(0, dtype=np.float64).tolist()) if values.ndim == 2 else ()
        values = (values.mean(1) if values.ndim == 2 else values).astype(np.float64)
        low, median, high = (float(p) for p in np.percentile(values, (5, 50, 95)))
        mean, is_ct = round(float(values.mean()), DIGITS), self.frame.modality == "CT"
        unit = "HU" if is_ct else "grey levels" if image.dtype == np.uint8 else "arbitrary units"
        sd = round(float(values.std()), DIGITS)
        density = next(word for top, word in DENSITIES if mean < top) if is_ct and sd <= MIXED else None
        return Intensity(unit, mean, sd, median, low, high, channels, density)

    def contrast(self, one: _Shape, near: Surroundings) -> Contrast | None:
        image = self.frame.image
        if image is None or not len(near.shell):
            return None
        inside = brightness(image[one.box])[one.mask].astype(np.float64)
        flat = image.reshape(-1, *image.shape[3:])[near.shell]
        outside = (flat.mean(1) if flat.ndim == 2 else flat).astype(np.float64)
        difference = round(float(inside.mean() - outside.mean()), DIGITS)
        pooled = float(np.sqrt((inside.var() + outside.var()) / 2))
        in_sd = round(difference / pooled, DIGITS) if pooled > 1e-6 else None
        big = difference != 0 if in_sd is None else abs(in_sd) >= SIMILAR
        word = "similar" if not big else "brighter" if difference > 0 else "darker"
        return Contrast(reach_of(self.frame), difference, in_sd, word)

    def margin(self, value: int) -> Margin | None:
        found = self.borders
        faces = found.faces.get(value, 0)
        if self.frame.image is None or not faces:
            return None
        gradient, ratio, grade = found.slope[value] / faces, None, None
        if found.pairs.get(value) and self.range > 0:
            inside = max(found.inside[value] / found.pairs[value], NO_STEP * self.range)
            ratio = round(found.step[value] / faces / inside, DIGITS)
            grade = "well defined" if ratio >= WELL else "moderately defined" if ratio >= MODERATE else "ill defined"
        return Margin(gradient, ratio, grade)

    def neighbours(self, one: _Shape, near: Surroundings) -> tuple[Neighbour, ...]:
        shares, found = self.shares[one.value], []
        for value in sorted(set(shares) | set(near.gaps)):
            other = self.shapes[value]
            way = self.frame.direction_words(other.centre - one.centre)
            share = shares.get(value, 0.0)
            found.append(Neighbour(value, other.name, share, 0.0 if share else near.gaps[value], way))
        return tuple(sorted(found, key=lambda n: (-round(n.share, 9), round(n.gap, 9), n.value)))

    def cut_off(self, one: _Shape) -> tuple[str, ...]:
        if (one.value, OUTSIDE) not in self.borders.area:
            return ()
        ends = []
        for axis in self.frame.measured:
            touched = (one.box[axis].start == 0, one.box[axis].stop == self.frame.geometry.shape[axis])
            ends += [self.frame.end_word(axis, high) for high in (False, True) if touched[high]]
        return tuple(ends)
