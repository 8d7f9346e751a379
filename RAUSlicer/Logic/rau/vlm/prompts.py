"""What the VLM is asked: three tasks in one dialogue, reference first, so that its part can be computed once.

user: legend, reference, reference with its structures coloured, target, question. assistant: `<think>`, `<answer>`.
The legend comes before the pictures: the three grids then follow each other at a constant distance, and the same place
in two of them is the same step apart in the rotary positions of Qwen2.5-VL, however many structures are named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rau.vlm.boxes import Box, Convention
from rau.vlm.vocabulary import COLOURS

VERSION = 1  # of the dialogue: part of every cache key
MOST = len(COLOURS)  # structures in one dialogue
GRID = Convention("grid", 100)  # coordinates of the small model: two digits each

Task = Literal["segment", "label", "boxes"]
TASKS: tuple[Task, ...] = ("segment", "label", "boxes")


def legend(names: Sequence[str]) -> str:
    """What the colours of the second picture mean. Raises ValueError for more than `MOST` names."""
    if len(names) > MOST:
        raise ValueError(f"at most {MOST} structures in one dialogue, not {len(names)}")
    shown = "; ".join(f"{colour} = {name}" for colour, name in zip(COLOURS, names))
    return f"Image 1 is a reference, image 2 shows its structures: {shown}. Image 3 is the target."


def question(task: Task, boxes: Mapping[str, Box], convention: Convention) -> str:
    """What follows the target. boxes: of the structures in the reference."""
    if task == "segment":
        return "Segment each structure in the target."
    if task == "label":
        return "Which structure is marked in white?"
    from rau.vlm.answers import answer_of, write_boxes

    given = answer_of(write_boxes(boxes, convention))
    return f"In the reference: {given} Give the boxes in the target."


def messages(names: Sequence[str], asked: str, images: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """The user's turn in Hugging Face's format. images: reference, overlay, target; empty: places for them alone."""
    pictures = [{"type": "image", "image": one} for one in images] or [{"type": "image"}] * 3
    return [
        {
            "role": "user",
            "content": [{"type": "text", "text": legend(names)}, *pictures, {"type": "text", "text": asked}],
        }
    ]


def segment_answer(names: Sequence[str]) -> str:
    """The answer that asks for a state of every structure: read in one pass, nothing is generated."""
    from rau.vlm.answers import write_segments

    return write_segments(dict.fromkeys(names, True))
