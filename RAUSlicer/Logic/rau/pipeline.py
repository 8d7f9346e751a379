"""The way of the data, readable in one screen: volume, references, segmenter, assembly, result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rau.events import OnEvent, ShouldStop, ignore, never
from rau.references.reference import Reference
from rau.results import SegmentResult
from rau.settings import SegmentSettings
from rau.volume.volume import Volume

if TYPE_CHECKING:
    from rau.models.engine import Engine


def segment(
    references: Sequence[Reference],
    target: Volume,
    settings: SegmentSettings | None = None,
    *,
    engine: Engine | None = None,
    on_event: OnEvent = ignore,
    should_stop: ShouldStop = never,
) -> SegmentResult:
    """Segment `target` from `references`; the label map comes back on the target's own grid.

    engine: loaded models (`rau.models.engine.load_engine(settings)`); None loads them now. should_stop is asked between
    slices. Raises InputError, ModelError, Cancelled; a run that finds nothing returns a result with `found` False.
    """
    raise NotImplementedError
