"""Facts to a few short sentences as a report has them. Nothing is said that is no fact, and what is uncertain is said.

Numbers are written by `figure`, shares as per cent; words of grades have their thresholds here or with the facts.
"""

from __future__ import annotations

from collections.abc import Sequence

from rau.description.facts import Contrast, Facts, Neighbour, Side

LOW_SCORE = 0.6  # of 1: below it a result is called uncertain
FEW_VOXELS = 10  # fewer tell little of a shape
MOST_TOUCHING, MOST_NEAR = 4, 2  # neighbours named
ROUND, LONG, FLAT = 0.8, 0.5, 0.4  # elongation and flatness
FULL, INDENTED = 0.9, 0.75  # solidity
CONTRAST_WORDS = {
    "CT": {"darker": "hypodense to", "similar": "isodense to", "brighter": "hyperdense to"},
    "MR": {"darker": "hypointense to", "similar": "isointense to", "brighter": "hyperintense to"},
    "US": {"darker": "hypoechoic to", "similar": "isoechoic to", "brighter": "hyperechoic to"},
}
PLAIN_WORDS = {"darker": "darker than", "similar": "as bright as", "brighter": "brighter than"}


def prose(facts: Facts, score: float | None = None) -> str:
    """Some sentences on one structure. score: the pipeline's, 0 to 1; None: there is none."""
    parts = [
        size_sentence(facts),
        place_sentence(facts),
        shape_sentence(facts),
        appearance_sentence(facts),
        neighbour_sentence(facts),
        *caveats(facts, score),
    ]
    return " ".join(part for part in parts if part)


def figure(value: float) -> str:
    """A number for prose: three significant digits, from 100 on without decimals."""
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def percent(share: float) -> str:
    return f"{figure(100 * share)} %"


def listed(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def the(name: str) -> str:
    """The name with its article; names that are a word and a number have none."""
    return name if name[-1:].isdigit() else f"the {name}"


def square(unit: str) -> str:
    return "mm2" if unit == "mm" else f"square {unit}"


def counted(number: int, one: str) -> str:
    return f"{number} {one}" if number == 1 else f"{number} {one}s"


def size_sentence(facts: Facts) -> str:
    if facts.area is not None:
        size = f"{figure(facts.area)} {square(facts.unit)}"
    elif facts.volume_ml is not None:
        size = f"{figure(facts.volume_ml)} ml"
    else:
        size = counted(facts.voxels, "voxel")
    lengths = " x ".join(figure(length) for length in facts.extent.values())
    return f"{capital(facts.name)}: {size}, {lengths} {facts.unit} ({' x '.join(facts.extent)})."


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def place_sentence(facts: Facts) -> str:
    told = [side_words(facts.side, facts.unit, facts.frame)] if facts.side is not None else []
    if facts.level is not None:
        level = facts.level
        plane = "slice" if level.plane == "slice" else f"{level.plane} slice"
        run = f"{plane} {level.first}" if level.first == level.last else f"{plane}s {level.first} to {level.last}"
        end = level.counted_from if facts.frame == "patient" else "first slice"
        told.append(f"in {run} of {level.count}, counted from the {end}" + (" end" if facts.frame == "patient" else ""))
    return f"It lies {', '.join(told)}." if told else ""


def side_words(side: Side, unit: str, frame: str) -> str:
    """Which side, and what it was measured against."""
    if frame == "picture":
        return "in the middle of the picture's width" if side.word == "middle" else f"in the {side.word} of the picture"
    if side.relative_to == "image":
        if side.word == "midline":
            return "in the midline of the image"
        return f"{figure(side.distance)} {unit} to the {side.word} of the image's middle"
    if side.word == "midline":
        return f"at the same distance from either side as its partner, {the(side.relative_to)}"
    return f"on the {side.word}, across from {the(side.relative_to)}"


def shape_word(facts: Facts) -> str:
    """ "round", "oval", "elongated", "flat": by elongation and flatness."""
    if facts.flatness is not None and facts.flatness < FLAT <= facts.elongation:
        return "flat"
    if facts.elongation < LONG:
        return "elongated"
    thinnest = facts.elongation if facts.flatness is None else facts.flatness
    return "round" if thinnest >= ROUND else "oval"


def outline_word(facts: Facts) -> str:
    """By solidity: how much of its hull is filled."""
    if facts.solidity >= FULL:
        return "a smooth, convex outline"
    return "an indented outline" if facts.solidity >= INDENTED else "an irregular or branching outline"


def shape_sentence(facts: Facts) -> str:
    if facts.voxels < FEW_VOXELS:
        return ""
    told = f"It is {shape_word(facts)} with {outline_word(facts)}"
    if facts.pieces > 1:
        told += f", in {facts.pieces} pieces, the largest with {percent(facts.largest_piece)} of it"
    return told + "."


def appearance_sentence(facts: Facts) -> str:
    if facts.intensity is None:
        return ""
    seen = facts.intensity
    told = f"Mean {figure(seen.mean)} {seen.unit} (sd {figure(seen.sd)})"
    if seen.density is not None:
        told += f", in the range of {seen.density}"
    if facts.contrast is not None:
        told += f"; {contrast_words(facts.contrast, facts.modality)} its surroundings"
    if facts.margin is not None and facts.margin.grade is not None:
        told += f"; {facts.margin.grade} margin"
    return told + "."


def contrast_words(contrast: Contrast, modality: str) -> str:
    return CONTRAST_WORDS.get(modality, PLAIN_WORDS)[contrast.word]


def neighbour_sentence(facts: Facts) -> str:
    told = []
    if facts.contained_in is not None:
        told.append(f"It lies within {the(facts.contained_in)}.")
    if facts.surrounds:
        told.append(f"It surrounds {listed([the(name) for name in facts.surrounds])}.")
    others = [n for n in facts.neighbours if n.name != facts.contained_in and n.name not in facts.surrounds]
    touching = [n for n in others if n.share > 0]
    near = [n for n in others if n.share == 0]
    if touching:
        told.append(f"It borders {listed([neighbour_words(n) for n in touching[:MOST_TOUCHING]])}.")
    if near:
        named = [f"{the(n.name)} ({figure(n.gap)} {facts.unit})" for n in near[:MOST_NEAR]]
        told.append(f"Close to it without contact: {listed(named)}.")
    return " ".join(told)


def neighbour_words(one: Neighbour) -> str:
    where = f"{listed(one.direction)}, " if one.direction else ""
    return f"{the(one.name)} ({where}{percent(one.share)} of its border)"


def caveats(facts: Facts, score: float | None) -> list[str]:
    """What makes the facts less sure, one sentence each."""
    told = []
    if facts.cut_off:
        told.append(f"Cut off at the edge of the image ({listed(facts.cut_off)}): sizes are lower bounds.")
    if facts.unit != "mm":
        told.append(f"The spacing of the image is not known: sizes are in {facts.unit}.")
    if facts.voxels < FEW_VOXELS:
        told.append(f"Of {counted(facts.voxels, 'voxel')} only: shape and intensity are uncertain.")
    if facts.side is not None and facts.side.contradicts_name:
        told.append(f"Its name says {facts.side.named}, it lies on the {facts.side.word}: to be checked.")
    if score is not None and score < LOW_SCORE:
        told.append(f"Uncertain (score {figure(score)} of 1): to be checked.")
    return told
