"""Stained microscopy: many cells, of which one kind is labelled."""

from __future__ import annotations

import numpy as np

from rau.training.anatomy.shapes import TISSUE, Anatomy, Canvas, Rng, Style, log_uniform, smooth_noise


def nucleus(canvas: Canvas, value: int, cy: float, cx: float, r: float, lobes: int, within: np.ndarray) -> None:
    """A round nucleus, or `lobes` lobes in an arc (a granulocyte's), or a bean (2 lobes)."""
    if lobes < 2:
        canvas.ellipse(value, cy, cx, r, r * canvas.own.uniform(0.8, 1.1), within=within)
        return
    turn, arc = canvas.own.uniform(0, 2 * np.pi), canvas.own.uniform(0.7, 1.3)
    for k in range(lobes):
        at = turn + (k - (lobes - 1) / 2) * arc
        size = r * canvas.own.uniform(0.45, 0.65)
        canvas.ellipse(value, cy + 0.55 * r * np.sin(at), cx + 0.55 * r * np.cos(at), size, size, within=within)


def crowd(canvas: Canvas, count: int, radius: float, pale: float) -> None:
    """Unlabelled round cells of one kind (red blood cells), paler in the middle by `pale`."""
    for _ in range(count):
        cy, cx = canvas.own.uniform(-1.1, 1.1, 2)
        r = canvas.radius(cy, cx, radius, radius * canvas.own.uniform(0.85, 1.15))
        canvas.labels[r < 1] = TISSUE + 1
        canvas.relief[r < 1] = -pale * np.clip(1 - r[r < 1] * 1.4, 0, 1)


def smear(plan: Rng, own: Rng, size: int) -> Anatomy:
    """A blood smear: one cell with cytoplasm and nucleus in the middle among others that are not asked for."""
    canvas = Canvas(own, size, Style.STAIN, vary=0.015, wobble=plan.uniform(0.006, 0.02))
    canvas.labels[:] = TISSUE
    red = plan.uniform(0.2, 0.4)
    crowd(canvas, int(plan.integers(3, 16)), red, plan.uniform(0, 0.5))
    radius, share = log_uniform(plan, 0.25, 0.6), plan.uniform(0.55, 0.92)
    lobes, kinds = int(plan.integers(1, 5)), int(plan.choice([1, 1, 1, 2]))
    for k in range(kinds):
        cy, cx = own.normal(size=2) * (0.1 if k == 0 else 0.5)
        r = canvas.ellipse(1, cy, cx, radius, radius * own.uniform(0.85, 1.15))
        nucleus(canvas, 2, cy, cx, radius * share, lobes, r < 0.97)
    if plan.random() < 0.4:
        canvas.relief += 0.25 * smooth_noise(own, size, 48)[0] * (canvas.labels == 1)  # granules
    return canvas.anatomy()


def tissue_cells(plan: Rng, own: Rng, size: int) -> Anatomy:
    """A section: nuclei of two kinds in a stroma, one kind of them labelled; glands in some."""
    canvas = Canvas(own, size, Style.STAIN if plan.random() < 0.6 else Style.PLAIN, vary=0.01, wobble=0.012)
    radius, aspect = log_uniform(plan, 0.04, 0.14), plan.uniform(1.0, 2.4)
    share, gland = plan.uniform(0.2, 0.7), plan.random() < 0.4
    stroma = smooth_noise(own, size, int(plan.integers(3, 8)))[0] > plan.uniform(-0.5, 0.8)
    canvas.labels[:] = TISSUE
    canvas.labels[stroma] = 3 if gland else TISSUE + 1
    around = plan.uniform(1.2, 2.2) if plan.random() < 0.5 else 0.0
    for _ in range(int(plan.integers(8, 40) * min(1.0, 0.09 / radius))):
        cy, cx = own.uniform(-1, 1, 2)
        mine = own.random() < share
        a = radius * own.uniform(0.8, 1.2) * (1.0 if mine else 0.7)
        r = canvas.radius(cy, cx, a, a * (aspect if not mine else 1.0), own.uniform(0, np.pi))
        if around and mine:
            canvas.labels[r < around] = 1
        canvas.labels[r < 1] = 2 if mine else TISSUE + 2
    canvas.relief = 0.12 * smooth_noise(own, size, 30)[0]
    return canvas.anatomy()
