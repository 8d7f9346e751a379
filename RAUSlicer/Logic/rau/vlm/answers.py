"""What the VLM writes, read strictly: one typed error for each fault, never another exception, in linear time.

Layout of every answer: `<think>...</think><answer>...</answer>` (papers.md, A4). Three kinds: a label; boxes as JSON,
`[{"label": "liver", "bbox_2d": [1, 2, 3, 4]}, ...]` with null for an absent structure; segments, one `<Seg>` or
`absent` for each name in the order of the request (W3). `salvage_boxes` reads leniently, `ask_until` asks again. The
writers leave the layout out where `think` is None.

Names are those of the request: distinct, none of them blank (ValueError: a fault of the caller, not of the answer).
They may hold anything else, and are recognised whatever the case and the white space at their ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, TypeVar

from rau.errors import RauError
from rau.vlm.boxes import Box, Convention

Found = TypeVar("Found")
SEG, ABSENT = "<Seg>", "absent"
BROKEN_OBJECTS = 64  # beginnings of objects that may turn out broken before `salvage_boxes` stops looking
SPACE = re.compile(r"\s*")


class AnswerError(RauError):
    """The VLM's answer has a fault. `label` is the requested structure that it concerns, if it concerns one."""

    def __init__(self, message: str, label: str | None = None) -> None:
        super().__init__(message)
        self.label = label


class NoAnswerError(AnswerError):
    """The layout `<think>...</think><answer>...</answer>` is missing."""


class NotJsonError(AnswerError):
    """The answer is not JSON, or nested too deeply to be read."""


class NotBoxListError(AnswerError):
    """JSON, but not a list of objects with exactly a "label", a text, and a "bbox_2d"."""


class BoxError(AnswerError):
    """A box is not four finite numbers, its corners are swapped, or it is outside the picture."""


class UnknownLabelError(AnswerError):
    """A label that was not asked for."""


class MissingLabelError(AnswerError):
    """A label that was asked for and not answered, or not in its place."""


class DuplicateLabelError(AnswerError):
    """A label answered more than once."""


class SegCountError(AnswerError):
    """A name without exactly one `<Seg>` or `absent`, or something after the last one."""


def short(text: object, most: int = 40) -> str:
    """Printable and short, whatever the VLM wrote."""
    shown = ascii(text[: most + 1]) if isinstance(text, str) else type(text).__name__
    return shown if len(shown) <= most else shown[:most] + "..."


