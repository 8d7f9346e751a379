"""Progress: the stream of typed events of a run, the same for a terminal bar, the panel and a test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Union

import numpy as np


@dataclass(frozen=True)
class StageEvent:
    """A step of the pipeline begins.

    "read", "retrieve", "register", "adapt", "reason", "segment", "look", "assemble", "judge", "export".
    """

    stage: str
    message: str = ""


@dataclass(frozen=True)
class SliceEvent:
    """One slice of the target is ready: `done` of `total` slices.

    index: index along `axis` of the *target's own* array (0 slice, 1 row, 2 column).
    labels: (rows, columns) of the plane across `axis`, label values of the reference: a preview, the final label map
    may differ after assembly. None where only progress is known.
    score: mean predicted IoU of the structures present, 0 to 1. milliseconds: time spent on this slice.
    """

    done: int
    total: int
    index: int
    axis: int = 0
    labels: np.ndarray | None = field(default=None, compare=False, repr=False)
    score: float = 0.0
    milliseconds: float = 0.0


@dataclass(frozen=True)
class WarningEvent:
    """Something the user should know: one line."""

    message: str


Event = Union[StageEvent, SliceEvent, WarningEvent]
OnEvent = Callable[[Event], None]
ShouldStop = Callable[[], bool]


def ignore(event: Event) -> None:
    """An OnEvent that does nothing."""


def never() -> bool:
    """A ShouldStop that never stops."""
    return False
