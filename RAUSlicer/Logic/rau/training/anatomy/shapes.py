"""What the families of random anatomies are drawn with: smooth noise, a canvas, trees."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
from scipy import ndimage

Rng = np.random.Generator
TISSUE = 200  # label values from here on are unlabelled tissue: rendered, never asked for


class Style(IntEnum):
    """How an anatomy is rendered; see `rau.training.synthetic.LOOKS`."""

    PLAIN = 0
    STAIN = 1  # coloured stained microscopy
    FUNDUS = 2  # dark vessels on a lit disc, coloured or grey
    XRAY = 3  # shadows of what lies behind each other, added up
    ULTRASOUND = 4  # speckle, bright borders, shadow
    GLOW = 5  # bright vessels on dark grain (OCTA, angiography)


@dataclass(frozen=True)
class Anatomy:
    """One slice of nobody.

    labels: (S, S) uint8, 0 outside. relief: (S, S) float32 in -1 to 1, brightness on top of the labels that nobody asks
    for. materials: (256,) uint8, label values of one material look alike (left and right). style: how it looks.
    """

    labels: np.ndarray
    relief: np.ndarray
    materials: np.ndarray
    style: Style = Style.PLAIN


@lru_cache(maxsize=64)
def spline(size: int, cells: int) -> np.ndarray:
    """(size, cells + 3) float32: cubic interpolation of a line of `cells` knots and its margins, as a matrix."""
    zoomed = ndimage.zoom(np.eye(cells + 3), ((size + 8) / cells, 1), order=3, mode="nearest")
    start = (len(zoomed) - size) // 2
    return zoomed[start : start + size].astype(np.float32)


def smooth_noise(rng: Rng, size: int, cells: int, channels: int = 1) -> np.ndarray:
    """(channels, size, size) smooth random fields of about unit deviation with `cells` features a side."""
    field = rng.normal(size=(channels, cells + 3, cells + 3)).astype(np.float32)
    matrix = spline(size, cells)
    return matrix @ field @ matrix.T * 1.4


def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """(y, x) in -1 to 1, each (size, size)."""
    line = np.linspace(-1, 1, size, dtype=np.float32)
    return np.meshgrid(line, line, indexing="ij")


def log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


class Canvas:
    """Draws one instance of an anatomy: later shapes lie over earlier ones. Coordinates from -1 to 1, y downwards.

    own: the instance's numbers; each shape wanders by `vary` (fraction of half the picture, log deviation of its axes).
    """

    def __init__(self, own: Rng, size: int, style: Style = Style.PLAIN, vary: float = 0.03, wobble: float = 0.02):
        self.own, self.size, self.style, self.vary = own, size, style, vary
        self.y, self.x = grid(size)
        bend = smooth_noise(own, size, 6, 2) * wobble + smooth_noise(own, size, 14, 2) * wobble * 0.3
        self.bent_y, self.bent_x = self.y + bend[0], self.x + bend[1]
        self.labels = np.zeros((size, size), np.uint8)
        self.relief = np.zeros((size, size), np.float32)
        self.materials = np.arange(256, dtype=np.uint8)

    def radius(self, cy: float, cx: float, a: float, b: float, angle: float = 0.0) -> np.ndarray:
        """(S, S): 1 on the border of an ellipse with half axes a (along y at angle 0) and b, less inside."""
        cy, cx = np.array([cy, cx]) + self.own.normal(size=2) * self.vary
        a, b = np.array([a, b]) * np.exp(self.own.normal(size=2) * self.vary * 3)
        angle += self.own.normal() * self.vary * 3
        y, x = self.bent_y - cy, self.bent_x - cx
        cos, sin = np.cos(angle), np.sin(angle)
        return np.hypot((cos * y + sin * x) / a, (cos * x - sin * y) / b)

    def ellipse(
        self, value: int, cy: float, cx: float, a: float, b: float, angle: float = 0.0, within: np.ndarray | None = None
    ) -> np.ndarray:
        """Label an ellipse with `value`, where `within` holds; gives its radius field."""
        r = self.radius(cy, cx, a, b, angle)
        self.labels[(r < 1) if within is None else (r < 1) & within] = value
        return r

    def ring(self, count: int, cy: float, cx: float, a: float, b: float, thick: float, values: list[int]) -> None:
        """`count` small ellipses around an ellipse, as ribs and vertebrae are; values are used in turn."""
        for k in range(count):
            turn = 2 * np.pi * (k + 0.5) / count
            y, x = cy + a * np.sin(turn), cx + b * np.cos(turn)
            self.ellipse(
                values[k % len(values)], y, x, thick, thick * 2.2, np.arctan2(b * np.cos(turn), a * np.sin(turn))
            )

    def alike(self, *values: int) -> None:
        """These label values are of one material."""
        self.materials[list(values)] = values[0]

    def anatomy(self) -> Anatomy:
        return Anatomy(self.labels, np.clip(self.relief, -1, 1), self.materials, self.style)


def tree(own: Rng, size: int, start: np.ndarray, heading: float, width: float, bend: float, fork: float) -> np.ndarray:
    """Points (n, 3) of a branching line: row, column, half width in pixels; branches taper and fork.

    start: (row, column) in pixels. bend: radians of turning a step; fork: chance of a branch a step.
    """
    points: list[tuple[float, float, float]] = []
    queue = [(float(start[0]), float(start[1]), heading, width, 0)]
    while queue and len(points) < 6000:
        row, column, heading, width, depth = queue.pop(0)
        drift = 0.0
        for _ in range(int(own.uniform(0.3, 1.0) * size * (0.75**depth))):
            drift = 0.9 * drift + own.normal() * bend * 0.3
            heading += drift
            row, column = row + np.sin(heading), column + np.cos(heading)
            if not (-4 < row < size + 4 and -4 < column < size + 4) or width < 0.4:
                break
            points.append((row, column, width))
            width *= 0.9975
            if depth < 5 and own.random() < fork:
                side = own.choice([-1, 1]) * own.uniform(0.4, 1.1)
                queue.append((row, column, heading + side, width * own.uniform(0.5, 0.85), depth + 1))
                heading -= side * 0.3
                width *= 0.9
    return np.array(points, np.float32).reshape(-1, 3)


def stroke(points: np.ndarray, size: int) -> np.ndarray:
    """Boolean (S, S): discs of the half width of each of the points (n, 3) of `tree`."""
    rows, columns = np.round(points[:, :2]).astype(int).T
    inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
    widths = np.zeros((size, size), np.float32)
    np.maximum.at(widths, (rows[inside], columns[inside]), points[inside, 2])
    if not widths.any():
        return widths > 0
    distance, nearest = ndimage.distance_transform_edt(widths == 0, return_indices=True)
    return distance <= np.maximum(widths[tuple(nearest)], 0.7)
