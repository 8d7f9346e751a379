"""What is known of a finished run: trust in each structure, slices to review; small enough to be kept in the scene."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from RAUSlicerLib.i18n import tr as _

FORMAT = 1
LIGHTS = ("red", "amber", "green", "absent", "")  # worst first; "": nothing is known
SIGNS = {"red": "\u25a0", "amber": "\u25b2", "green": "\u25cf", "absent": "\u2013", "": "\u00b7"}
COLORS = {"red": "#d0342c", "amber": "#c77700", "green": "#2e9e5b", "absent": "#808080", "": "#808080"}


@dataclass(frozen=True)
class StructureTrust:
    """One structure of a run. score: 0 to 1. light: one of LIGHTS. text: its description.

    expected, low, high: Dice against what a reader would draw, None where it is not estimated. broken: what is odd
    about it, in words.
    """

    value: int
    name: str
    color: tuple[float, float, float]
    light: str
    score: float = 0.0
    expected: float | None = None
    low: float | None = None
    high: float | None = None
    broken: tuple[str, ...] = ()
    volume_ml: float | None = None
    voxels: int = 0
    text: str = ""

    @property
    def found(self) -> bool:
        return self.light != "absent"


@dataclass(frozen=True)
class ReviewSlice:
    """A slice of the target that wants a look. score: 0 to 1, low is bad; worst: the structure to look at."""

    index: int
    score: float
    worst: str


@dataclass(frozen=True)
class RunResult:
    """A run as the scene keeps it. axis: of the target's array, across which its slices were cut. level: share of cases
    in which the truth lies in the interval. before: the run that this one corrected, as text; empty: none."""

    run: str
    axis: int
    structures: tuple[StructureTrust, ...]
    review: tuple[ReviewSlice, ...] = ()
    level: float | None = None
    warnings: tuple[str, ...] = ()
    provenance: dict[str, Any] | None = None
    before: str = ""

    @property
    def doubtful(self) -> list[StructureTrust]:
        """What is to be looked at first, the worst first."""
        several = [one for one in self.structures if one.light in ("red", "amber")]
        return sorted(several, key=lambda one: (LIGHTS.index(one.light), one.expected or 0.0))

    def with_texts(self, texts: dict[int, str]) -> RunResult:
        """With these descriptions, by label value."""
        told = tuple(replace(one, text=texts.get(one.value, one.text)) for one in self.structures)
        return replace(self, structures=told)

    def as_text(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, separators=(",", ":"))


def result_of(run: str, report: dict[str, Any], before: str = "") -> RunResult:
    """From `rau.results.SegmentResult.report()`; quality and descriptions may be missing in it."""
    quality = report.get("quality") or {}
    judged = {int(one["value"]): one for one in quality.get("structures") or ()}
    slices = report.get("slices") or ()
    axis = quality.get("axis", slices[0]["axis"] if slices else 0)
    return RunResult(
        run,
        int(axis),
        tuple(_structure(one, judged.get(int(one["value"]), {})) for one in report["structures"]),
        tuple(_slice(one) for one in quality.get("review") or ()),
        quality.get("level"),
        tuple(str(one) for one in report.get("warnings") or ()),
        report.get("provenance") or {},
        before,
    )


def _slice(one: dict[str, Any]) -> ReviewSlice:
    return ReviewSlice(int(one["index"]), float(one["score"]), str(one["worst"]))


def _structure(one: dict[str, Any], judged: dict[str, Any]) -> StructureTrust:
    light = str(judged.get("light") or "")
    low, high = judged.get("interval") or (None, None)
    told = one.get("description") or {}
    red, green, blue = (float(c) for c in one.get("color") or (0.5, 0.5, 0.5))
    return StructureTrust(
        int(one["value"]),
        str(one["name"]),
        (red, green, blue),
        "absent" if not one["present"] else light if light in LIGHTS else "",
        float(one.get("score") or 0.0),
        judged.get("expected_dice"),
        low,
        high,
        tuple(str(text) for text in judged.get("broken") or ()),
        one.get("volume_ml"),
        int(one.get("voxels") or 0),
        str(told.get("text") or told.get("prose") or ""),
    )


def result_from(text: str) -> RunResult | None:
    """From what `as_text` gave; None for anything else: a scene may come from anywhere."""
    try:
        told = json.loads(text)
        if told.pop("format") != FORMAT:
            return None
        structures = tuple(_kept_structure(**one) for one in told.pop("structures"))
        review = tuple(_slice(one) for one in told.pop("review"))
        found = RunResult(structures=structures, review=review, **told)
        number = found.level is None or 0.0 <= found.level <= 1.0
        words = isinstance(found.run, str) and isinstance(found.before, str) and isinstance(found.axis, int)
        if not number or not words or not isinstance(found.provenance, (dict, type(None))):
            return None
        return replace(found, warnings=tuple(str(one) for one in found.warnings))
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError):
        return None


def _kept_structure(**told: Any) -> StructureTrust:
    red, green, blue = (min(1.0, max(0.0, float(c))) for c in told.pop("color"))
    numbers = {name: None if told[name] is None else float(told[name]) for name in ("expected", "low", "high")}
    numbers["volume_ml"] = None if told["volume_ml"] is None else float(told["volume_ml"])
    numbers["score"] = float(told["score"])
    broken = tuple(str(one) for one in told["broken"])
    one = StructureTrust(**{**told, **numbers, "color": (red, green, blue), "broken": broken})
    if one.light not in LIGHTS or not isinstance(one.name, str) or not isinstance(one.text, str):
        raise ValueError("a structure that is none")
    return replace(one, value=int(one.value), voxels=int(one.voxels))


# -- in words
def light_words(light: str) -> str:
    words = {
        "green": _("good"),
        "amber": _("check"),
        "red": _("doubtful"),
        "absent": _("not found"),
        "": _("not judged"),
    }
    return words[light]


def trust_text(one: StructureTrust) -> str:
    """Sign and word: neither needs color."""
    return f"{SIGNS[one.light]} {light_words(one.light)}"


def volume_text(one: StructureTrust) -> str:
    if not one.found or one.volume_ml is None:
        return ""
    return f"{one.volume_ml:.0f} ml" if one.volume_ml >= 10 else f"{one.volume_ml:.1f} ml"


def expected_text(one: StructureTrust, level: float | None) -> str:
    """What agreement with a reader is expected, with the interval; the model's own score where that is all."""
    if not one.found:
        return _("Not found in the target")
    score = _("Score of the model {s}").format(s=f"{one.score:.2f}")
    if one.expected is None:
        return score
    if one.low is None or one.high is None:
        text = _("Expected Dice {e}")
    elif level is None:
        text = _("Expected Dice {e} ({a} to {b})")
    else:
        text = _("Expected Dice {e} ({a} to {b} in {n} of 100 cases)")
    numbers = {key: f"{value or 0.0:.2f}" for key, value in (("e", one.expected), ("a", one.low), ("b", one.high))}
    text = text.format(n=round(100 * (level or 0.0)), **numbers)
    return f"{text}. {score}"


def details(one: StructureTrust, level: float | None) -> str:
    """Plain text: all that is known of a structure, one thing a line."""
    odd = [_("Odd: {what}").format(what=text.rstrip(".")) + "." for text in one.broken]
    return "\n".join([expected_text(one, level) + ".", *odd, *([one.text] if one.text else [])])
