"""Language to vision: what the VLM makes of the target's picture is added to SAM2's image embedding (papers.md B2).

E = E_v + E_lv with E_lv = up(M2 ReLU(M1 H_img)) (B3). H_img: hidden states of the last layer at the target's image
tokens. Names of axes: N rows (a structure in a slice), G tokens a side of the VLM's picture, H width of its states, C
and T width and side (S / 16) of SAM2's image embedding. Picture and embedding are of the same square.

"released": the states as they come. Their mask is causal, so they have seen what stands before them: here the legend
with all names, the reference and its overlay, but neither question nor answer; all structures of a slice share one
E_lv. "conditioned": the states of a second reading after the question and the structure's own answer
(`rau.vlm.again`), so each structure has its own.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

TwoWay = Literal["off", "released", "conditioned"]
TWO_WAYS: tuple[TwoWay, ...] = ("off", "released", "conditioned")


class LanguageToVision(nn.Module):
    """M2 ReLU(M1 H_img) (B3), without the dropout of the released code.

    The last layer begins at zero: untrained, it adds nothing to the embedding.
    """

    def __init__(self, hidden: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """states: (N, G G, H), tokens by rows (y, x), any floating type -> (N, C, G, G). Raises ValueError."""
        hidden = self.layers[0].in_features
        side = round(states.shape[1] ** 0.5) if states.dim() == 3 else 0
        if side == 0 or states.shape[1:] != (side * side, hidden):
            raise ValueError(f"states must have the shape (N, G * G, {hidden}), not {tuple(states.shape)}")
        made: torch.Tensor = self.layers(states.to(self.layers[0].weight.dtype))
        return made.transpose(1, 2).unflatten(2, (side, side))


def grown(fields: torch.Tensor, side: int) -> torch.Tensor:
    """Bilinear, cell centres on cell centres. fields: (N, C, any, any) -> (N, C, side, side)."""
    return F.interpolate(fields, size=(side, side), mode="bilinear", align_corners=False)
