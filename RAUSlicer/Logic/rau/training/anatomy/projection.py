"""X-ray-like shadows: bones and lungs that overlap, their brightness added up in the relief."""

from __future__ import annotations

import numpy as np

from rau.training.anatomy.shapes import TISSUE, Anatomy, Canvas, Rng, Style, log_uniform, smooth_noise


def shadow(r: np.ndarray, power: float = 0.5) -> np.ndarray:
    """(S, S) thickness of a solid of radius field r along the beam: 1 in the middle, 0 from the border on."""
    return np.clip(1 - r**2, 0, 1) ** power


def clutter(canvas: Canvas, plan: Rng) -> None:
    """Bones over and under: ribs as arcs, a spine, soft shades; nobody asks for them."""
    own = canvas.own
    canvas.relief += 0.2 * smooth_noise(own, canvas.size, 3)[0]
    strength, pitch = plan.uniform(0.03, 0.16), plan.uniform(0.14, 0.3)
    if plan.random() < 0.6:
        arc = canvas.bent_y - plan.uniform(0.2, 0.7) * canvas.bent_x**2 * plan.choice([-1, 1]) + own.uniform(0, 1)
        canvas.relief += strength * (np.mod(arc, pitch) < 0.35 * pitch)
    if plan.random() < 0.5:
        canvas.relief += strength * 1.5 * shadow(np.abs(canvas.bent_x - own.normal() * 0.1) / plan.uniform(0.08, 0.2))


def lungs(plan: Rng, own: Rng, size: int) -> Anatomy:
    """A chest film: two dark lungs (one material), the heart between them, clavicles and ribs across."""
    canvas = Canvas(own, size, Style.XRAY, vary=0.05, wobble=plan.uniform(0.01, 0.03))
    canvas.ellipse(TISSUE, 0.2, 0, 1.35, plan.uniform(0.85, 1.3))
    clutter(canvas, plan)
    a, b, off = plan.uniform(0.5, 0.75), plan.uniform(0.24, 0.34), plan.uniform(0.38, 0.5)
    for k, side in enumerate((-1, 1)):
        r = canvas.ellipse(1 + k, -0.02, side * off, a, b, side * -0.15)
        canvas.relief -= 0.4 * shadow(r, 0.4)
        collar = canvas.radius(-a - 0.02, side * 0.45, 0.05, 0.42, side * 0.25)
        canvas.relief += 0.3 * shadow(collar)
    y, x, h, w = plan.uniform(0.1, 0.3), plan.uniform(0.0, 0.15), plan.uniform(0.25, 0.4), plan.uniform(0.25, 0.4)
    r = canvas.ellipse(3, y, x, h, w, 0.4)
    canvas.relief += 0.35 * shadow(r)
    canvas.materials[[1, 2, 3]] = [1, 1, TISSUE]
    return canvas.anatomy()


def long_bone(canvas: Canvas, plan: Rng, value: int, at: tuple[float, float], angle: float, width: float) -> np.ndarray:
    """A shaft with a thicker end at `at`, growing along `angle`; gives its mask (S, S). Bright at its borders."""
    y, x = canvas.bent_y - at[0], canvas.bent_x - at[1]
    along, across = np.cos(angle) * y + np.sin(angle) * x, np.cos(angle) * x - np.sin(angle) * y
    flare = width * (1 + plan.uniform(0.5, 1.3) * np.exp(-((along / (2.2 * width)) ** 2)))
    r = np.where(along > -width, np.abs(across + plan.uniform(-0.4, 0.4) * along**2 * 0.3) / flare, 9)
    head = canvas.radius(at[0], at[1] + plan.choice([-1, 1]) * width, width * 1.5, width * 1.5)
    r = np.minimum(r, head)
    canvas.labels[r < 1] = value
    canvas.relief += 0.45 * shadow(r) + 0.35 * np.exp(-(((r - 0.88) / 0.12) ** 2))
    return r < 1


def bones(plan: Rng, own: Rng, size: int) -> Anatomy:
    """A limb or two of the hip in projection: shafts with a head, a socket behind, muscle around."""
    canvas = Canvas(own, size, Style.XRAY, vary=0.02, wobble=plan.uniform(0.01, 0.03))
    canvas.ellipse(TISSUE, plan.uniform(-0.2, 0.2), 0, plan.uniform(0.9, 1.6), plan.uniform(0.7, 1.3))
    clutter(canvas, plan)
    width, angle = log_uniform(plan, 0.08, 0.2), plan.normal() * 0.25
    two = plan.random() < 0.6
    off = plan.uniform(0.3, 0.6) if two else plan.uniform(-0.2, 0.2)
    top = plan.uniform(-0.6, 0.1)
    for k, side in enumerate((-1, 1) if two else (1,)):
        at = (top + own.normal() * 0.05, side * off + own.normal() * 0.04)
        canvas.relief += plan.uniform(0.1, 0.3) * shadow(canvas.radius(at[0] - 0.2, at[1], 0.4, 0.3))
        long_bone(canvas, plan, 1 + k, at, side * angle + own.normal() * 0.05, width)
    canvas.materials[[1, 2]] = TISSUE
    return canvas.anatomy()


def jaw(plan: Rng, own: Rng, size: int) -> Anatomy:
    """A panoramic film: an arch with rami, bright teeth along it, the spine's and the palate's shadows."""
    canvas = Canvas(own, size, Style.XRAY, vary=0.02, wobble=plan.uniform(0.01, 0.025))
    canvas.labels[:] = TISSUE
    clutter(canvas, plan)
    depth, bow, thick = plan.uniform(0.2, 0.5), plan.uniform(0.5, 1.3), plan.uniform(0.13, 0.22)
    middle = depth - bow * canvas.bent_x**2 + own.normal() * 0.05
    body = np.abs(canvas.bent_y - middle) / thick
    reach = plan.uniform(0.75, 0.95)
    ramus = np.maximum(np.abs(np.abs(canvas.bent_x) - reach + 0.08) / 0.13, np.abs(canvas.bent_y - middle + 0.15) / 0.5)
    r = np.minimum(np.where(np.abs(canvas.bent_x) < reach, body, 9), ramus)
    canvas.labels[r < 1] = 1
    canvas.relief += 0.4 * shadow(r) + 0.25 * np.exp(-(((r - 0.9) / 0.1) ** 2))
    tall, count = plan.uniform(0.12, 0.2), int(plan.integers(8, 15))
    tooth = np.abs(np.mod(canvas.bent_x * count / 2 + own.uniform(), 1) - 0.5) / 0.42
    for row in (-1, 1):
        at = middle - thick - tall * (1.1 if row > 0 else 3.2)
        crown = np.maximum(tooth, np.abs(canvas.bent_y - at) / tall)
        canvas.relief += 0.5 * shadow(np.where(np.abs(canvas.bent_x) < reach * 0.7, crown, 9))
        if row > 0 and plan.random() < 0.4:
            canvas.labels[(crown < 1) & (np.abs(canvas.bent_x) < reach * 0.7)] = 2
    canvas.materials[[1, 2]] = TISSUE
    return canvas.anatomy()
