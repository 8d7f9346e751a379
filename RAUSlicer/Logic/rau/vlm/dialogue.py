"""Dialogues as what the model reads: one place for training, inference and every backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rau.vlm.prompts import messages
from rau.vlm.vocabulary import COLOURS, DET, END, LOOK, SEG

if TYPE_CHECKING:
    import torch

ABSENT = " absent"
ROUTES = (DET, SEG, LOOK)  # tokens whose states are read (`rau.vlm.routing`): no space before them


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


def colour_tokens(tokenizer: Any) -> tuple[int, ...]:
    """For each colour of the legend the first token of its word that no other colour has: words may have several."""
    spelt = [tokenizer(f" {one}", add_special_tokens=False)["input_ids"] for one in COLOURS]
    others = [{token for word in spelt if word is not one for token in word} for one in spelt]
    return tuple(int(next(token for token in one if token not in rest)) for one, rest in zip(spelt, others))


def tidy(text: str) -> str:
    """Generated text as the parsers want it: one space before `<Seg>` and its like, whatever there was."""
    text = text.replace(END, "")
    for token in ROUTES:
        text = f" {token}".join(part.rstrip() for part in text.split(token))
    return text


def compact(answer: str) -> str:
    """An answer as the model writes it: without spaces before `<Seg>` and its like."""
    for token in ROUTES:
        answer = answer.replace(f" {token}", token)
    return answer


def text_of(processor: Any, dialogue: Dialogue) -> str:
    """The whole dialogue by the backend's own chat template."""
    turn = messages(dialogue.names, dialogue.question)
    asked: str = processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return asked if dialogue.answer is None else asked + compact(dialogue.answer) + END


def encode(processor: Any, dialogues: Sequence[Dialogue], left: bool = False) -> Encoded:
    """left: pad on the left, as generation wants it."""
    tokenizer = processor.tokenizer
    inputs = processor(
        text=[text_of(processor, one) for one in dialogues],
        images=[list(one.images) for one in dialogues],
        padding=True,
        padding_side="left" if left else "right",
        return_tensors="pt",
    )
    ids = inputs["input_ids"]
    lengths = inputs["attention_mask"].sum(1).tolist()
    answers = []
    for row, one in enumerate(dialogues):
        end = ids.shape[1] if left else lengths[row]
        said = 0 if one.answer is None else answer_length(tokenizer, one.answer)
        answers.append((end - said, end))
    spots, of = spots_of(ids, answers, int(tokenizer.convert_tokens_to_ids(SEG)))
    ready = {key: inputs[key] for key in ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")}
    ready["mm_token_type_ids"] = (ids == processor.image_token_id).long()
    return Encoded(ready, tuple(answers), spots, of)


def spots_of(ids: torch.Tensor, answers: Sequence[tuple[int, int]], token: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(K,) row-wise positions of a token in the answers, and the dialogue of each, in order; as in `Encoded`."""
    import torch

    spots, of = list[int](), list[int]()
    for row, (start, end) in enumerate(answers):
        here = (start + torch.nonzero(ids[row, start:end] == token)[:, 0]).tolist()
        spots += here
        of += [row] * len(here)
    return torch.tensor(spots, dtype=torch.long), torch.tensor(of, dtype=torch.long)


def answer_length(tokenizer: Any, answer: str) -> int:
    """Tokens of an answer, its end token among them."""
    return len(tokenizer(compact(answer) + END, add_special_tokens=False)["input_ids"])
