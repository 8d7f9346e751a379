"""What an answer of the VLM is worth: the pure rewards of `rau.training.rewards` in the form that TRL asks for.

TRL's own text of a completion has lost its special tokens, and with them the layout: answers are read from the token
ids here. Masks for the segment task are the VLM's own coarse ones, read off the states of the `<Seg>` it wrote. The
same judge tells how good greedy answers are to questions about subjects that were never trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rau.errors import RauError
from rau.training.batch import make_batch
from rau.training.data import Layout, Mixture, Source
from rau.training.items import Item, draw, shares_of
from rau.training.rewards import box_reward, box_scores, label_reward, segment_reward
from rau.vlm.answers import AnswerError, parse_boxes, parse_label, parse_segments, salvage_boxes
from rau.vlm.dialogue import Dialogue, encode, tidy
from rau.vlm.prompts import Task
from rau.vlm.store import Loaded


@dataclass(frozen=True)
class Judgement:
    """reward: of RAU Eq. 2. quality: 0 to 1: right label, mean IoU or mean Dice. valid: the answer can be parsed."""

    reward: float
    quality: float
    valid: bool


def text_of_ids(tokenizer: Any, ids: Sequence[int]) -> str:
    """An answer as the parsers want it, special tokens and all. ids: of one completion, without padding."""
    return tidy(tokenizer.decode(list(ids), skip_special_tokens=False))


class Judge:
    """Scores answers to items (of one task each); calling it is a reward function of TRL.

    The masks of the segment task are read with the weights that `loaded` has at the time.
    """

    __name__ = "reward"

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded

    def __call__(
        self, completion_ids: Sequence[Sequence[int]], item: Sequence[Item], log_metric: Any = None, **_: Any
    ) -> list[float]:
        """Rewards of the completions of a batch, (B,). item: the column of the data set, one for each completion."""
        texts = [text_of_ids(self.loaded.processor.tokenizer, ids) for ids in completion_ids]
        judged = self.judge(item, texts)
        if log_metric is not None:
            log_metric("quality", float(np.mean([one.quality for one in judged])))
            log_metric("valid", float(np.mean([one.valid for one in judged])))
        return [one.reward for one in judged]

    def judge(self, items: Sequence[Item], texts: Sequence[str]) -> list[Judgement]:
        """One judgement for each item and text (RAU Eq. 2; papers.md A3.3)."""
        if not items:
            return []
        if items[0].task == "segment":
            return self._segments(items, texts)
        one = self._label if items[0].task == "label" else self._boxes
        return [one(item, text) for item, text in zip(items, texts)]

    def _label(self, item: Item, text: str) -> Judgement:
        truth = item.names[item.marked or 0]
        try:
            said: str | None = parse_label(text, item.names)
        except AnswerError:
            said = None
        return Judgement(label_reward(text, truth, item.names), float(said == truth), said is not None)

    def _boxes(self, item: Item, text: str) -> Judgement:
        truth, convention = {one.name: one.box for one in item.structures}, self.loaded.convention
        try:
            found, valid = parse_boxes(text, item.names, convention), True
        except AnswerError:
            found, valid = salvage_boxes(text, item.names, convention)[0], False
        return Judgement(box_reward(text, truth, convention), float(np.mean(box_scores(found, truth))), valid)

    def _segments(self, items: Sequence[Item], texts: Sequence[str]) -> list[Judgement]:
        said = [self._present(item, text) for item, text in zip(items, texts)]
        scores = self.dice(items, texts, said)
        return [
            Judgement(segment_reward(text, item.names, dice), float(np.mean(dice)), one is not None)
            for item, text, dice, one in zip(items, texts, scores, said)
        ]

    def _present(self, item: Item, text: str) -> dict[str, bool] | None:
        """What the answer says is there; None where it cannot be parsed, or holds what only a prompt may hold."""
        if self.loaded.processor.image_token in text:
            return None
        try:
            return parse_segments(text, item.names)
        except AnswerError:
            return None

    @torch.no_grad()
    def dice(
        self, items: Sequence[Item], texts: Sequence[str], said: Sequence[dict[str, bool] | None]
    ) -> list[list[float]]:
        """Dice of each structure's coarse mask, 0 to 1; an absent one answered absent scores 1, no answer 0.

        Axes: for each item one number a structure. said: what `texts` say, None where they cannot be parsed.
        """
        rows = [i for i, one in enumerate(said) if one is not None and any(one.values())]
        masks = iter(self._masks([items[i] for i in rows], [texts[i] for i in rows], [said[i] or {} for i in rows]))
        found = []
        for item, one in zip(items, said):
            scores = []
            for structure in item.structures:
                if one is None or not one[structure.name]:
                    scores.append(float(one is not None and structure.box is None))
                else:
                    scores.append(overlap(next(masks), shares_of([structure.target], self.loaded.cells)[0]))
            found.append(scores)
        return found

    def _masks(self, items: Sequence[Item], texts: Sequence[str], said: Sequence[dict[str, bool]]) -> torch.Tensor:
        """(K, GR, GR) bool, of every structure that the texts give a `<Seg>`, in order."""
        if not items:
            return torch.zeros(0, self.loaded.cells, self.loaded.cells, dtype=torch.bool)
        reasoner = self.loaded.reasoner
        asked = [Dialogue(item.names, item.question(), item.images(), text) for item, text in zip(items, texts)]
        encoded = encode(self.loaded.processor, asked)
        device = next(reasoner.base.parameters()).device
        reading = reasoner.read({key: value.to(device) for key, value in encoded.inputs.items()})
        spots, of, asked_for = [], [], []
        for row, (item, one) in enumerate(zip(items, said)):
            named = [structure for structure in item.structures if one[structure.name]]
            here = encoded.spots[encoded.of == row].tolist()[-len(named) :]  # what is thought may hold some more
            if len(here) != len(named):
                raise RauError("The tokens of an answer are not those of its text")
            spots += here
            of += [row] * len(named)
            asked_for += named
        shares = shares_of([one.reference for one in asked_for], self.loaded.cells).to(device)
        places = torch.tensor(spots, device=device), torch.tensor(of, device=device)
        anchors = torch.tensor([one.anchor for one in asked_for], device=device)
        cues = reasoner.cues(reading, *places, anchors, shares)
        return (cues.masks > 0).cpu()


def overlap(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Dice, 0 to 1, of a bool mask and the share of each cell that is truly covered, both (GR, GR)."""
    both = 2 * (found * truth).sum() / (found.sum() + truth.sum()).clamp(min=1e-6)
    return min(1.0, float(both))


