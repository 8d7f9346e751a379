"""Step 8 of the way of the data: how far the result of a case can be trusted, and where to look first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rau.assembly.labels import PlaneVotes
from rau.quality.estimate import LEVEL, Estimate, estimates
from rau.quality.evidence import Reading, StructureEvidence, Witness, witness
from rau.quality.reverse import reverse_dice
from rau.quality.slices import SliceQuality, scored, to_review
from rau.volume.volume import LabelMap, Structure

if TYPE_CHECKING:
    from rau.adaptation.guide import Guide
    from rau.preparation import Case
    from rau.results import StructureResult
    from rau.settings import SegmentSettings
    from rau.vlm.reason import CaseCues

ABSENT = "absent"  # the light of a structure that was not found: whether it is there at all is not estimated


@dataclass(frozen=True)
class StructureQuality:
    """light: "green", "amber", "red" (`rau.quality.estimate`), or "absent" for what was not found: estimate is None.

    broken: the structural priors that do not hold, in words. evidence: what the estimate was made from.
    """

    structure: Structure
    estimate: Estimate | None = None
    broken: tuple[str, ...] = ()
    evidence: StructureEvidence | None = None

    @property
    def light(self) -> str:
        return ABSENT if self.estimate is None else self.estimate.light


@dataclass(frozen=True)
class Quality:
    """How far a result can be trusted. structures: all that were asked for.

    slices: every slice that shows one, across `axis`; review: those to look at, worst first. axis, and the indices of
    the slices: the target's own array.
    """

    structures: tuple[StructureQuality, ...]
    axis: int
    slices: tuple[SliceQuality, ...]
    review: tuple[SliceQuality, ...]
    seconds: float = 0.0

    @property
    def light(self) -> str:
        """The worst light of the structures found; "absent" where none was."""
        lights = {one.light for one in self.structures}
        return next((light for light in ("red", "amber", "green") if light in lights), ABSENT)

    def report(self) -> dict[str, Any]:
        """Ready for JSON."""
        names = {one.structure.value: one.structure.name for one in self.structures}

        def row(one: SliceQuality) -> dict[str, Any]:
            return {"index": one.index, "score": round(one.score, 4), "worst": names[one.worst]}

        return {
            "light": self.light,
            "level": LEVEL,
            "structures": [told(one) for one in self.structures],
            "axis": self.axis,
            "slices": [row(one) for one in self.slices],
            "review": [row(one) for one in self.review],
            "seconds": round(self.seconds, 3),
        }


def told(one: StructureQuality) -> dict[str, Any]:
    """A structure's row of the report."""
    known = {} if one.evidence is None else asdict(one.evidence)
    numbers = {name: round(v, 4) if isinstance(v, float) else v for name, v in known.items() if name != "value"}
    estimate = one.estimate
    return {
        "value": one.structure.value,
        "name": one.structure.name,
        "light": one.light,
        "expected_dice": None if estimate is None else round(estimate.expected, 4),
        "interval": None if estimate is None else [round(estimate.low, 4), round(estimate.high, 4)],
        "broken": list(one.broken),
        "evidence": numbers,
    }


def go_ahead() -> None:
    """Nobody cancels."""


def judge(
    case: Case,
    votes: Sequence[PlaneVotes],
    guide: Guide | None,
    cues: CaseCues | None,
    labels: LabelMap,
    results: Sequence[StructureResult],
    settings: SegmentSettings,
    go_on: Callable[[], None] = go_ahead,
) -> Quality:
    """How far `labels` and `results`, as `rau.pipeline.join` gives them, can be trusted.

    go_on is called between the steps, and raises to cancel. Changes nothing; raises ModelError when the coefficients of
    the package are damaged, and nothing else of its own.
    """
    start = time.perf_counter()
    known = gather(case, votes, guide, cues, labels, results, settings, go_on)
    expected = estimates(list(known.structures.values()))
    axis = case.planes[0].images.axis

    def own(several: Sequence[SliceQuality]) -> tuple[SliceQuality, ...]:
        return tuple(SliceQuality(case.place(axis, one.index)[1], one.score, one.worst) for one in several)

    structures = tuple(
        StructureQuality(
            one.structure,
            expected.get(one.structure.value),
            known.findings[one.structure.value].broken if one.structure.value in known.findings else (),
            known.structures.get(one.structure.value),
        )
        for one in results
    )
    slices = scored(known.slices)
    review = to_review(slices) if len(case.planes[0].images) > 1 else []
    own_axis = case.place(axis, 0)[0]
    return Quality(structures, own_axis, own(slices), own(review), time.perf_counter() - start)


def gather(
    case: Case,
    votes: Sequence[PlaneVotes],
    guide: Guide | None,
    cues: CaseCues | None,
    labels: LabelMap,
    results: Sequence[StructureResult],
    settings: SegmentSettings,
    go_on: Callable[[], None] = go_ahead,
) -> Witness:
    """All evidence of a finished case; arguments as of `judge`."""
    canonical = case.orientation.forth(labels.array)
    reverse = reverse_dice(case, canonical, settings.seed, go_on)
    reading = Reading(case, votes, guide, cues, canonical, settings.presence_threshold)
    return witness(reading, results, reverse, go_on)
