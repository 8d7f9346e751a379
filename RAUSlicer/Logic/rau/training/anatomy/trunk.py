"""Sections of a trunk: chest with the heart, abdomen with many organs; and sagittal-like rows of alike bones."""

from __future__ import annotations

import numpy as np

from rau.training.anatomy.shapes import TISSUE, Anatomy, Canvas, Rng, log_uniform, smooth_noise

WALL, FAT, BONE = TISSUE, TISSUE + 1, TISSUE + 2  # unlabelled
ORGANS = (  # y, x, half axes y and x in parts of the body's; angle
    (-0.15, -0.48, 0.5, 0.42, 0.3),
    (-0.05, 0.62, 0.33, 0.16, -0.2),
    (0.45, -0.42, 0.22, 0.15, 0.3),
    (0.45, 0.42, 0.22, 0.15, -0.3),
    (-0.3, 0.3, 0.3, 0.22, -0.4),
    (0.3, 0.07, 0.09, 0.06, 0.0),
    (0.28, -0.1, 0.1, 0.08, 0.0),
    (0.02, 0.1, 0.1, 0.3, 0.2),
    (-0.3, -0.22, 0.13, 0.09, 0.5),
    (0.22, -0.25, 0.04, 0.1, 0.5),
    (0.22, 0.27, 0.04, 0.1, -0.5),
    (0.1, -0.2, 0.12, 0.12, 0.0),
    (-0.5, 0.05, 0.1, 0.3, 0.0),
    (-0.15, 0.35, 0.12, 0.1, 0.0),
    (0.05, -0.5, 0.06, 0.05, 0.0),
)


def wall(canvas: Canvas, plan: Rng) -> tuple[np.ndarray, float, float]:
    """Body outline, fat, muscle, ribs, spine. Gives the cavity (S, S) and the body's half axes (y, x)."""
    a, b = plan.uniform(0.55, 0.75), plan.uniform(0.8, 0.97)
    canvas.ellipse(FAT, 0, 0, a, b)
    thick = plan.uniform(0.04, 0.16)
    canvas.ellipse(WALL, 0, 0, a - thick, b - thick)
    inner = canvas.radius(0, 0, a - thick - 0.09, b - thick - 0.09)
    canvas.ring(int(plan.integers(8, 16)), 0, 0, a - thick - 0.05, b - thick - 0.05, 0.03, [BONE])
    canvas.labels[inner < 1] = FAT if plan.random() < 0.5 else WALL
    spine = canvas.ellipse(1, a * 0.62, 0, 0.13, 0.15)
    canvas.ellipse(BONE, a * 0.62 + 0.22, 0, 0.09, 0.04)
    canvas.ellipse(2, a * 0.62 + 0.13, 0, 0.045, 0.055)  # spinal canal
    return (inner < 1) & (spine > 1.05), a, b


def abdomen(plan: Rng, own: Rng, size: int) -> Anatomy:
    """Liver, spleen, two kidneys, vessels, stomach, bowel and small glands where they lie, varied; some left out."""
    canvas = Canvas(own, size, vary=plan.uniform(0.005, 0.025), wobble=plan.uniform(0.008, 0.025))
    inside, a, b = wall(canvas, plan)
    side = plan.choice([-1, 1])
    for k in plan.permutation(len(ORGANS)):
        y, x, h, w, angle = ORGANS[k]
        stretch = np.exp(plan.normal(size=2) * 0.25)
        if plan.random() < 0.75:
            canvas.ellipse(
                3 + int(k),
                y * a,
                side * x * b,
                h * a * stretch[0],
                w * b * stretch[1],
                side * (angle + plan.normal() * 0.2),
                inside,
            )
    canvas.alike(5, 6)
    canvas.alike(12, 13)
    for value in range(20, 20 + int(plan.integers(0, 5))):  # loops of bowel
        cy, cx, r = *plan.uniform(-0.4, 0.4, 2), log_uniform(plan, 0.05, 0.14)
        canvas.ellipse(
            value, cy, cx, r, r * plan.uniform(0.8, 2.0), plan.uniform(0, 3), inside & (canvas.labels >= TISSUE)
        )
    if plan.random() < 0.5:  # vessels within the organs
        canvas.relief = 0.3 * (np.abs(smooth_noise(own, size, 12)[0]) < 0.1).astype(np.float32)
    return canvas.anatomy()


