"""Two synthetic patients of one anatomy: CT of the upper abdomen that belongs to nobody, for the demo and the tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rau.references.reference import Reference
from rau.volume.terminology import ANATOMICAL_STRUCTURE, Code, Terminology
from rau.volume.volume import Geometry, LabelMap, Structure, Volume

FIELD_OF_VIEW = (192.0, 346.0, 346.0)  # mm (slice, row, column)
CAVITY, MUSCLE, SKIN = 0.80, 0.88, 0.98  # where the layers of the body wall begin, as fractions of its radius
LESION = "liver lesion"
Ball = tuple[tuple[float, float, float], tuple[float, float, float]]  # centre and radii, mm (x, y, z)


@dataclass(frozen=True)
class Organ:
    """balls: its shape is their union. hu: mean attenuation. rim: how much denser its outer part is than its inner.

    drift: how far it may lie elsewhere in another patient, mm.
    """

    structure: Structure
    balls: tuple[Ball, ...]
    hu: float
    rim: float = 0.0
    drift: float = 3.5


def _organ(
    value: int, name: str, rgb: tuple[int, int, int], code: str, hu: float, *balls: Ball, side: str = "", **more: float
) -> Organ:
    sides = {"left": Code("SCT", "7771000", "Left"), "right": Code("SCT", "24028007", "Right"), "": Code()}
    meaning = name.removeprefix(f"{side} ").capitalize()
    term = Terminology(ANATOMICAL_STRUCTURE, Code("SCT", code, meaning), sides[side]).serialised()
    return Organ(Structure(value, name, (rgb[0] / 255, rgb[1] / 255, rgb[2] / 255), term), balls, hu, **more)


def _lesion(value: int, hu: float, ball: Ball) -> Organ:
    altered = Code("SCT", "49755003", "Morphologically Altered Structure")
    term = Terminology(altered, Code("SCT", "52988006", "Lesion"), region=Code("SCT", "10200004", "Liver"))
    return Organ(Structure(value, LESION, (0.56, 0.93, 0.56), term.serialised()), (ball,), hu, 0.0, 4.0)


LIVER = (((-64, -4, 26), (66, 66, 62)), ((-4, -48, 44), (44, 25, 28)))
STOMACH = (((48, -26, 40), (38, 34, 36)), ((14, -38, 4), (30, 19, 19)))
ORGANS = (
    _organ(1, "liver", (221, 130, 101), "10200004", 105, *LIVER),
    _organ(2, "spleen", (157, 108, 162), "78961009", 128, ((98, 26, 36), (24, 37, 42))),
    _organ(3, "left kidney", (230, 190, 70), "64033007", 150, ((66, 44, -28), (26, 24, 50)), side="left", rim=40),
    _organ(4, "right kidney", (90, 170, 220), "64033007", 150, ((-68, 46, -44), (26, 24, 48)), side="right", rim=40),
    _organ(5, "stomach", (240, 150, 190), "69695003", 22, *STOMACH, rim=45),
    _organ(6, "aorta", (224, 97, 76), "15825003", 210, ((14, 26, 0), (12, 12, 4000)), drift=2.5),
    _organ(7, "gallbladder", (139, 190, 98), "28231008", 8, ((-50, -46, -22), (15, 17, 24))),
    _lesion(8, 48, ((-78, -6, 28), (19, 19, 19))),
)
ABSENT = "gallbladder"  # in the target, as after its removal


def patient_pair(
    seed: int = 0, shape: tuple[int, int, int] = (48, 128, 128)
) -> tuple[Reference, tuple[Volume, LabelMap]]:
    """A reference and a target of another patient, with the target's truth; the target has no gallbladder.

    Images are int16 HU of `shape` (slice, row, column) over the same field of view: axial slices from foot to head,
    rows to the back, columns to the patient's left. The same seed gives the same voxels.
    """
    image, labels = _patient(seed, 0, shape, ())
    target, truth = _patient(seed, 1, shape, (ABSENT,))
    return Reference(image, labels), (target, truth)


def _patient(seed: int, number: int, shape: tuple[int, int, int], without: tuple[str, ...]) -> tuple[Volume, LabelMap]:
    own, shared = np.random.default_rng([seed + 1, number + 1, 5]), np.random.default_rng([seed + 1, 0, 5])
    spacing = tuple(length / n for length, n in zip(FIELD_OF_VIEW, shape, strict=True))
    origin = tuple(-0.5 * s * (n - 1) for s, n in zip(spacing[::-1], shape[::-1], strict=True))
    geometry = Geometry(shape, (spacing[0], spacing[1], spacing[2]), (origin[0], origin[1], origin[2]))
    points = _deformed(_grid(geometry), own)
    hu, radius = _trunk(points, own)
    wobbled = points + _waves(points, shared, 3, 70.0) * 3.5
    labels = np.zeros(shape, np.uint8)
    for organ in ORGANS:
        centre, scale = own.normal(size=3) * organ.drift, np.exp(own.normal(size=3) * 0.06)
        brightness = organ.hu + own.normal() * 9
        if organ.structure.name not in without:
            depth = _depth(points if organ.structure.name == LESION else wobbled, organ, centre, scale)
            inside = (depth < 1) & (radius < CAVITY + 0.02)
            labels[inside] = organ.structure.value
            hu[inside] = brightness + organ.rim * (depth[inside] > 0.72)
    _air_in_stomach(hu, labels, wobbled)
    _vessels(hu, labels == 1, wobbled, own)
    present = set(np.unique(labels).tolist())
    structures = tuple(o.structure for o in ORGANS if o.structure.value in present)
    name = f"synthetic patient {number + 1}"
    return Volume(_scanned(hu, geometry, own), geometry, "CT", name), LabelMap(labels, geometry, structures)


def _grid(geometry: Geometry) -> np.ndarray:
    """(3, S, R, C) float32: LPS mm of every voxel."""
    axes = [np.arange(n, dtype=np.float32) * s for n, s in zip(geometry.shape, geometry.spacing, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return np.stack([x, y, z]) + np.array(geometry.origin, np.float32)[:, None, None, None]


def _deformed(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Patient to anatomy: an affine map and a smooth displacement of some millimetres."""
    turn, tilt = rng.normal(size=2) * 0.045
    spin = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    lean = np.array([[np.cos(tilt), 0, -np.sin(tilt)], [0, 1, 0], [np.sin(tilt), 0, np.cos(tilt)]])
    matrix = (spin @ lean @ np.diag(np.exp(rng.normal(size=3) * 0.04))).astype(np.float32)
    shift = (rng.normal(size=3) * (3, 3, 4)).astype(np.float32)[:, None, None, None]
    return np.einsum("ij,jsrc->isrc", matrix, points) + shift + 4.0 * _waves(points, rng, 3, 190.0)


