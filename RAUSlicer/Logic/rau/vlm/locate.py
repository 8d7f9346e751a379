"""Step 3 of the way of the data: where does each structure of a reference slice lie in a target slice?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from rau.vlm.boxes import Box, box_of_mask
from rau.vlm.cues import Cue
from rau.vlm.dialogue import Dialogue, Encoded, encode
from rau.vlm.pictures import overlay
from rau.vlm.prefix import PrefixCache, read_with_prefix
from rau.vlm.prompts import GRID, MOST, question, segment_answer
from rau.vlm.store import Loaded

if TYPE_CHECKING:
    import torch

    from rau.vlm.model import Reading


@dataclass
class Locator:
    """A reasoner asked in one pass: nothing is generated, the answer with a `<Seg>` for each structure is given to it.

    cache: of the reference's part; None computes everything each time.
    """

    loaded: Loaded
    cache: PrefixCache | None = None
    device: str = "cpu"
    _start: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        tokenizer = self.loaded.processor.tokenizer
        self._start = int(tokenizer.convert_tokens_to_ids("<|vision_start|>"))

    def locate(
        self, reference: np.ndarray, masks: Mapping[str, np.ndarray], target: np.ndarray, two_way: str = "off"
    ) -> dict[str, Cue]:
        """A cue of every structure, by name. reference, target: (S, S, 3) uint8; masks: (S, S) bool, none empty.

        two_way: whether, and how, the states at the target's tokens come with it (`rau.sam.two_way`).
        More structures than there are colours are asked for in several dialogues.
        """
        names, found = list(masks), {}
        for first in range(0, len(names), MOST):
            some = names[first : first + MOST]
            found.update(self._ask(reference, {name: masks[name] for name in some}, target, two_way))
        return found

    def _ask(
        self, reference: np.ndarray, masks: Mapping[str, np.ndarray], target: np.ndarray, two_way: str
    ) -> dict[str, Cue]:
        import torch

        from rau.vlm.again import read_twice, target_states
        from rau.vlm.heads import share_of

        names = tuple(masks)
        images = (reference, overlay(reference, list(masks.values())), target)
        anchors = [box_of_mask(mask) for mask in masks.values()]
        known: dict[str, Box] = {name: box for name, box in zip(names, anchors) if box is not None}
        if len(known) < len(names):
            raise ValueError("a structure has no pixel in the reference")
        dialogue = self._dialogue(known, images)
        with torch.inference_mode():
            encoded = encode(self.loaded.processor, [dialogue]).to(self.device)
            reasoner, twice = self.loaded.reasoner, two_way == "conditioned"
            if self.cache is None:
                reading = read_twice(reasoner, encoded) if twice else reasoner.read(encoded.inputs)
            else:
                key = self.cache.key(names, images)
                reading = read_with_prefix(reasoner, encoded, self._start, self.cache, key, twice)
            boxes = torch.tensor([known[name] for name in names], device=self.device)
            shares = share_of(torch.from_numpy(np.stack(list(masks.values()))), self.loaded.cells).to(self.device)
            numbers = self._read_off(encoded, reading, boxes, shares)
            seen = target_states(reading, encoded.of, two_way)
            numbers += () if seen is None else (seen,)
            rows = zip(*(one.float().cpu().numpy() for one in numbers))
        return {name: _cue(*row) for name, row in zip(names, rows)}

    def _dialogue(self, known: Mapping[str, Box], images: tuple[np.ndarray, ...]) -> Dialogue:
        """Question and answer, with one `<Seg>` for each of the structures. known: their boxes in the reference."""
        names = tuple(known)
        return Dialogue(names, question("segment", known, GRID), images, segment_answer(names))

    def _read_off(
        self, encoded: Encoded, reading: Reading, anchors: torch.Tensor, shares: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Presence (K,), boxes (K, 4), states (K, H), masks (K, GR, GR), in parts of 1 where they are no states."""
        cues = self.loaded.reasoner.cues(reading, encoded.spots, encoded.of, anchors, shares)
        return cues.presence.sigmoid(), cues.boxes.clamp(0, 1), cues.states, cues.masks.sigmoid()


def _cue(
    presence: np.ndarray, box: np.ndarray, state: np.ndarray, mask: np.ndarray, target: np.ndarray | None = None
) -> Cue:
    x0, y0, x1, y1 = (float(v) for v in box)
    return Cue(float(presence), (x0, y0, max(x1, x0), max(y1, y0)), state, mask, target)
