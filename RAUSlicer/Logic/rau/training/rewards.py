"""Rewards of an answer, text in and number out (RAU Eq. 2; papers.md, A3.3 and D3).

Format means that the strict parser of `rau.vlm.answers` accepts the answer. With the default weights every reward lies
in 0 to 1.25: accuracy counts 1, format 0.25; the range of other weights stands with each function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite

from rau.vlm.answers import AnswerError, parse_boxes, parse_label, parse_segments, salvage_boxes
from rau.vlm.boxes import Box, Convention, as_array, iou

HIT = 0.5  # IoU of AP@0.5


@dataclass(frozen=True)
class RewardWeights:
    """Weights of Eq. 2, which the paper does not give; ours. ValueError for one that is negative or not finite.

    answer (w_a): the right label. format (w_f): the answer can be parsed. iou (w_iou) and ap (w_ap): mean IoU and share
    of hits of the boxes; a half each, so that every answer that is right counts 1 before its format.
    """

    answer: float = 1.0
    format: float = 0.25
    iou: float = 0.5
    ap: float = 0.5

    def __post_init__(self) -> None:
        if not all(isfinite(w) and w >= 0 for w in (getattr(self, one.name) for one in fields(self))):
            raise ValueError("weights must be finite and not negative")


DEFAULT = RewardWeights()


def label_reward(text: str, truth: str, names: Sequence[str], weights: RewardWeights = DEFAULT) -> float:
    """w_a [parsed label == truth] + w_f [format], in 0 to w_a + w_f. names: the options, `truth` among them."""
    try:
        said = parse_label(text, names)
    except AnswerError:
        return 0.0
    return weights.answer * (said == truth) + weights.format


def box_scores(found: Mapping[str, Box | None], truth: Mapping[str, Box | None]) -> list[float]:
    """IoU, 0 to 1, of each structure of `truth`; an absent one (None) scores 1 if answered None. Not answered: 0."""
    scores = []
    for name, box in truth.items():
        said = found.get(name)
        if box is None or said is None:
            scores.append(float(box is None and said is None and name in found))
        else:
            scores.append(float(iou(as_array([said]), as_array([box])).item()))
    return scores


def average_precision_50(scores: Sequence[float]) -> float:
    """Share of structures with a score of at least 0.5: AP@0.5 where every structure has one box and no rank."""
    return sum(score >= HIT for score in scores) / len(scores)


def box_reward(
    text: str, truth: Mapping[str, Box | None], convention: Convention, weights: RewardWeights = DEFAULT
) -> float:
    """w_f [format] + w_iou (mean IoU) + w_ap (AP@0.5), in 0 to w_f + w_iou + w_ap.

    truth: box of each requested structure, None where it is absent. Boxes that can be salvaged from an answer of wrong
    format count in the spatial terms. ValueError without any structure.
    """
    if not truth:
        raise ValueError("a reward needs at least one structure")
    names = list(truth)
    try:
        found, right = parse_boxes(text, names, convention), True
    except AnswerError:
        found, right = salvage_boxes(text, names, convention)[0], False
    scores = box_scores(found, truth)
    mean = sum(scores) / len(scores)
    return weights.format * right + weights.iou * mean + weights.ap * average_precision_50(scores)


def segment_reward(text: str, names: Sequence[str], dice: Sequence[float], weights: RewardWeights = DEFAULT) -> float:
    """Mean Dice + w_f [exactly one `<Seg>` or `absent` for each name], in 0 to 1 + w_f.

    dice: of the masks made from the answer's `<Seg>` tokens, 0 to 1, one for each name (1 where an absent structure was
    answered absent). ValueError for another number of values, or values out of range.
    """
    if not names or len(dice) != len(names) or not all(0 <= value <= 1 for value in dice):
        raise ValueError("one Dice from 0 to 1 is needed for each name")
    try:
        parse_segments(text, names)
        right = True
    except AnswerError:
        right = False
    return sum(dice) / len(dice) + weights.format * right
