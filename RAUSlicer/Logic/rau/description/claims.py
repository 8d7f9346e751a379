"""What a text says of regions, held against the measured facts: the check on a describer that is a model.

A rule-based reader of plain sentences with one subject each: place, neighbours, relations, order of size, counts. What
it does not understand it leaves alone; a sentence with a statement that contradicts a fact is rejected and counted.
For training text only, like `rau.description.regions`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rau.description.facts import Facts
from rau.description.regions import COUNTS, ENDS, Region, grid_cells, region_text
from rau.vlm.vocabulary import NAMES

Describer = Callable[[np.ndarray, Mapping[str, str]], str]  # picture and {colour: name} to a text

SAME = {"top": "upper", "bottom": "lower", "middle": "centre", "central": "centre", "center": "centre"}
SAME |= {"midline": "centre", "front": "anterior", "back": "posterior"}
PLACES = (*sorted({end for pair in ENDS.values() for end in pair}), "centre", *SAME)
NOT_STRUCTURES = ("image", "picture", "edge", "border", "background", "slice", "frame", "left", "right", "midline")
_CLAUSE = re.compile(r"[.;:(]| which | but | while | whereas |$")
_NEGATED = re.compile(r"\b(?:not|never|no|without|nor)\b[^,;\x00]{0,16}$")
_OBJECT = r"(?= ?(?:the |an? |\x00))"
_CUE = re.compile(
    "|".join(
        (
            r"(?P<neighbour>\b(?:borders?(?: on)?|bordering|bordered by|touch(?:es|ing)?|abut(?:s|ting)?|adjacent to"
            rf"|next to|contact with|adjoins?|adjoining|neighbou?rs|contiguous with)){_OBJECT}",
            rf"(?P<within>\b(?:within|inside(?: of)?|contained in|surrounded by|enclosed by)){_OBJECT}",
            rf"(?P<around>\b(?:surrounds?|contains?|encloses?)){_OBJECT}",
            r"(?P<compare>\b(?P<order>larger|bigger|smaller) than)",
            rf"(?P<beside>\b(?P<way>left|right|anterior|posterior|superior|inferior)(?: of| to| from)){_OBJECT}",
            rf"(?P<over>\b(?P<up>above|below)){_OBJECT}",
            r"(?P<extreme>(?<!second )(?<!third )\b(?P<end>largest|biggest|smallest)\b)",
            rf"(?P<count>\b(?P<number>\d+|{'|'.join(COUNTS)}) (?:(?:separate|coloured|distinct|single) )*"
            r"(?P<what>regions?|structures?|pieces?|parts?|components?)\b)",
            rf"(?P<place>(?<!\w)(?P<word>{'|'.join(PLACES)})(?!\w))",
        )
    )
)
_MARK = re.compile(r"\x00(\d+)\x00")


@dataclass(frozen=True)
class Claim:
    """One statement. kind: "place", "neighbour", "relation", "size", "count" or "existence" (a structure that is not
    there). subject: the name of its region, "" for the picture. said: its words. holds: whether the facts bear it."""

    kind: str
    subject: str
    said: str
    holds: bool


@dataclass(frozen=True)
class Checked:
    """text: the sentences without a contradiction. rejected: the others. claims: all statements understood."""

    text: str
    rejected: tuple[str, ...]
    claims: tuple[Claim, ...]

    @property
    def accepted(self) -> bool:
        return not self.rejected

    @property
    def contradicted(self) -> dict[str, int]:
        """{kind: statements that contradict the facts}."""
        return dict(Counter(claim.kind for claim in self.claims if not claim.holds))


def check(text: str, shown: Sequence[Region]) -> Checked:
    """Read a description of these regions and hold each statement against their facts."""
    kept: list[str] = []
    rejected: list[str] = []
    claims: list[Claim] = []
    reader, subject = _Reader(shown), None
    for sentence in filter(None, re.split(r"(?<=[.!?;])\s+", text.strip())):
        found, subject = reader.read(sentence, subject)
        claims += found
        (kept if all(claim.holds for claim in found) else rejected).append(sentence)
    return Checked(" ".join(kept), tuple(rejected), tuple(claims))


def described_by(describer: Describer, picture: np.ndarray, shown: Sequence[Region]) -> Checked:
    """The text of a describer (a vision-language model) on a coloured picture, without what contradicts the facts.

    picture: (H, W, 3) uint8, see `rau.description.regions.coloured`. Where nothing of it is left, the text is the
    rule-based one; what was rejected is told all the same.
    """
    found = check(describer(picture, {one.colour: one.name for one in shown}), shown)
    return found if found.text else replace(found, text=region_text(shown))


class _Reader:
    """Reads sentences on given regions. Names become numbers between marks, so that a side in a name is no place."""

    def __init__(self, shown: Sequence[Region]) -> None:
        self.shown = list(shown)
        called = {one.name.lower(): place for place, one in enumerate(self.shown)}
        for place, one in enumerate(self.shown):
            called |= {f"{one.colour} {word}": place for word in ("region", "area", "structure")}
        absent = [name.lower() for name in NAMES if not any(name.lower() in known for known in called)]
        self.absent = list(dict.fromkeys(absent))
        called |= {name: len(self.shown) + number for number, name in enumerate(self.absent)}
        self.called = called
        longest = sorted(called, key=lambda name: (-len(name), name))
        self.names = re.compile(rf"(?<![\w-])({'|'.join(re.escape(name) for name in longest)})(?![\w-])")

    def read(self, sentence: str, before: Region | None) -> tuple[list[Claim], Region | None]:
        """The claims of a sentence and its subject: the first region named, or "it", that of the sentence before."""
        text = self.names.sub(lambda m: f"\x00{self.called[m[1]]}\x00", sentence.lower())
        first = _MARK.search(text)
        if first is None or re.match(r"\s*its?\b", text):
            return list(self._claims(text, before)), before
        if int(first[1]) >= len(self.shown) and re.fullmatch(r"\s*(?:the |an? )?", text[: first.start()]):
            return [Claim("existence", "", self.absent[int(first[1]) - len(self.shown)], False)], None
        subject = self.shown[int(first[1])] if int(first[1]) < len(self.shown) else before
        rest = text[: first.start()] + " " * (first.end() - first.start()) + text[first.end() :]
        return list(self._claims(rest, subject)), subject

    def _claims(self, text: str, subject: Region | None) -> Iterator[Claim]:
        cues = list(_CUE.finditer(text))
        starts = [*(cue.start() for cue in cues[1:]), len(text)]
        for cue, start in zip(cues, starts, strict=False):
            end = _CLAUSE.search(text, cue.end())
            stop = min(start, len(text) if end is None else end.start())
            negated = _NEGATED.search(text[: cue.start()]) is not None
            for claim in self._one(cue, text[cue.end() : stop], subject):
                yield Claim(claim.kind, claim.subject, claim.said, claim.holds != negated)

    def _one(self, cue: re.Match[str], rest: str, subject: Region | None) -> Iterator[Claim]:
        if cue["count"]:
            number = COUNTS.index(cue["number"]) if cue["number"] in COUNTS else int(cue["number"])
            if cue["what"].startswith(("region", "structure")):
                yield Claim("count", "", cue[0], number == len(self.shown))
            elif subject is not None:
                yield Claim("count", subject.name, cue[0], number == subject.facts.pieces)
        elif subject is None:
            return
        elif cue["place"]:
            yield Claim("place", subject.name, cue[0], SAME.get(cue["word"], cue["word"]) in places(subject.facts))
        elif cue["extreme"]:
            sizes = [one.facts.voxels for one in self.shown]
            best = min(sizes) if cue["end"] == "smallest" else max(sizes)
            yield Claim("size", subject.name, cue[0], subject.facts.voxels == best)
        else:
            for part in re.split(r",| and | or ", rest):
                yield from self._of_other(cue, part, subject)

    def _of_other(self, cue: re.Match[str], part: str, subject: Region) -> Iterator[Claim]:
        """The claim on one thing named after a cue; nothing where none is named."""
        mark = _MARK.search(part)
        kind = "neighbour" if cue["neighbour"] else "size" if cue["compare"] else "relation"
        if mark is not None and int(mark[1]) < len(self.shown):
            other = self.shown[int(mark[1])]
            yield Claim(kind, subject.name, f"{cue[0].strip()} {other.name}", _holds(cue, subject.facts, other.facts))
            return
        unknown = re.match(r"\s*(?:the|an?) ([a-z][\w -]*)", part)
        if mark is not None:
            yield Claim(kind, subject.name, f"{cue[0].strip()} {self.absent[int(mark[1]) - len(self.shown)]}", False)
        elif unknown is not None and not set(unknown[1].split()) & set(NOT_STRUCTURES):
            yield Claim(kind, subject.name, f"{cue[0].strip()} {unknown[1].strip()}", False)


def places(facts: Facts) -> set[str]:
    """The words of place that are true: of each axis the third in which the centre lies, and the side.

    Where the side measured (against a partner) and the place in the picture differ, neither word is true.
    """
    found = set(grid_cells(facts).values())
    if facts.side is None:
        return found
    side = "centre" if facts.side.word in ("midline", "middle") else facts.side.word
    opposite = {"left": "right", "right": "left"}.get(side)
    return found - {side, opposite} if opposite in found else found | {side}


def _holds(cue: re.Match[str], one: Facts, other: Facts) -> bool:
    if cue["neighbour"]:
        return any(n.value == other.value and n.share > 0 for n in one.neighbours)
    if cue["within"]:
        return one.contained_in == other.name
    if cue["around"]:
        return other.name in one.surrounds
    if cue["compare"]:
        return one.voxels < other.voxels if cue["order"] == "smaller" else one.voxels > other.voxels
    return _lies(one, other, cue["way"] or cue["up"])


def _lies(one: Facts, other: Facts, word: str) -> bool:
    """Whether `one` lies to the `word` of `other`: by their centres, along the word's axis.

    Above and below: towards the head in the patient's frame, towards the upper edge in a picture's. Words of the
    patient do not hold in a picture, whose frame has no patient.
    """
    patient = one.frame == "patient"
    axis, rising = {
        "left": (0, patient),
        "right": (0, not patient),
        "above": (2, True) if patient else (1, False),
        "below": (2, False) if patient else (1, True),
        "anterior": (1, False),
        "posterior": (1, True),
        "superior": (2, True),
        "inferior": (2, False),
    }[word]
    if not patient and word in ("anterior", "posterior", "superior", "inferior"):
        return False
    way = one.centre[axis] - other.centre[axis]
    return way > 0 if rising else way < 0
