"""Task routing: one question asks for several things of several structures, one answer carries them all (papers.md C).

The answer's tokens say which head reads their hidden state (C2): `<Det>` the box, `<Seg>` the mask and the fusion with
SAM2, `<Look>` that a closer look is worth while. In its layout (see `rau.vlm.answers`) an answer is

    computed tomography, liver <Det> <Seg>; left kidney absent; gallbladder <Det> <Seg> <Look>;

the modality where the names are asked for, then every structure of the request in its order (W3), or the one that is
marked; its tokens in this order, those asked for and no others, `<Look>` perhaps; or "absent"; a semicolon. Read
strictly: one typed error for each fault, never another exception, in linear time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rau.vlm.answers import (
    ABSENT,
    AnswerError,
    MissingLabelError,
    Names,
    answer_of,
    laid_out,
    misplaced,
    short,
    skip,
    starts,
)
from rau.vlm.vocabulary import DET, LOOK, SEG

Ask = Literal["name", "box", "outline", "look"]
ASKS: tuple[Ask, ...] = ("name", "box", "outline", "look")
HEADS: tuple[tuple[Ask, str], ...] = (("box", DET), ("outline", SEG))  # whose tokens must be there, in their order
END = ";"
UNKNOWN = "unknown modality"
MODALITIES = (
    "computed tomography",
    "magnetic resonance",
    "ultrasound",
    "X-ray",
    "microscopy",
    "fundus photography",
    "angiography",
    UNKNOWN,
)
WORDS: dict[Ask, str] = {
    "name": "Which structure is each?",
    "box": "Give the boxes.",
    "outline": "Segment each structure.",
    "look": "Which is small?",
}
MARKED = "Which structure is marked in white?"


class UnknownModalityError(AnswerError):
    """The answer does not begin with one of `MODALITIES` and a comma."""


class RouteError(AnswerError):
    """A structure without the tokens that were asked for or "absent", or without a semicolon; or something after it."""


@dataclass(frozen=True)
class Route:
    """What is said of a structure. look: whether it should be looked at more closely."""

    present: bool
    look: bool = False


@dataclass(frozen=True)
class RoutedAnswer:
    """modality: one of `MODALITIES`; "" where no names were asked for. routes: by name, in the order of the request."""

    modality: str
    routes: Mapping[str, Route]


def checked(asks: Sequence[Ask], marked: bool = False) -> tuple[Ask, ...]:
    """The asks in their order. ValueError (a fault of the caller) for what makes no question.

    Of all structures boxes or outlines are asked, perhaps names too; of a marked one its name, perhaps more; looks only
    beside boxes or outlines.
    """
    known = tuple(ask for ask in ASKS if ask in asks)
    heads = "box" in known or "outline" in known
    if len(known) < len(asks) or not (heads or (marked and "look" not in known)) or (marked and "name" not in known):
        raise ValueError(f"no such question: {', '.join(asks)}")
    return known


def question(asks: Sequence[Ask], marked: bool = False) -> str:
    """What follows the target. ValueError as of `checked`."""
    return " ".join(MARKED if marked and ask == "name" else WORDS[ask] for ask in checked(asks, marked))


def write_routed(answer: RoutedAnswer, asks: Sequence[Ask], think: str | None = "") -> str:
    """The answer that `parse_routed` (or, of one structure, `parse_marked`) reads as `answer`."""
    tokens = [token for ask, token in HEADS if ask in asks]
    said = []
    for name, route in answer.routes.items():
        shown = [*tokens, *([LOOK] if route.look and "look" in asks else [])] if route.present else [ABSENT]
        said.append(" ".join([name, *shown]) + END)
    return laid_out((f"{answer.modality}, " if "name" in asks else "") + " ".join(said), think)


def forced(names: Sequence[str], asks: Sequence[Ask], modality: str) -> str:
    """The answer with every token of every structure, so that all states are read in one pass."""
    return write_routed(RoutedAnswer(modality, dict.fromkeys(names, Route(True, True))), asks)


def modality_of(answer: str) -> tuple[str, int]:
    """The modality that an answer (without its layout) begins with, and where the rest begins.

    Raises UnknownModalityError.
    """
    start = skip(answer, 0)
    for modality in MODALITIES:
        after = skip(answer, start + len(modality))
        if starts(answer, start, modality) and answer.startswith(",", after):
            return modality, after + 1
    raise UnknownModalityError(f"{short(answer[start:].strip())} does not begin with a modality")


def parse_routed(text: str, names: Sequence[str], asks: Sequence[Ask]) -> RoutedAnswer:
    """What is said of each of `names`, in their order; the text is read along them, so they may hold anything.

    Raises NoAnswerError, UnknownModalityError, MissingLabelError, DuplicateLabelError, UnknownLabelError, RouteError;
    ValueError for names or asks that cannot be.
    """
    asks = checked(asks)
    Names(names)
    answer, modality, position = answer_of(text), "", 0
    if "name" in asks:
        modality, position = modality_of(answer)
    routes: dict[str, Route] = {}
    for index, name in enumerate(names):
        start = skip(answer, position)
        if not starts(answer, start, name):
            raise misplaced(answer, start, names, index)
        routes[name], position = _route(answer, start + len(name.strip()), name, asks)
    if skip(answer, position) < len(answer):
        raise RouteError(f"{short(answer[position:].strip())} follows the last of the names")
    return RoutedAnswer(modality, routes)


def _route(answer: str, position: int, name: str, asks: Sequence[Ask]) -> tuple[Route, int]:
    """What follows a name, and where that ends."""
    position, look = skip(answer, position), False
    present = not answer.startswith(ABSENT, position)
    if not present:
        position += len(ABSENT)
    else:
        for ask, token in HEADS:
            if ask not in asks:
                continue
            position = skip(answer, position)
            if not answer.startswith(token, position):
                raise RouteError(f"neither {token} nor {ABSENT} where it should follow {short(name)}", name)
            position += len(token)
        after = skip(answer, position)
        if "look" in asks and answer.startswith(LOOK, after):
            look, position = True, after + len(LOOK)
    position = skip(answer, position)
    if not answer.startswith(END, position):
        raise RouteError(f"no {END} where {short(name)} should end", name)
    return Route(present, look), position + 1


def parse_marked(text: str, names: Sequence[str], asks: Sequence[Ask]) -> RoutedAnswer:
    """What is said of the marked structure, the one of `names` that the answer names; read from the end.

    Raises NoAnswerError, UnknownModalityError, MissingLabelError, UnknownLabelError, RouteError; ValueError for names
    or asks that cannot be.
    """
    asks = checked(asks, marked=True)
    known, answer = Names(names), answer_of(text)
    modality, position = modality_of(answer)
    said, look = answer[position:].rstrip(), False
    if not said.endswith(END):
        raise RouteError(f"no {END} at the end")
    said = said[: -len(END)]
    tokens = [token for ask, token in HEADS if ask in asks]
    if "look" in asks and said.rstrip().endswith(LOOK):
        said, look = said.rstrip()[: -len(LOOK)], True
    for token in reversed(tokens):
        if not said.rstrip().endswith(token):
            raise RouteError(f"no {token} where it should be")
        said = said.rstrip()[: -len(token)]
    said = said[1:] if said.startswith(" ") else said
    said = said[:-1] if tokens and said.endswith(" ") else said
    if not said.strip():
        raise MissingLabelError("no structure is named")
    return RoutedAnswer(modality, {known.find(said): Route(True, look)})


def in_words(answer: RoutedAnswer) -> str:
    """As a sentence for people: "Computed tomography. Seen: liver, spleen (small). Not seen: cyst." """
    seen = [name + (" (small)" if route.look else "") for name, route in answer.routes.items() if route.present]
    away = [name for name, route in answer.routes.items() if not route.present]
    parts = [answer.modality[:1].upper() + answer.modality[1:]] if answer.modality else []
    parts += [f"Seen: {', '.join(seen)}"] if seen else []
    parts += [f"Not seen: {', '.join(away)}"] if away else []
    return ". ".join(parts) + "." if parts else ""
