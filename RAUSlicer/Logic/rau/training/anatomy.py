"""Random anatomies: label maps that nobody has, in families, from a numpy generator.

Each function gives an (S, S) uint8 label map, 0 outside; they teach the *use of a reference*, not one anatomy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

Rng = np.random.Generator


def smooth_noise(rng: Rng, size: int, cells: int, channels: int = 1) -> np.ndarray:
    """(channels, size, size) smooth random fields of about unit deviation with `cells` features a side."""
    field = rng.normal(size=(channels, cells + 3, cells + 3)).astype(np.float32)
    zoomed = ndimage.zoom(field, (1, (size + 8) / cells, (size + 8) / cells), order=3, mode="nearest")
    start = (zoomed.shape[1] - size) // 2
    return zoomed[:, start : start + size, start : start + size] * 1.4


def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """(y, x) in -1 to 1, each (size, size)."""
    line = np.linspace(-1, 1, size, dtype=np.float32)
    return np.meshgrid(line, line, indexing="ij")


def body(rng: Rng, size: int) -> np.ndarray:
    """Boolean outline: a wobbly ellipse, or the whole picture."""
    if rng.random() < 0.3:
        return np.ones((size, size), bool)
    y, x = grid(size)
    a, b = rng.uniform(0.65, 0.98, 2)
    return (x / a) ** 2 + (y / b) ** 2 + 0.12 * smooth_noise(rng, size, 4)[0] < 1


def blobs(rng: Rng, size: int) -> np.ndarray:
    """Organs in a body: wobbly ellipses of many sizes, some inside others."""
    y, x = grid(size)
    outline = body(rng, size)
    labels = outline.astype(np.uint8)
    wobble = smooth_noise(rng, size, int(rng.integers(4, 9)), 2) * rng.uniform(0.02, 0.07)
    for value in range(2, int(rng.integers(5, 16))):
        cx, cy = rng.uniform(-0.7, 0.7, 2)
        a, b = np.exp(rng.uniform(np.log(0.05), np.log(0.45), 2))
        angle = rng.uniform(0, np.pi)
        u = np.cos(angle) * (x + wobble[0] - cx) + np.sin(angle) * (y + wobble[1] - cy)
        v = -np.sin(angle) * (x + wobble[0] - cx) + np.cos(angle) * (y + wobble[1] - cy)
        shape = (np.abs(u / a) ** 2 + np.abs(v / b) ** 2 < 1) & outline
        labels[shape] = value
        if rng.random() < 0.25:  # a wall around it: a ring structure, as the heart's muscle around its cavity
            labels[shape & ((u / a) ** 2 + (v / b) ** 2 > rng.uniform(0.3, 0.75))] = value + 100
    return np.unique(labels, return_inverse=True)[1].reshape(size, size).astype(np.uint8)


def regions(rng: Rng, size: int) -> np.ndarray:
    """Tissue that tiles the picture: the strongest of several smooth fields at each point."""
    count = int(rng.integers(3, 14))
    fields = smooth_noise(rng, size, int(rng.integers(3, 12)), count)
    labels = 1 + fields.argmax(0)
    labels[~body(rng, size)] = 0
    return labels.astype(np.uint8)


def layers(rng: Rng, size: int) -> np.ndarray:
    """Layered tissue: bands with wavy borders, as in a retina, a wall of the bowel or skin."""
    y, x = grid(size)
    angle = rng.normal() * 0.5
    depth = np.cos(angle) * y + np.sin(angle) * x + rng.uniform(0.02, 0.12) * smooth_noise(rng, size, 4)[0]
    if rng.random() < 0.4:  # rings
        cx, cy = rng.uniform(-0.4, 0.4, 2)
        depth = np.hypot((x - cx) * rng.uniform(0.7, 1.3), y - cy) * 1.6 - 0.9 + 0.05 * smooth_noise(rng, size, 5)[0]
    edges = np.sort(rng.uniform(-0.9, 0.9, int(rng.integers(3, 9))))
    return np.digitize(depth, edges).astype(np.uint8)


def tubes(rng: Rng, size: int) -> np.ndarray:
    """Vessels, airways, bones in projection: branching random walks with a thickness, in a tissue."""
    labels = regions(rng, size) if rng.random() < 0.5 else body(rng, size).astype(np.uint8)
    base = int(labels.max())
    for value in range(base + 1, base + int(rng.integers(2, 5))):
        line = np.zeros((size, size), bool)
        for _ in range(int(rng.integers(1, 6))):
            steps = int(rng.integers(size // 4, size))
            heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(size=steps) * rng.uniform(0.02, 0.12))
            path = rng.uniform(0.15, 0.85, 2)[:, None] * size + np.cumsum(
                np.stack([np.sin(heading), np.cos(heading)]), 1
            )
            path = np.round(path).astype(int)
            path = path[:, ((path >= 0) & (path < size)).all(0)]
            line[path[0], path[1]] = True
        radius = float(np.exp(rng.uniform(np.log(1.0), np.log(size / 14))))
        labels[ndimage.distance_transform_edt(~line) <= radius] = value
    return labels


def cells(rng: Rng, size: int) -> np.ndarray:
    """Many alike: cells or lesions of one kind with an inner part (nucleus), in a tissue."""
    y, x = grid(size)
    labels = regions(rng, size) if rng.random() < 0.4 else np.ones((size, size), np.uint8)
    base = int(labels.max())
    radius = np.exp(rng.uniform(np.log(0.08), np.log(0.4)))
    wobble = smooth_noise(rng, size, 8)[0] * 0.1
    for _ in range(int(rng.integers(1, 8))):
        cx, cy = rng.uniform(-0.8, 0.8, 2)
        r = np.hypot((x - cx) * rng.uniform(0.7, 1.4), y - cy) / (radius * rng.uniform(0.7, 1.3)) + wobble
        labels[r < 1] = base + 1
        labels[r < rng.uniform(0.3, 0.75)] = base + 2
    return labels


FAMILIES: tuple[tuple[float, Callable[[Rng, int], np.ndarray]], ...] = (
    (0.40, blobs),
    (0.25, regions),
    (0.10, layers),
    (0.13, tubes),
    (0.12, cells),
)


def random_anatomy(rng: Rng, size: int) -> np.ndarray:
    """(size, size) uint8 label map of a random family."""
    weights = np.array([weight for weight, _ in FAMILIES])
    return FAMILIES[int(rng.choice(len(FAMILIES), p=weights / weights.sum()))][1](rng, size)
