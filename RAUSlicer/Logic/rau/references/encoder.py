"""Descriptors of slices for retrieval: the class token of a DINOv2-architecture encoder (papers.md A2, retrieval)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rau.sam.pixels import Frame, normalise, to_square

if TYPE_CHECKING:
    import torch
    from transformers import Dinov2Model


def build_encoder(config: Mapping[str, Any]) -> Dinov2Model:
    """A `transformers` Dinov2Model with random weights. config: arguments of Dinov2Config."""
    from transformers import Dinov2Config, Dinov2Model

    return Dinov2Model(Dinov2Config(**config))


class Encoder:
    """Slices to unit vectors. size: pixels a side that a slice is brought to (multiple of the patch size)."""

    def __init__(self, model: Dinov2Model, size: int) -> None:
        self.model, self.size = model, size

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        """Class tokens. images: (B, 3, size, size) normalised -> (B, D)."""
        return self.model(pixel_values=images).last_hidden_state[:, 0]

    def describe(self, slices: np.ndarray, frame: Frame, batch: int = 64) -> np.ndarray:
        """uint8 slices (N, rows, columns[, 3]) -> (N, D) float32 of unit length."""
        import torch

        found = []
        with torch.inference_mode():
            for start in range(0, len(slices), batch):
                x = normalise(to_square(slices[start : start + batch], frame, self.size))
                x = self.tokens(x.to(self.model.device))
                found.append(torch.nn.functional.normalize(x, dim=1).float().cpu().numpy())
        return np.concatenate(found)