def _waves(points: np.ndarray, rng: np.random.Generator, channels: int, length: float, count: int = 5) -> np.ndarray:
    """(channels, S, R, C) smooth fields of unit deviation over the anatomy; `length` is about a wave's, mm."""
    out = np.zeros((channels, *points.shape[1:]), np.float32)
    for channel in range(channels):
        for _ in range(count):
            way = rng.normal(size=3)
            way *= 2 * np.pi / (length * rng.uniform(0.75, 1.4) * np.linalg.norm(way))
            phase = np.float32(rng.uniform(0, 2 * np.pi))
            out[channel] += np.sin(np.einsum("i,isrc->src", way.astype(np.float32), points) + phase)
    return out * np.float32(np.sqrt(2 / count))


def _ball(points: np.ndarray, centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """(S, R, C): distance from the centre in radii; below 1 inside."""
    scaled = [(points[i] - np.float32(centre[i])) / np.float32(radii[i]) for i in range(3)]
    return np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)


def _depth(points: np.ndarray, organ: Organ, shift: np.ndarray, scale: np.ndarray) -> np.ndarray:
    balls = [_ball(points, np.array(c) + shift, np.array(r) * scale) for c, r in organ.balls]
    return np.minimum.reduce(balls)


def _trunk(points: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(HU, radius) of the body without its organs: wall, fat, bowel, lung bases, bones, muscles, table."""
    x, y, z = points
    radius = ((np.abs(x) / 152) ** 2.4 + (np.abs(y) / 104) ** 2.4) ** np.float32(1 / 2.4)
    fat_hu, muscle_hu = rng.normal(-104, 4), rng.normal(56, 5)
    hu = np.full(radius.shape, -1000, np.float32)
    hu[radius < 1] = 5
    hu[radius < SKIN] = fat_hu
    hu[radius < MUSCLE] = muscle_hu
    hu[radius < CAVITY] = fat_hu + 6
    loops = _waves(points, rng, 2, 48.0)
    bowel = (radius < CAVITY - 0.05) & (z < 10) & (y < 22) & (np.abs(loops[0]) < 0.75)
    hu[bowel] = 38 + 12 * loops[1][bowel]
    hu[bowel & (loops[1] > 1.35) & (np.abs(loops[0]) < 0.35)] = -820
    lung = (radius < CAVITY) & (z > 66 + 26 * (1 - 1.6 * radius**2)) & (np.abs(x) > 9)
    hu[lung] = -850 + 60 * np.maximum(loops[0][lung], 0)
    _bones(hu, points, radius, muscle_hu)
    hu[(np.abs(y - 118 - (x / 60) ** 2) < 2.5) & (np.abs(x) < 165)] = -350
    return hu, radius


def _bones(hu: np.ndarray, points: np.ndarray, radius: np.ndarray, muscle_hu: float) -> None:
    x, y, z = points
    flat = points * np.array([1, 1, 0], np.float32)[:, None, None, None]
    for side in (-1, 1):
        hu[(_ball(flat, np.array([34 * side, 78, 0]), np.array([27, 17, 1])) < 1) & (radius < MUSCLE + 0.03)] = (
            muscle_hu
        )
        hu[_ball(points, np.array([30 * side, 52, -70]), np.array([15, 17, 70])) < 1] = muscle_hu - 2
    hu[_ball(flat, np.array([-17, 27, 0]), np.array([12, 10, 1])) < 1] = 118  # inferior vena cava
    body = _ball(flat, np.array([0, 52, 0]), np.array([21, 17, 1]))
    disc = np.abs((z / 34) % 1 - 0.5) > 0.39
    hu[body < 1] = np.where(disc, 95, np.where(body > 0.84, 420, 210))[body < 1]
    arch = (np.abs(x) < 5) & (y > 80) & (y < 97) & (np.abs((z / 34) % 1 - 0.4) < 0.3)
    hu[arch | ((np.abs(x) < 30) & (np.abs(y - 74 - 0.1 * np.abs(x)) < 4) & ~disc)] = 330
    hu[_ball(flat, np.array([0, 75, 0]), np.array([10, 8, 1])) < 1] = 35
    slope = 0.45 * y + 0.1 * np.abs(x)
    rib = np.abs((z + slope) / 30 % 1 - 0.5) < 0.21
    hu[rib & (np.abs(radius - 0.845) < 0.035) & (z > -58 + 0.6 * np.abs(y)) & (np.abs(x) > 24)] = 380


def _air_in_stomach(hu: np.ndarray, labels: np.ndarray, points: np.ndarray) -> None:
    stomach = labels == 5
    if stomach.any():
        level = np.quantile(points[1][stomach], 0.12)
        hu[stomach & (points[1] < level)] = -900


def _vessels(hu: np.ndarray, liver: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> None:
    """Bright vessels in the liver, where two smooth fields both pass zero."""
    fields = _waves(points, rng, 2, 75.0)
    hu[liver & (fields[0] ** 2 + fields[1] ** 2 < 0.045)] += 45


def _scanned(hu: np.ndarray, geometry: Geometry, rng: np.random.Generator) -> np.ndarray:
    """Partial volume, soft texture and noise of a scanner; int16 HU."""
    from scipy import ndimage

    sigma = [0.0, *(1.9 / s for s in geometry.spacing[1:])]
    texture = ndimage.gaussian_filter(rng.normal(size=hu.shape).astype(np.float32), (0.6, 1.6, 1.6))
    noise = ndimage.gaussian_filter(rng.normal(size=hu.shape).astype(np.float32), (0, 0.6, 0.6))
    soft = np.where((hu > -200) & (hu < 300), 1.0, 0.3).astype(np.float32)
    image = ndimage.gaussian_filter(hu, sigma) + soft * 5 * texture / texture.std() + 9 * noise / noise.std()
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16)
