"""Boxes in words: the VLM writes JSON, is asked again for what is missing or wrong, and matching settles who is who.

The road of a VLM whose `<Seg>` states were never trained (papers.md A10, D8), and what GRPO trains in the box task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from rau.matching.cost import named_probability
from rau.matching.transport import match_until
from rau.vlm.answers import ask_until, salvage_boxes
from rau.vlm.boxes import Box, as_array, box_of_mask
from rau.vlm.dialogue import Dialogue, encode, tidy
from rau.vlm.pictures import overlay
from rau.vlm.prompts import question

if TYPE_CHECKING:
    from rau.vlm.store import Loaded

MOST_TOKENS = 512  # of an answer


def generate(loaded: Loaded, dialogue: Dialogue, most: int = MOST_TOKENS, device: str = "cpu") -> str:
    """The model's own answer, greedy; whole, with its thoughts and tags."""
    import torch

    encoded = encode(loaded.processor, [dialogue], left=True).to(device)
    tokenizer = loaded.processor.tokenizer
    start = encoded.inputs["input_ids"].shape[1]
    with torch.inference_mode():
        ids = loaded.reasoner.vlm.generate(
            **encoded.inputs,
            max_new_tokens=most,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    return tidy(tokenizer.decode(ids[0, start:], skip_special_tokens=False))


def boxes_in_words(
    loaded: Loaded, reference: np.ndarray, masks: Mapping[str, np.ndarray], target: np.ndarray, device: str = "cpu"
) -> dict[str, Box | None]:
    """A box of every structure in the target, or None: absent, or not found after asking twice again.

    reference, target: (S, S, 3) uint8; masks: (S, S) bool, none empty. Structures that no answer names, and boxes that
    fit no structure's place (papers.md A3.4), are asked for again.
    """
    anchors = {name: box for name, mask in masks.items() if (box := box_of_mask(mask)) is not None}

    def ask(names: Sequence[str], wrong: str) -> str:
        some = {name: anchors[name] for name in names}
        asked = question("boxes", some, loaded.convention) + (f" Your last answer was wrong: {wrong}" if wrong else "")
        images = (reference, overlay(reference, [masks[name] for name in names]), target)
        return generate(loaded, Dialogue(tuple(names), asked, images), device=device)

    def boxes_of(names: Sequence[str], tries: int) -> tuple[list[str], list[Box], set[str]]:
        found, _ = ask_until(ask, names, partial(salvage_boxes, convention=loaded.convention), tries)
        here = {name: box for name, box in found.items() if box is not None}
        return list(here), list(here.values()), set(found) - set(here)

    order = list(anchors)
    named, boxes, absent = boxes_of(order, 2)

    def again(structures: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        names, more, _ = boxes_of([order[k] for k in structures], 0)
        return as_array(more), probability_of(names, order)

    away = [order.index(name) for name in absent]
    rows = as_array(list(anchors.values()))
    matched = match_until(again, as_array(boxes), probability_of(named, order), rows, absent=away)
    return dict.fromkeys(masks) | dict(zip(order, matched.boxes))


def probability_of(names: Sequence[str], order: Sequence[str]) -> np.ndarray:
    """(N, M) of N boxes that the VLM has given these names."""
    return named_probability([order.index(name) for name in names], len(order))
