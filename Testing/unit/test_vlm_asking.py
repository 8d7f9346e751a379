"""Boxes in words: what is missing or broken is asked again, at most twice; what is still missing then is not found."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from rau.vlm import asking
from rau.vlm.answers import write_boxes
from rau.vlm.boxes import box_of_mask
from rau.vlm.prompts import GRID

LOADED = SimpleNamespace(convention=GRID)
PICTURE = np.zeros((100, 100, 3), np.uint8)


def masks():
    made = {}
    for k, name in enumerate(("liver", "spleen", "aorta", "stomach")):
        made[name] = np.zeros((100, 100), bool)
        made[name][10 + 20 * k : 24 + 20 * k, 5 + 22 * k : 25 + 22 * k] = True
    return made


TRUE = {name: box_of_mask(mask) for name, mask in masks().items()}


def answers(monkeypatch, *texts):
    """The VLM says these in turn, the last one ever after; gives what it was asked."""
    asked = []

    def generate(loaded, dialogue, most=0, device="cpu"):
        asked.append(dialogue)
        return texts[min(len(asked), len(texts)) - 1]

    monkeypatch.setattr(asking, "generate", generate)
    return asked


def test_a_good_answer_is_taken_as_it_is_and_asked_for_once(monkeypatch):
    asked = answers(monkeypatch, write_boxes(TRUE, GRID))
    found = asking.boxes_in_words(LOADED, PICTURE, masks(), PICTURE)
    assert len(asked) == 1 and all(found[name] == pytest.approx(TRUE[name], abs=0.01) for name in TRUE)


def test_only_what_is_missing_is_asked_again(monkeypatch):
    some = {name: TRUE[name] for name in ("liver", "spleen", "stomach")}
    asked = answers(monkeypatch, write_boxes(some, GRID), write_boxes({"aorta": TRUE["aorta"]}, GRID))
    found = asking.boxes_in_words(LOADED, PICTURE, masks(), PICTURE)
    assert asked[1].names == ("aorta",) and "wrong" in asked[1].question
    assert found["aorta"] == pytest.approx(TRUE["aorta"], abs=0.01)


def test_an_absent_structure_is_none_and_not_asked_again(monkeypatch):
    asked = answers(monkeypatch, write_boxes({**TRUE, "spleen": None}, GRID))
    assert asking.boxes_in_words(LOADED, PICTURE, masks(), PICTURE)["spleen"] is None and len(asked) == 1


def test_nonsense_ends_after_a_few_questions_with_nothing_found(monkeypatch):
    asked = answers(monkeypatch, "I see an abdomen.")
    found = asking.boxes_in_words(LOADED, PICTURE, masks(), PICTURE)
    assert set(found) == set(TRUE) and not any(found.values()) and len(asked) <= 5
