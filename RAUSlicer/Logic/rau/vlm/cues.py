"""What the VLM says of the structures of one target slice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rau.vlm.boxes import Box


@dataclass(frozen=True)
class Cue:
    """One structure in one target slice. presence: 0 to 1. box: as fractions of the square picture (`rau.vlm.boxes`).

    state: (H,) float32, hidden state at its `<Seg>` token. mask: (GR, GR) float32 in 0 to 1, where the VLM itself sees
    it, coarsely. score: how sure the mask is, its mean where it is over a half (0 where it is nowhere).
    target: (G G, H) float32, states at the target's tokens (`rau.vlm.again`); None where nobody asked for them.
    look: 0 to 1, whether a closer look is worth while (`rau.vlm.routing`); None where nobody asked.
    """

    presence: float
    box: Box
    state: np.ndarray
    mask: np.ndarray
    target: np.ndarray | None = None
    look: float | None = None

    @property
    def score(self) -> float:
        inside = self.mask[self.mask > 0.5]
        return float(inside.mean()) if len(inside) else 0.0


def between(first: Cue, second: Cue, share: float) -> Cue:
    """The cue of a slice between two key slices: `share` of the second. The state is the nearer one's."""

    def mix(a: float, b: float) -> float:
        return (1 - share) * a + share * b

    x0, y0, x1, y1 = (mix(a, b) for a, b in zip(first.box, second.box))
    mask = (1 - share) * first.mask + share * second.mask
    near = first if share < 0.5 else second
    look = None if first.look is None or second.look is None else mix(first.look, second.look)
    presence = mix(first.presence, second.presence)
    return Cue(presence, (x0, y0, x1, y1), near.state, mask.astype(np.float32), look=look)
