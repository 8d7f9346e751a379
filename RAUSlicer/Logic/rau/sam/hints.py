"""What the VLM tells the segmenter of a slice: boxes, fused tokens and fields of some structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from rau.sam.injection import Injection
from rau.sam.segmenter import Features, Masks, Memory, Segmenter

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Hints:
    """By label value. boxes: x0, y0, x1, y1 as fractions of the square. tokens: (C,), the z of `rau.sam.fusion`.

    fields: (C, G, G), of `rau.sam.two_way`, of structures that have a token; others are decoded without.
    """

    boxes: Mapping[int, tuple[float, float, float, float]]
    tokens: Mapping[int, np.ndarray]
    fields: Mapping[int, np.ndarray] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        """What there is of it, by the names of the uses of the VLM."""
        told = {"boxes": self.boxes, "fusion": self.tokens, "two-way": self.fields}
        return tuple(name for name, known in told.items() if known)


@dataclass(frozen=True)
class Hinted:
    """Who decodes hinted rows: the segmenter whose decoder was trained with tokens, and how these go in."""

    segmenter: Segmenter
    injection: Injection = "token"


@dataclass(frozen=True)
class Rows:
    """What is decoded in one slice: features and memories of K rows, mask prompts (K, 1, S, S) or None.

    remember: whether the masks are to become memory.
    """

    features: Features
    references: Sequence[Memory]
    neighbours: Sequence[Memory]
    prompts: torch.Tensor | None
    remember: bool = False

    def part(self, index: torch.Tensor) -> Rows:
        near = [one.rows(index) for one in self.neighbours]
        prompts = None if self.prompts is None else self.prompts[index]
        seen = [one.rows(index) for one in self.references]
        return Rows(self.features.rows(index), seen, near, prompts, self.remember)


def decode(
    segmenter: Segmenter, rows: Rows, values: Sequence[int], hints: Hints | None, hinted: Hinted | None
) -> Masks:
    """Masks of the rows, which are `values` in this order; those with a token by the decoder that knows tokens."""
    import torch

    told = torch.tensor([hints is not None and value in hints.tokens for value in values], device=segmenter.device)
    if hints is None or hinted is None or not told.any():
        return _decoded(segmenter, rows, values, hints)
    done = []
    for by_token in (True, False):
        index = torch.nonzero(told == by_token)[:, 0]
        if len(index):
            who = hinted if by_token else Hinted(segmenter)
            some = [values[k] for k in index.tolist()]
            done.append((index, _decoded(who.segmenter, rows.part(index), some, hints, who.injection, by_token)))
    return Masks.interleave(done)


def _decoded(
    segmenter: Segmenter,
    rows: Rows,
    values: Sequence[int],
    hints: Hints | None,
    injection: Injection = "token",
    with_tokens: bool = False,
) -> Masks:
    """Rows that all have a token to be used, or none."""
    import torch

    tokens, fields, boxes, missing = None, None, None, (float("nan"),) * 4
    if hints is not None and with_tokens:
        tokens = torch.from_numpy(np.stack([hints.tokens[value] for value in values])).to(segmenter.device)
        fields = _fields(hints.fields, values, segmenter)
    if hints is not None and hints.boxes:
        boxes = torch.tensor([hints.boxes.get(value, missing) for value in values], device=segmenter.device)
        boxes = boxes * segmenter.size
    return segmenter.decode(
        rows.features,
        rows.references,
        rows.neighbours,
        rows.prompts,
        tokens=tokens,
        boxes=boxes,
        injection=injection,
        remember=rows.remember,
        fields=fields,
    )


def _fields(known: Mapping[int, np.ndarray], values: Sequence[int], segmenter: Segmenter) -> torch.Tensor | None:
    """(K, C, G, G); zero, which adds nothing, where a value has none. None where no value has one."""
    import torch

    shapes = [known[value].shape for value in values if value in known]
    if not shapes:
        return None
    nothing = np.zeros(shapes[0], np.float32)
    return torch.from_numpy(np.stack([known.get(value, nothing) for value in values])).to(segmenter.device)
