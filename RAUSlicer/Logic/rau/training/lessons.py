"""Lessons in reading, for a language model that begins blind to words: text alone, no picture.

A labelling answer looks a colour up in the legend and writes the name that stands there; a box answer writes what the
question gave, moved. One dialogue asks for one name: too seldom for a small model to learn to look up and to copy. So
it first learns to repeat (any tokens, once more after something else), then to read: a whole legend is looked up,
colour after colour, in the very words of the dialogue. Axes: B lessons, L tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rau.training.data import Rng
from rau.vlm.answers import write_boxes, write_label
from rau.vlm.boxes import Box, Convention
from rau.vlm.prompts import GRID, MOST, legend, question
from rau.vlm.vocabulary import COLOURS, END, NAMES

PLACES = tuple(f"{height} {side}" for height in ("upper", "middle", "lower") for side in ("left", "centre", "right"))
BOXES = 0.25  # chance that a lesson copies boxes
LETTERS = 0.25  # chance that names are letters
BETWEEN = 48  # tokens of anything, at most, where a dialogue has its pictures
REPEATS = 0.25  # share of repeating among the lessons, once it can be done
LONGEST = 36  # tokens that are repeated, at most
ALPHABET = 300  # the first tokens of a vocabulary are bytes and special ones
IGNORED = -100
Piece = tuple[str, bool]  # of what is answered, and whether it is to be learnt


def thought_of(where: str, colour: int, name: str) -> str:
    """What a labelling answer thinks before it names a region: `where` it lies or how it looks, then its line of the
    legend, in the same words. colour: index in the legend.
    """
    return f"{where}, {list(COLOURS)[colour]} = {name}"


def names_of(rng: Rng, count: int) -> list[str]:
    """Names, all different: of anatomy, or letters."""
    if rng.random() < LETTERS:
        return [f"region {chr(65 + int(i))}" for i in rng.permutation(26)[:count]]
    return [str(name) for name in rng.permutation(sorted(set(NAMES)))[:count]]


def looked_up(rng: Rng) -> tuple[str, str, list[Piece]]:
    """A legend, a question, and every colour of the legend in any order, each with the name that it has."""
    names = names_of(rng, int(rng.integers(2, MOST + 1)))
    pieces: list[Piece] = []
    for k in rng.permutation(len(names)):
        answer = write_label(names[k], thought_of(str(rng.choice(PLACES)), int(k), names[k]))
        head, sign, tail = answer.partition(" =")
        pieces += [(head + sign, False), (tail + END, True)]
    return legend(names), question("label", {}, GRID), pieces


def copied(rng: Rng, convention: Convention) -> tuple[str, str, list[Piece]]:
    """Boxes of one to three structures, which lie in the target where they lie in the reference."""
    names = names_of(rng, int(rng.integers(1, 4)))
    low, size = rng.uniform(0, 0.7, (len(names), 2)), rng.uniform(0.05, 0.3, (len(names), 2))
    boxes: dict[str, Box] = {n: (*a.tolist(), *b.tolist()) for n, a, b in zip(names, low, low + size)}
    return legend(names), question("boxes", boxes, convention), [(write_boxes(boxes, convention) + END, True)]


def tokens_of(processor: Any, rng: Rng, convention: Convention) -> tuple[list[int], list[int]]:
    """Tokens of a lesson, and what is learnt of each: itself, or nothing (-100)."""
    tokenizer = processor.tokenizer
    told, asked, pieces = copied(rng, convention) if rng.random() < BOXES else looked_up(rng)
    turn = [{"role": "user", "content": [{"type": "text", "text": told}, {"type": "text", "text": "\n" + asked}]}]
    before, after = processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True).split("\n" + asked)
    between = rng.integers(ALPHABET, len(tokenizer), int(rng.integers(BETWEEN + 1))).tolist()

    def spelt(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    ids = spelt(before) + between + spelt(asked + after)
    learnt = [IGNORED] * len(ids)
    for text, wanted in pieces:
        more = spelt(text)
        ids += more
        learnt += more if wanted else [IGNORED] * len(more)
    return ids, learnt


def repeated(count: int, tokens: int, rng: Rng, apart: bool) -> dict[str, Any]:
    """`count` rows of tokens of a vocabulary of `tokens`, and the same tokens again. apart: after something else."""
    length, gap = int(rng.integers(LONGEST // 3, LONGEST + 1)), int(rng.integers(0, BETWEEN + 1)) if apart else 0
    drawn = rng.integers(ALPHABET, tokens, (count, length + gap))
    ids = np.concatenate([drawn, drawn[:, :length]], 1)
    labels = ids.copy()
    labels[:, : length + gap + 1] = IGNORED  # the first of them cannot be known
    return _ready(ids, labels, np.ones_like(ids))


def read_batch(processor: Any, convention: Convention, count: int, rng: Rng, first: bool = False) -> dict[str, Any]:
    """`count` lessons. Keys: text (input_ids, attention_mask), labels (B, L) with -100 where nothing is learnt.

    first: of repeating alone, at once; else some are of repeating, after something else. Those have twice as many rows,
    which are short.
    """
    if first or rng.random() < REPEATS:
        return repeated(2 * count, len(processor.tokenizer), rng, not first)
    drawn = [tokens_of(processor, rng, convention) for _ in range(count)]
    longest = max(len(ids) for ids, _ in drawn)
    ids = np.full((count, longest), processor.tokenizer.pad_token_id)
    labels, mask = np.full((count, longest), IGNORED), np.zeros((count, longest), int)
    for row, (tokens, learnt) in enumerate(drawn):
        ids[row, : len(tokens)], labels[row, : len(tokens)], mask[row, : len(tokens)] = tokens, learnt, 1
    return _ready(ids, labels, mask)


def _ready(ids: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    text = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    return {"text": text, "labels": torch.from_numpy(labels)}
