"""Facts and prose of all structures of a label map: what `rau describe` prints and a report carries."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from rau.description.facts import Facts, rounded
from rau.description.prose import prose
from rau.volume.volume import LabelMap, Volume


@dataclass(frozen=True)
class Description:
    """One structure, measured and in words. score: what the pipeline gave it, 0 to 1, None where it did not."""

    facts: Facts
    score: float | None
    text: str

    def as_json(self) -> dict[str, Any]:
        """{"facts", "score", "text"}, ready for JSON."""
        return {"facts": self.facts.as_json(), "score": rounded(self.score), "text": self.text}


def describe(
    image: Volume | None,
    labels: LabelMap,
    scores: Mapping[int, float] | None = None,
    only: Collection[int] | None = None,
) -> tuple[Description, ...]:
    """A description of every structure that has a voxel, in the order of the label values; the same every time.

    image: on the grid of `labels`; None leaves out what needs intensities. scores: by label value. only: these label
    values alone. The time is that of some passes over the image and over each structure's bounding box, whatever the
    masks look like. Raises InputError where image and label map lie on different grids.
    """
    from rau.description.measuring import measure

    known = scores or {}
    found = []
    for facts in measure(image, labels, only):
        score = known.get(facts.value)
        found.append(Description(facts, score, prose(facts, score)))
    return tuple(found)