def ventricles(canvas: Canvas, plan: Rng, cy: float, cx: float, r: float, first: int, turn: float) -> None:
    """Short axis of a heart: round cavity, ring of muscle, crescent of the other ventricle; three values."""
    thick, long = plan.uniform(0.2, 0.45), plan.uniform(0.9, 1.15)
    away = r * plan.uniform(0.7, 0.95)
    y, x = cy + away * np.sin(turn), cx + away * np.cos(turn)
    keep = canvas.vary
    canvas.vary = keep * 0.3
    canvas.ellipse(first + 2, y, x, r * 1.05 * plan.uniform(0.8, 1.1), r * plan.uniform(0.7, 1.0), turn)
    canvas.vary = 0.0
    cy, cx = np.array([cy, cx]) + canvas.own.normal(size=2) * keep * 0.3
    canvas.ellipse(first + 1, cy, cx, r, r * long, turn)
    inner = (1 - thick) * r * np.exp(canvas.own.normal() * 0.12)  # contraction
    blood = canvas.ellipse(first, cy, cx, inner, inner * long, turn)
    for _ in range(int(plan.integers(0, 3))):  # papillary muscles
        at = canvas.own.uniform(0, 2 * np.pi)
        dot = canvas.radius(cy + 0.6 * inner * np.sin(at), cx + 0.6 * inner * np.cos(at), 0.14 * inner, 0.14 * inner)
        canvas.relief[(dot < 1) & (blood < 1)] = -0.5
    canvas.vary = keep
    canvas.alike(first, first + 2)


def chest(plan: Rng, own: Rng, size: int) -> Anatomy:
    """A chest: two lungs, the heart's chambers or a plain heart between them, the aorta."""
    canvas = Canvas(own, size, vary=plan.uniform(0.008, 0.03), wobble=plan.uniform(0.008, 0.025))
    inside, a, b = wall(canvas, plan)
    lung = plan.uniform(0.8, 1.0)
    shown = 0 if plan.random() < 0.7 else TISSUE + 5
    for k, side in enumerate((-1, 1)):
        canvas.ellipse(shown or 3 + k, 0.02, side * 0.45 * b, 0.6 * a * lung, 0.34 * b * lung, 0, inside)
    canvas.alike(3, 4)
    r = plan.uniform(0.14, 0.24)
    cy, cx = plan.uniform(-0.3, 0.0) * a, plan.uniform(0.02, 0.22) * b
    canvas.ellipse(8, cy, cx - 0.3 * r, r * 1.45, r * 1.75, plan.uniform(-0.5, 0.5))
    if plan.random() < 0.75:
        ventricles(canvas, plan, cy, cx, r, 5, np.pi + plan.uniform(-0.6, 0.6))
    canvas.ellipse(9, 0.36 * a, 0.12, 0.065, 0.065)
    canvas.relief = canvas.relief + 0.2 * (np.abs(smooth_noise(own, size, 16)[0]) < 0.1) * (canvas.labels == 3)
    return canvas.anatomy()


def heart(plan: Rng, own: Rng, size: int) -> Anatomy:
    """Cardiac cine MR, field of view on the heart: ventricles among unlabelled tissue, lungs and wall."""
    canvas = Canvas(own, size, vary=plan.uniform(0.01, 0.04), wobble=plan.uniform(0.006, 0.02))
    tissue = smooth_noise(own, size, 3, 3).argmax(0)
    canvas.labels[:] = TISSUE + tissue
    r = log_uniform(plan, 0.12, 0.38)
    cy, cx = plan.uniform(-0.2, 0.2, 2) + own.normal(size=2) * 0.05
    canvas.ellipse(TISSUE + 3, cy, cx, r * 1.9, r * 2.2)
    canvas.ellipse(TISSUE + 4, cy - r * 0.4, cx + r * 2.4, r * 2.2, r * 1.0)  # a lung
    ventricles(canvas, plan, cy, cx, r, 1, np.pi + plan.uniform(-0.8, 0.8))
    if plan.random() < 0.3:
        canvas.ellipse(4, cy + r * 1.5, cx + r * 0.4, r * 0.3, r * 0.3)
    return canvas.anatomy()


def column(plan: Rng, own: Rng, size: int) -> Anatomy:
    """A row of alike bodies with discs between them and a canal behind, as a spine; order tells them apart."""
    canvas = Canvas(own, size, vary=plan.uniform(0.003, 0.012), wobble=plan.uniform(0.006, 0.02))
    canvas.labels[:] = TISSUE + smooth_noise(own, size, 4, 3).argmax(0)
    count, width, curve = int(plan.integers(3, 8)), plan.uniform(0.1, 0.25), plan.uniform(-0.25, 0.25)
    cx, phase = plan.uniform(-0.4, 0.4) + own.normal() * 0.05, plan.uniform(0, 3)
    step, start = 2.0 / count, own.normal() * 0.03
    line = cx + curve * np.sin(phase + 2 * canvas.bent_y)
    canvas.labels[np.abs(canvas.bent_x - line - width * 1.6) < width * 0.3] = 20
    together = plan.random() < 0.3
    for k in range(count):
        y = -1 + step * (k + 0.5) + start
        x = cx + curve * np.sin(phase + 2 * y)
        box = np.maximum(np.abs(canvas.bent_y - y) / (step * 0.36), np.abs(canvas.bent_x - x) / width) < 1
        canvas.labels[box] = 1 if together else 1 + k
        gap = np.maximum(np.abs(canvas.bent_y - y - step / 2) / (step * 0.11), np.abs(canvas.bent_x - x) / width) < 1
        canvas.labels[gap] = 10 if together else TISSUE + 5
    canvas.alike(*range(1, 1 + count))
    return canvas.anatomy()
