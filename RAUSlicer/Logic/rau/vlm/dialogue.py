"""Dialogues as what the model reads: one place for training, inference and every backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rau.vlm.prompts import messages
from rau.vlm.vocabulary import END, SEG

if TYPE_CHECKING:
    import torch

ABSENT = " absent"


@dataclass(frozen=True)
class Dialogue:
    """names: of the structures in the legend, in its order. images: reference, overlay, target, (S, S, 3) uint8.

    answer: what the model should say, or is made to say; None: it is asked.
    """

    names: tuple[str, ...]
    question: str
    images: tuple[np.ndarray, ...]
    answer: str | None = None


@dataclass(frozen=True)
class Encoded:
    """inputs: what the model takes. answers: for each dialogue, where its answer begins and ends in the tokens.

    spots, of: (K,) row-wise positions of all `<Seg>` tokens of the answers, and the dialogue of each, in order.
    """

    inputs: dict[str, torch.Tensor]
    answers: tuple[tuple[int, int], ...]
    spots: torch.Tensor
    of: torch.Tensor

    def to(self, device: str) -> Encoded:
        """The same on another device."""
        moved = {key: value.to(device) for key, value in self.inputs.items()}
        return Encoded(moved, self.answers, self.spots.to(device), self.of.to(device))


def token_of(tokenizer: Any, text: str) -> int:
    """The first token of a text."""
    return int(tokenizer(text, add_special_tokens=False)["input_ids"][0])


def tidy(text: str) -> str:
    """Generated text as the parser wants it: one space before `<Seg>`, whatever the tokenizer made of it."""
    parts = [part.rstrip() for part in text.replace(END, "").split(SEG)]
    return f" {SEG}".join(parts)


def text_of(processor: Any, dialogue: Dialogue) -> str:
    """The whole dialogue by the backend's own chat template."""
    turn = messages(dialogue.names, dialogue.question)
    asked: str = processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return asked if dialogue.answer is None else asked + dialogue.answer.replace(f" {SEG}", SEG) + END


def encode(processor: Any, dialogues: Sequence[Dialogue], left: bool = False) -> Encoded:
    """left: pad on the left, as generation wants it."""
    import torch

    tokenizer = processor.tokenizer
    inputs = processor(
        text=[text_of(processor, one) for one in dialogues],
        images=[list(one.images) for one in dialogues],
        padding=True,
        padding_side="left" if left else "right",
        return_tensors="pt",
    )
    ids = inputs["input_ids"]
    seg = int(tokenizer.convert_tokens_to_ids(SEG))
    lengths = inputs["attention_mask"].sum(1).tolist()
    answers, spots, of = [], [], []
    for row, one in enumerate(dialogues):
        end = ids.shape[1] if left else lengths[row]
        said = 0 if one.answer is None else answer_length(tokenizer, one.answer)
        answers.append((end - said, end))
        here = (end - said + torch.nonzero(ids[row, end - said : end] == seg)[:, 0]).tolist()
        spots += here
        of += [row] * len(here)
    ready = {key: inputs[key] for key in ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")}
    ready["mm_token_type_ids"] = (ids == processor.image_token_id).long()
    return Encoded(ready, tuple(answers), torch.tensor(spots, dtype=torch.long), torch.tensor(of, dtype=torch.long))


def answer_length(tokenizer: Any, answer: str) -> int:
    """Tokens of an answer, its end token among them."""
    return len(tokenizer(answer.replace(f" {SEG}", SEG) + END, add_special_tokens=False)["input_ids"])