@torch.no_grad()
def answered(loaded: Loaded, items: Sequence[Item], tokens: int) -> list[str]:
    """What the model says to each item when it always takes the likeliest token. tokens: the most in an answer."""
    vlm, tokenizer = loaded.reasoner.base, loaded.processor.tokenizer
    inputs = encode(loaded.processor, [item.dialogue(answered=False) for item in items], left=True).inputs
    inputs = {key: value.to(vlm.device) for key, value in inputs.items()}
    ids = vlm.generate(
        **inputs,
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=[vlm.config.image_token_id],
    )
    said = []
    for row in ids[:, inputs["input_ids"].shape[1] :].tolist():
        end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
        said.append(text_of_ids(tokenizer, row[:end]))
    return said


def checked(source: Source, task: Task, count: int, picture: int) -> list[Item]:
    """At most `count` items of a source to validate on, the same every time."""
    kept, source.removal = source.removal, 0.6
    batch = make_batch(source, (77, 0), Layout(1, 0), count, 6, picture)
    source.removal = kept
    return draw(batch, task, np.random.default_rng(0))


def validate(judge: Judge, task: Task, source: Mixture, count: int, tokens: int) -> dict[str, float]:
    """Means over the sources of reward, quality and share of valid answers, greedy; quality of each source.

    count: items of each source; tokens: the most in an answer. quality: right labels, IoU of boxes or Dice of coarse
    masks. dice: of the coarse masks of structures that are there, whether the model would say so or not: what the
    heads, which do not learn, can still read.
    """
    loaded = judge.loaded
    training = loaded.reasoner.vlm.training
    loaded.reasoner.eval()
    means: dict[str, list[float]] = {"reward": [], "quality": [], "valid": [], "dice": []}
    each: dict[str, float] = {}
    for name, _, one in source.sources:
        items = checked(one, task, count, loaded.picture)
        judged = judge.judge(items, answered(loaded, items, tokens))
        for key in ("reward", "quality", "valid"):
            means[key] += [float(getattr(found, key)) for found in judged]
        each[f"quality {name}"] = float(np.mean([found.quality for found in judged])) if judged else 0.0
        shown = checked(one, "segment", count, loaded.picture)
        said = [dict.fromkeys(item.names, True) for item in shown]
        scores = judge.dice(shown, [item.answer(forced=True) for item in shown], said)
        there = [(s.box, value) for item, row in zip(shown, scores) for s, value in zip(item.structures, row)]
        means["dice"] += [value for box, value in there if box is not None]
    loaded.reasoner.train(training)
    return {**{key: float(np.mean(values)) if values else 0.0 for key, values in means.items()}, **each}