class Names:
    """The requested names, and how what the VLM says becomes one of them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.exact = dict.fromkeys(names)
        if len(self.exact) < len(names) or not all(name.strip() for name in names):
            raise ValueError("names must be distinct and not blank")
        self.folded: dict[str, str | None] = {}
        for name in names:
            key = name.strip().casefold()
            self.folded[key] = None if key in self.folded else name

    def find(self, said: str) -> str:
        """The name that is meant: the same text, else the only one that differs in case and outer space."""
        name = said if said in self.exact else self.folded.get(said.strip().casefold())
        if name is None:
            raise UnknownLabelError(f"{short(said)} was not asked for")
        return name


def answer_of(text: str) -> str:
    """What is between `<answer>` and `</answer>`. Raises NoAnswerError."""
    thought, tag, rest = text.strip().partition("</think>")
    rest = rest.lstrip()
    if not (tag and thought.startswith("<think>") and rest.startswith("<answer>") and rest.endswith("</answer>")):
        raise NoAnswerError("the answer is not laid out as <think>...</think><answer>...</answer>")
    return rest[len("<answer>") : -len("</answer>")]


def laid_out(answer: str, think: str | None) -> str:
    """An answer in its layout; without it where `think` is None."""
    if think is None:
        return answer
    if "</think>" in think:
        raise ValueError("a thought cannot hold </think>")
    return f"<think>{think}</think><answer>{answer}</answer>"


def write_label(name: str, think: str | None = "") -> str:
    """The answer that `parse_label` reads as `name`."""
    return laid_out(name, think)


def parse_label(text: str, names: Sequence[str]) -> str:
    """The one of `names` that is the whole answer. Raises NoAnswerError, UnknownLabelError."""
    return Names(names).find(answer_of(text))


def write_boxes(boxes: Mapping[str, Box | None], convention: Convention, think: str | None = "") -> str:
    """The answer that `parse_boxes` reads as `boxes`, to the nearest unit of the convention."""
    items = [{"label": name, "bbox_2d": box and list(convention.write(box))} for name, box in boxes.items()]
    return laid_out(json.dumps(items, ensure_ascii=False), think)


def parse_boxes(text: str, names: Sequence[str], convention: Convention) -> dict[str, Box | None]:
    """A box or None (absent) for each of `names`, in the order of `names`.

    Raises NoAnswerError, NotJsonError, NotBoxListError, BoxError, UnknownLabelError, DuplicateLabelError,
    MissingLabelError: the first fault that is met.
    """
    known, found = Names(names), dict[str, Box | None]()
    try:
        items = json.loads(answer_of(text), parse_int=float)
    except (ValueError, RecursionError) as error:
        raise NotJsonError("the answer is not JSON") from error
    if not isinstance(items, list):
        raise NotBoxListError(f"the answer is a {type(items).__name__}, not a list of boxes")
    for item in items:
        if not isinstance(item, dict) or set(item) != {"label", "bbox_2d"} or not isinstance(item["label"], str):
            raise NotBoxListError('every item must have exactly a "label" and a "bbox_2d"')
        name = known.find(item["label"])
        if name in found:
            raise DuplicateLabelError(f"{short(name)} is answered twice", name)
        found[name] = _box(item["bbox_2d"], name, convention, repair=False)
    for name in names:
        if name not in found:
            raise MissingLabelError(f"{short(name)} is not answered", name)
    return {name: found[name] for name in names}


def _box(value: Any, name: str, convention: Convention, repair: bool) -> Box | None:
    """The box that JSON (numbers read as float) says. repair: order the corners and clip to the picture first."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 4 or not all(type(v) is float and isfinite(v) for v in value):
        raise BoxError(f"the box of {short(name)} is not four numbers", name)
    x0, y0, x1, y1 = convention.read(value)
    if repair:
        (x0, x1), (y0, y1) = sorted((x0, x1)), sorted((y0, y1))
        if x1 > 0 and y1 > 0 and x0 < 1 and y0 < 1:
            x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, 1.0), min(y1, 1.0)
    if x0 < 0 or y0 < 0 or x1 > 1 or y1 > 1:
        raise BoxError(f"the box of {short(name)} is outside the picture", name)
    if not (x0 < x1 and y0 < y1):
        raise BoxError(f"the box of {short(name)} has swapped corners or no area", name)
    return x0, y0, x1, y1


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects with a "label" anywhere in the text, also in others and in lists that are cut off."""
    decoder, position, broken = json.JSONDecoder(parse_int=float), text.find("{"), 0
    while position >= 0 and broken < BROKEN_OBJECTS:
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            broken, end, value = broken + 1, position + 1, None
        waiting = [value]
        while waiting:
            one = waiting.pop()
            if isinstance(one, dict) and "label" in one:
                yield one
            elif isinstance(one, (dict, list)):
                waiting.extend(reversed(list(one.values()) if isinstance(one, dict) else one))
        position = text.find("{", end)


def _answer_part(text: str) -> str:
    """The answer, or what comes nearest to it: without the thought, which may hold drafts."""
    try:
        return answer_of(text)
    except NoAnswerError:
        thought, tag, rest = text.partition("</think>")
        before, tag, after = (rest if tag else thought).partition("<answer>")
        return after if tag else before


def salvage_boxes(
    text: str, names: Sequence[str], convention: Convention
) -> tuple[dict[str, Box | None], list[AnswerError]]:
    """The good boxes of an answer that may be surrounded by prose or code fences, or cut off; and what was lost.

    Swapped corners are put in order and boxes partly outside are clipped, without an error. A box wholly outside or
    without area is dropped; of two answers for one name the first good one is kept. One error for each thing that was
    dropped, in the order of the text, then one for each name that nothing was said of; NotJsonError alone where there
    is no object with a label at all. Never raises for any text.
    """
    known, found, faults, spoken = Names(names), dict[str, Box | None](), list[AnswerError](), set[str | None]()
    for item in _objects(_answer_part(text)):
        try:
            if not isinstance(item["label"], str):
                raise NotBoxListError(f"a label is a {type(item['label']).__name__}, not a text")
            name = known.find(item["label"])
            if name in found:
                raise DuplicateLabelError(f"{short(name)} is answered twice", name)
            spoken.add(name)
            found[name] = _box(item.get("bbox_2d", ""), name, convention, repair=True)
        except AnswerError as error:
            faults.append(error)
    if not found and not faults:
        return {}, [NotJsonError("the answer holds no JSON object with a label")]
    faults += [MissingLabelError(f"{short(name)} is not answered", name) for name in names if name not in spoken]
    return {name: found[name] for name in names if name in found}, faults


def write_segments(present: Mapping[str, bool], think: str | None = "") -> str:
    """The answer that `parse_segments` reads as `present`, e.g. `liver <Seg>, gallbladder absent`."""
    return laid_out(", ".join(f"{name} {SEG if there else ABSENT}" for name, there in present.items()), think)


def parse_segments(text: str, names: Sequence[str]) -> dict[str, bool]:
    """For each of `names`, in their order, whether `<Seg>` (True) or `absent` (False) follows it.

    Raises NoAnswerError, MissingLabelError, DuplicateLabelError, UnknownLabelError, SegCountError. The text is read
    along the names, so that they may hold commas, `absent` or `<Seg>` themselves.
    """
    Names(names)
    answer, position, present = answer_of(text), 0, dict[str, bool]()
    for index, name in enumerate(names):
        if index:
            position = skip(answer, position)
            if position < len(answer) and answer[position] != ",":
                raise SegCountError(f"{short(answer[position:])} follows {short(names[index - 1])}", names[index - 1])
            position += 1
        start = skip(answer, position)
        if not starts(answer, start, name):
            raise misplaced(answer, start, names, index)
        position = skip(answer, start + len(name.strip()))
        present[name] = answer.startswith(SEG, position)
        if not present[name] and not answer.startswith(ABSENT, position):
            raise SegCountError(f"neither {SEG} nor {ABSENT} follows {short(name)}", name)
        position += len(SEG if present[name] else ABSENT)
    if skip(answer, position) < len(answer):
        raise SegCountError(f"{short(answer[position:].strip())} follows the last of the names")
    return present


def skip(text: str, position: int) -> int:
    """Where the white space from `position` on ends."""
    match = SPACE.match(text, position)
    return match.end() if match else position


def starts(text: str, position: int, name: str) -> bool:
    """Whether a name stands at `position`, whatever its case."""
    key = name.strip()
    return text[position : position + len(key)].casefold() == key.casefold()


def misplaced(answer: str, start: int, names: Sequence[str], index: int) -> AnswerError:
    """Why names[index] is not where it should be."""
    if start < len(answer) and any(starts(answer, start, name) for name in names[:index]):
        return DuplicateLabelError(f"{short(answer[start:])} is answered twice")
    if start >= len(answer) or any(starts(answer, start, name) for name in names[index + 1 :]):
        return MissingLabelError(f"{short(names[index])} is not answered in its place", names[index])
    return UnknownLabelError(f"{short(answer[start:])} stands where {short(names[index])} should", names[index])


def ask_until(
    ask: Callable[[Sequence[str], str], str],
    names: Sequence[str],
    parse: Callable[[str, Sequence[str]], tuple[dict[str, Found], list[AnswerError]]],
    tries: int = 2,
) -> tuple[dict[str, Found], list[str]]:
    """Ask, and ask again at most `tries` times, each time only for the names without a good answer (papers.md, A10).

    ask(names, what was wrong with the last answer, one line, "" at first) -> the VLM's text. parse(text, names) -> good
    answers and faults, as `salvage_boxes`. Gives what was found, in the order of `names`, and the names not answered.
    """
    found, left, wrong = dict[str, Found](), list(names), ""
    for _ in range(1 + tries):
        if not left:
            break
        good, faults = parse(ask(tuple(left), wrong), tuple(left))
        found.update(good)
        left = [name for name in left if name not in found]
        wrong = "; ".join(fault.message for fault in faults[:8])
    return {name: found[name] for name in names if name in found}, left
