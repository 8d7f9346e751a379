"""What the VLM tells the segmenter of a slice: boxes and fused tokens of some structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rau.sam.injection import Injection
from rau.sam.segmenter import Features, Masks, Memory, Segmenter

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Hints:
    """By label value. boxes: x0, y0, x1, y1 as fractions of the square. tokens: (C,), the z of `rau.sam.fusion`."""

    boxes: Mapping[int, tuple[float, float, float, float]]
    tokens: Mapping[int, np.ndarray]


@dataclass(frozen=True)
class Hinted:
    """Who decodes hinted rows: the segmenter whose decoder was trained with tokens, and how these go in."""

    segmenter: Segmenter
    injection: Injection = "token"


@dataclass(frozen=True)
class Rows:
    """What is decoded in one slice: features and memories of K rows, mask prompts (K, 1, S, S) or None."""

    features: Features
    references: Sequence[Memory]
    neighbours: Sequence[Memory]
    prompts: torch.Tensor | None

    def part(self, index: torch.Tensor) -> Rows:
        near = [one.rows(index) for one in self.neighbours]
        prompts = None if self.prompts is None else self.prompts[index]
        return Rows(self.features.rows(index), [one.rows(index) for one in self.references], near, prompts)


def decode(
    segmenter: Segmenter, rows: Rows, values: Sequence[int], hints: Hints | None, hinted: Hinted | None
) -> Masks:
    """Masks of the rows, which are `values` in this order; those with a token by the decoder that knows tokens."""
    import torch

    if hints is None:
        return segmenter.decode(rows.features, rows.references, rows.neighbours, rows.prompts)
    missing = (float("nan"),) * 4
    boxes = torch.tensor([hints.boxes.get(value, missing) for value in values], device=segmenter.device)
    boxes = boxes * segmenter.size if hints.boxes else None
    told = torch.tensor([value in hints.tokens for value in values], device=segmenter.device)
    if hinted is None or not told.any():
        return segmenter.decode(rows.features, rows.references, rows.neighbours, rows.prompts, boxes=boxes)
    done = []
    for by_token in (True, False):
        index = torch.nonzero(told == by_token)[:, 0]
        if not len(index):
            continue
        part, some = rows.part(index), None if boxes is None else boxes[index]
        tokens = np.stack([hints.tokens[values[k]] for k in index.tolist()]) if by_token else None
        done.append(
            (
                index,
                (hinted.segmenter if by_token else segmenter).decode(
                    part.features,
                    part.references,
                    part.neighbours,
                    part.prompts,
                    tokens=None if tokens is None else torch.from_numpy(tokens).to(segmenter.device),
                    boxes=some,
                    injection=hinted.injection,
                ),
            )
        )
    return Masks.interleave(done)
