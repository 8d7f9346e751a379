"""Families that look like no organ: they teach the use of a reference alone.

Each function draws an anatomy: plan: numbers that all its instances share; own: those of one instance.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from rau.training.anatomy.shapes import Anatomy, Canvas, Rng, Style, grid, log_uniform, smooth_noise


def body(rng: Rng, size: int) -> np.ndarray:
    """Boolean outline: a wobbly ellipse, or the whole picture."""
    if rng.random() < 0.3:
        return np.ones((size, size), bool)
    y, x = grid(size)
    a, b = rng.uniform(0.65, 0.98, 2)
    return (x / a) ** 2 + (y / b) ** 2 + 0.12 * smooth_noise(rng, size, 4)[0] < 1


def plain(labels: np.ndarray, style: Style = Style.PLAIN) -> Anatomy:
    """An anatomy of a label map alone; values are renumbered from 0."""
    values, compact = np.unique(labels, return_inverse=True)
    compact = compact.reshape(labels.shape) + (values[0] > 0)
    flat = np.zeros(labels.shape, np.float32)
    return Anatomy(compact.astype(np.uint8), flat, np.arange(256, dtype=np.uint8), style)


def blobs(plan: Rng, own: Rng, size: int) -> Anatomy:
    """Organs in a body: wobbly ellipses of many sizes, some with a wall, some in mirrored pairs."""
    canvas = Canvas(own, size, vary=plan.uniform(0.0, 0.04), wobble=plan.uniform(0.01, 0.05))
    outline = body(plan, size)
    canvas.labels[outline] = 1
    for value in range(2, int(plan.integers(5, 16))):
        cy, cx = plan.uniform(-0.7, 0.7, 2)
        a, b = log_uniform(plan, 0.05, 0.45), log_uniform(plan, 0.05, 0.45)
        angle, wall, paired = plan.uniform(0, np.pi), plan.random() < 0.25, plan.random() < 0.25
        inner = plan.uniform(0.55, 0.87)
        r = canvas.ellipse(value, cy, cx, a, b, angle, outline)
        if wall:  # a ring structure, as the heart's muscle around its cavity
            canvas.labels[(r < 1) & (r > inner) & outline] = value + 100
        elif paired:
            canvas.ellipse(value + 50, cy, -cx, a, b, -angle, outline)
            canvas.alike(value, value + 50)
    return canvas.anatomy()


def regions(plan: Rng, own: Rng, size: int) -> Anatomy:
    """Tissue that tiles the picture: the strongest of several smooth fields at each point."""
    count, cells, share = int(plan.integers(3, 14)), int(plan.integers(3, 12)), plan.uniform(0.0, 0.35)
    fields = smooth_noise(plan, size, cells, count) + share * smooth_noise(own, size, cells, count)
    labels = 1 + fields.argmax(0)
    labels[~body(plan, size)] = 0
    return plain(labels)


def layers(plan: Rng, own: Rng, size: int) -> Anatomy:
    """Layered tissue: bands with wavy borders, as in a retina, a wall of the bowel, skin or a section of a vessel."""
    y, x = grid(size)
    angle = plan.normal() * 0.4 + own.normal() * 0.08
    wave = plan.uniform(0.02, 0.12)
    depth = np.cos(angle) * y + np.sin(angle) * x + wave * smooth_noise(own, size, 4)[0]
    dip, at = plan.uniform(0, 0.3), own.normal() * 0.2
    if plan.random() < 0.4:  # rings
        cx, cy = plan.uniform(-0.4, 0.4, 2) + own.normal(size=2) * 0.04
        depth = np.hypot((x - cx) * plan.uniform(0.7, 1.3), y - cy) * 1.6 - 0.9 + 0.05 * smooth_noise(own, size, 5)[0]
    edges = np.sort(plan.uniform(-0.9, 0.9, int(plan.integers(3, 10)))) + own.normal() * 0.06
    pit = dip * np.exp(-(((x - at) / 0.25) ** 2))  # as the fovea: upper layers thin out
    thin = smooth_noise(own, size, 3)[0] * 0.03
    return plain(sum(depth + thin * k / len(edges) - pit * k / len(edges) > edge for k, edge in enumerate(edges)))


def walk(rng: Rng, size: int, turning: float) -> np.ndarray:
    """(2, n) pixel rows and columns of one random walk that stays in the picture."""
    steps = int(rng.integers(size // 4, size))
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(size=steps) * turning)
    path = rng.uniform(0.15, 0.85, 2)[:, None] * size + np.cumsum(np.stack([np.sin(heading), np.cos(heading)]), 1)
    path = np.round(path).astype(int)
    return path[:, ((path >= 0) & (path < size)).all(0)]


def tubes(plan: Rng, own: Rng, size: int) -> Anatomy:
    """Airways, bowel, long bones: random walks with a thickness, in a tissue."""
    labels = regions(plan, own, size).labels if plan.random() < 0.5 else body(plan, size).astype(np.uint8)
    base = int(labels.max())
    for value in range(base + 1, base + int(plan.integers(2, 5))):
        line = np.zeros((size, size), bool)
        for _ in range(int(plan.integers(1, 5))):
            line[tuple(walk(plan, size, plan.uniform(0.02, 0.12)))] = True
        radius = log_uniform(plan, 1.0, size / 14) * np.exp(own.normal() * 0.1)
        labels[ndimage.distance_transform_edt(~line) <= radius] = value
    return plain(labels)
