"""Vessels: one structure is a whole tree. Two instances have other trees of the same kind, as two eyes do."""

from __future__ import annotations

import numpy as np

from rau.training.anatomy.shapes import TISSUE, Anatomy, Canvas, Rng, Style, log_uniform, smooth_noise, stroke, tree


def fundus(plan: Rng, own: Rng, size: int) -> Anatomy:
    """A retina in a round field: vessels grow from the disc in arcades, the macula is darker, light falls unevenly."""
    zoomed = plan.uniform(0.85, 1.25)
    canvas = Canvas(own, size, Style.FUNDUS, vary=0.02, wobble=0.008)
    canvas.ellipse(TISSUE, 0, 0, zoomed, zoomed)
    side, off = plan.choice([-1, 1]), plan.uniform(0.0, 0.6)
    disc, width = plan.uniform(0.12, 0.2), log_uniform(plan, 1.0, 3.2)
    cy, cx = own.normal() * 0.07, side * off + own.normal() * 0.05
    field = canvas.labels > 0
    shade = canvas.radius(cy * 0.5, cx - side * 0.75, 0.3, 0.3)
    canvas.relief = (
        0.25 * smooth_noise(own, size, 4)[0] - 0.4 * np.exp(-(shade**2)) - 0.3 * np.hypot(canvas.y, canvas.x) ** 2
    )
    shown = plan.random() < 0.5
    canvas.ellipse(2 if shown else TISSUE + 1, cy, cx, disc * 1.1, disc, within=field)
    cup = plan.random() < 0.4
    if cup:
        canvas.ellipse(3 if shown else TISSUE + 2, cy, cx, disc * 0.55, disc * 0.5, within=field)
    start = (np.array([cy, cx]) + 1) / 2 * size
    fork, bend = plan.uniform(0.012, 0.03), plan.uniform(0.02, 0.08)
    lines = []
    for k in range(int(plan.integers(4, 9))):
        heading = (k + own.uniform(0.1, 0.9)) * np.pi / 2
        lines.append(tree(own, size, start, heading, width * own.uniform(0.5, 1.1), bend, fork))
    apart = plan.random() < 0.15  # arteries and veins
    for k, line in enumerate(lines):
        canvas.labels[stroke(line, size) & field] = 4 + (k % 2 if apart else 0)
    return canvas.anatomy()


def mesh(plan: Rng, own: Rng, size: int) -> Anatomy:
    """OCTA, microscopy of capillaries: a fine net with some larger vessels, perhaps an empty zone in the middle."""
    canvas = Canvas(own, size, Style.GLOW, vary=0.02)
    canvas.labels[:] = TISSUE
    zone, width = plan.uniform(0.1, 0.3), log_uniform(plan, 0.8, 2.5)
    hole = canvas.radius(0, 0, zone, zone)
    net = np.abs(smooth_noise(own, size, int(plan.integers(14, 26)))[0]) < plan.uniform(0.06, 0.16)
    large = np.zeros((size, size), bool)
    bend, fork = plan.uniform(0.01, 0.05), plan.uniform(0.02, 0.05)
    for _ in range(int(plan.integers(4, 10))):
        turn = own.uniform(0, 2 * np.pi)
        start = size / 2 + size * 0.55 * np.array([np.sin(turn), np.cos(turn)])
        inward = turn + np.pi + own.normal() * 0.5
        large |= stroke(tree(own, size, start, inward, width * own.uniform(0.6, 1.2), bend, fork), size)
    whole = plan.random() < 0.4  # else the capillaries are only background, as graders leave them out
    empty = (hole < 1) if plan.random() < 0.6 else np.zeros((size, size), bool)
    canvas.labels[net & ~empty] = 1 if whole else TISSUE + 1
    canvas.labels[large & ~empty] = 1
    if empty.any() and plan.random() < 0.4:
        canvas.labels[empty] = 2
    if not whole:
        canvas.relief = np.where(net & ~large, 0.25, 0).astype(np.float32)
        canvas.materials[TISSUE + 1] = TISSUE
    canvas.relief = canvas.relief + 0.15 * smooth_noise(own, size, 5)[0]
    return canvas.anatomy()


def angiogram(plan: Rng, own: Rng, size: int) -> Anatomy:
    """A contrast-filled tree over shaded tissue: coronary or cerebral vessels, bronchi, ducts."""
    canvas = Canvas(own, size, Style.XRAY if plan.random() < 0.6 else Style.GLOW, vary=0.03)
    canvas.labels[:] = TISSUE
    canvas.relief = 0.35 * smooth_noise(own, size, 3)[0] + 0.12 * smooth_noise(own, size, 10)[0]
    width, fork, bend = log_uniform(plan, 1.5, 6.0), plan.uniform(0.012, 0.03), plan.uniform(0.015, 0.06)
    for value in range(1, int(plan.integers(2, 4))):
        entry, heading = plan.uniform(0.05, 0.95), plan.uniform(0.25, 0.75) * np.pi
        start = np.array([0.03, entry + own.normal() * 0.06]) * size
        line = tree(own, size, start, heading + own.normal() * 0.1, width, bend, fork)
        canvas.labels[stroke(line, size)] = value
    if plan.random() < 0.5:
        canvas.alike(1, 2)
    return canvas.anatomy()
