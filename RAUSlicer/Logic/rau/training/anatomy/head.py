"""Heads: brain-like maps of many mirrored structures, and a fetal head in the sector of an ultrasound probe."""

from __future__ import annotations

import numpy as np

from rau.training.anatomy.shapes import TISSUE, Anatomy, Canvas, Rng, Style, log_uniform, smooth_noise


def folded(canvas: Canvas, plan: Rng, a: float, b: float) -> np.ndarray:
    """Skull, cerebrospinal fluid, folded grey matter and white matter of both sides; gives the white matter (S, S)."""
    canvas.ellipse(TISSUE, 0, 0, a * 1.22, b * 1.22)
    canvas.ellipse(TISSUE + 1, 0, 0, a * 1.14, b * 1.14)
    folds = smooth_noise(canvas.own, canvas.size, int(plan.integers(12, 20)))[0] * plan.uniform(0.02, 0.06)
    r = canvas.radius(0, 0, a, b) + folds
    canvas.labels[r < 1.05] = 1  # fluid
    left = canvas.bent_x < 0
    shell = plan.uniform(0.76, 0.86)
    deep = canvas.radius(0, 0, a, b) + folds * 2.5
    canvas.labels[r < 1] = np.where(left, 2, 3)[r < 1]
    white = (deep < shell) & (r < 1)
    canvas.labels[white] = np.where(left, 4, 5)[white]
    canvas.labels[(np.abs(canvas.bent_x) < 0.015) & (np.abs(canvas.bent_y) > 0.3 * a) & (r < 1)] = 1
    return white


def parcels(canvas: Canvas, plan: Rng, lobes: int) -> None:
    """Cut the grey matter (2, 3) into `lobes` parcels a side by angle: values from 60, all of one material."""
    turn = np.arctan2(canvas.bent_y, np.abs(canvas.bent_x) + 1e-3) / np.pi + 0.5
    cuts = np.sort(plan.uniform(0, 1, lobes - 1)) + canvas.own.normal(size=lobes - 1) * 0.015
    index = np.digitize(turn, np.sort(cuts))
    for side, value in enumerate((2, 3)):
        where = canvas.labels == value
        canvas.labels[where] = (60 + side * lobes + index)[where]
    canvas.alike(2, *range(60, 60 + 2 * lobes))


def brain(plan: Rng, own: Rng, size: int) -> Anatomy:
    """A symmetric map: ventricles, deep nuclei in pairs, grey and white matter, up to 42 parcels of the cortex."""
    canvas = Canvas(own, size, vary=plan.uniform(0.002, 0.01), wobble=plan.uniform(0.004, 0.014))
    a, b = plan.uniform(0.62, 0.8), plan.uniform(0.5, 0.66)
    white = folded(canvas, plan, a, b)
    value, names = 10, int(plan.integers(4, 13))
    grey = plan.integers(2, 6, names)  # materials: fluid-like, grey-like and in between are shared among nuclei
    for k in range(names):
        cy, cx = plan.uniform(-0.62, 0.62) * a, plan.uniform(0.08, 0.62) * b
        h, w = log_uniform(plan, 0.04, 0.2), log_uniform(plan, 0.025, 0.11)
        angle = plan.normal() * 0.6
        for side in (-1, 1):
            canvas.ellipse(value, cy, side * cx, h, w, side * angle, white)
            canvas.materials[value] = 1 if k == 0 else 100 + grey[k]
            value += 1
    if plan.random() < 0.4:  # the third ventricle, or a midline structure
        canvas.ellipse(value, plan.uniform(-0.1, 0.4), 0, plan.uniform(0.05, 0.2), 0.03)
    if plan.random() < 0.5:
        parcels(canvas, plan, int(plan.integers(4, 22)))
    canvas.alike(2, 3)
    canvas.alike(4, 5)
    return canvas.anatomy()


def sector(canvas: Canvas, plan: Rng) -> np.ndarray:
    """(S, S): the fan that an ultrasound probe above the picture sees."""
    top, opening = plan.uniform(-1.9, -1.05), plan.uniform(0.5, 1.0)
    reach = np.hypot(canvas.y - top, canvas.x)
    near = -1 - top
    return (np.abs(np.arctan2(canvas.x, canvas.y - top)) < opening) & (reach > near * 0.9) & (reach < near + 1.95)


def fetus(plan: Rng, own: Rng, size: int) -> Anatomy:
    """A bright ellipse in speckle, brightest where the beam meets it at a right angle; inside much as outside."""
    canvas = Canvas(own, size, Style.ULTRASOUND, vary=0.08, wobble=plan.uniform(0.004, 0.015))
    seen = sector(canvas, plan)
    canvas.labels[seen] = TISSUE
    canvas.labels[(smooth_noise(own, size, 4)[0] > 0.7) & seen] = TISSUE + 1
    r0, aspect = log_uniform(plan, 0.25, 0.75), plan.uniform(0.65, 0.95)
    angle = np.pi / 2 + plan.normal() * 0.3 + own.normal() * 0.5
    cy, cx = own.normal(size=2) * 0.15 + [0.05, 0]
    r = canvas.ellipse(1, cy, cx, r0, r0 * aspect, angle, seen)
    bone = np.exp(-(((r - 1) / plan.uniform(0.03, 0.08)) ** 2))
    facing = 0.35 + 0.65 * np.abs(np.clip((canvas.y - cy) / r0, -1, 1))
    shade = np.clip(smooth_noise(own, size, 3)[0] * 0.4 + 1, 0.2, 1.3)
    canvas.relief = (bone * facing * shade).astype(np.float32)
    canvas.relief += 0.3 * (np.abs(smooth_noise(own, size, 9)[0]) < 0.12) * (r < 0.9)  # midline echoes and the like
    canvas.materials[1] = TISSUE if plan.random() < 0.6 else 1
    canvas.relief += 0.15 * smooth_noise(own, size, 6)[0] + 0.1 * smooth_noise(own, size, 20)[0]
    canvas.relief *= seen
    return canvas.anatomy()


def lumps(plan: Rng, own: Rng, size: int) -> Anatomy:
    """Ultrasound of soft tissue: one or two lesions or vessels under layers of fat and muscle, shadow below."""
    canvas = Canvas(own, size, Style.ULTRASOUND, vary=0.03, wobble=plan.uniform(0.02, 0.05))
    seen = sector(canvas, plan) if plan.random() < 0.5 else np.ones((size, size), bool)
    edges = np.sort(plan.uniform(-0.8, 0.9, int(plan.integers(1, 4))))
    canvas.labels[:] = TISSUE + np.digitize(canvas.bent_y, edges)
    for value in range(1, int(plan.integers(2, 4))):
        cy, cx = plan.uniform(-0.5, 0.4), plan.uniform(-0.5, 0.5)
        a, b = log_uniform(plan, 0.1, 0.4), log_uniform(plan, 0.12, 0.5)
        r = canvas.ellipse(value, cy, cx, a, b, plan.normal() * 0.3)
        below = (canvas.y > cy) & (np.abs(canvas.x - cx) < b) & (r > 1)
        canvas.relief[below] += plan.uniform(-0.5, 0.4)
    canvas.labels[~seen] = 0
    canvas.relief[~seen] = 0
    return canvas.anatomy()
