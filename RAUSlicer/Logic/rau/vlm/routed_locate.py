"""A VLM asked for everything at once: one routed answer of text, boxes, outlines and closer looks (papers.md C2).

The answer is written by the model and read strictly: it says the modality and, in words, what is there. Numbers for
every structure (presence, box at `<Det>`, state and mask at `<Seg>`, closer look at `<Look>`) are read in one pass over
the answer with all tokens, so that there are some of structures too that the model left out or believes absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from rau.vlm.answers import AnswerError, answer_of
from rau.vlm.asking import generate
from rau.vlm.boxes import Box
from rau.vlm.cues import Cue
from rau.vlm.dialogue import Dialogue, Encoded
from rau.vlm.locate import Locator
from rau.vlm.routing import ASKS, UNKNOWN, forced, in_words, modality_of, parse_routed, question

if TYPE_CHECKING:
    import torch

    from rau.vlm.model import Reading

TOKENS, EACH = 48, 24  # of an answer at most: in all, and more for each structure


@dataclass(frozen=True)
class Said:
    """A routed answer. modality: of `rau.vlm.routing.MODALITIES`; words: the answer as sentences, "" for a faulty one;
    fault: what was wrong with it, one line, else "".
    """

    modality: str
    words: str
    fault: str = ""


def understood(text: str, names: tuple[str, ...]) -> Said:
    """What a written answer says. Never raises: of a faulty one the modality may still be read."""
    try:
        answer = parse_routed(text, names, ASKS)
        return Said(answer.modality, in_words(answer))
    except AnswerError as fault:
        try:
            modality, _ = modality_of(answer_of(text))
        except AnswerError:
            modality = UNKNOWN
        return Said(modality, "", fault.message)


@dataclass
class RoutedLocator(Locator):
    """said: of the last call of `locate`, one for each dialogue."""

    said: list[Said] = field(default_factory=list)
    _looks: list[float] = field(default_factory=list, repr=False)

    def locate(
        self, reference: np.ndarray, masks: Mapping[str, np.ndarray], target: np.ndarray, two_way: str = "off"
    ) -> dict[str, Cue]:
        """As `Locator.locate`, with a look in every cue."""
        self.said = []
        return super().locate(reference, masks, target, two_way)

    def _ask(
        self, reference: np.ndarray, masks: Mapping[str, np.ndarray], target: np.ndarray, two_way: str
    ) -> dict[str, Cue]:
        found = super()._ask(reference, masks, target, two_way)
        return {name: replace(cue, look=look) for (name, cue), look in zip(found.items(), self._looks, strict=True)}

    def _dialogue(self, known: Mapping[str, Box], images: tuple[np.ndarray, ...]) -> Dialogue:
        names = tuple(known)
        asked = Dialogue(names, question(ASKS), images)
        self.said.append(understood(generate(self.loaded, asked, TOKENS + EACH * len(names), self.device), names))
        return replace(asked, answer=forced(names, ASKS, self.said[-1].modality))

    def _read_off(
        self, encoded: Encoded, reading: Reading, anchors: torch.Tensor, shares: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        import torch

        from rau.vlm.routed_cues import route_spots, routed_cues, token_ids

        ids = token_ids(self.loaded.processor.tokenizer)
        rows = {key: value.to(anchors.device) for key, value in route_spots(encoded, ids).items()}
        rows |= {"det_anchors": anchors, "det_shares": shares, "seg_shares": shares}
        rows["mates"] = torch.arange(len(anchors), device=anchors.device)
        cues = routed_cues(self.loaded.reasoner, reading, rows, ids)
        self._looks = cues.looks.sigmoid().tolist()
        return cues.presence.sigmoid(), cues.boxes.clamp(0, 1), cues.states, cues.masks.sigmoid()
