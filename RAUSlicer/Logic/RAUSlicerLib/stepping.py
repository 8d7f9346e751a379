"""Long work in the GUI's thread as short steps of the event loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable

from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.worker_client import Later


def step_through(
    steps: Iterator[None],
    later: Later,
    wanted: Callable[[], bool],
    then: Callable[[], None],
    failed: Callable[[Problem], None],
) -> None:
    """Run a generator, a step a turn of the loop, while `wanted`; `then` at its end, `failed` when it raises."""

    def step() -> None:
        if not wanted():
            return
        try:
            next(steps)
        except StopIteration:
            then()
        except Problem as problem:
            failed(problem)
        except Exception as error:
            failed(unexpected(error))
        else:
            later(0.0, step)

    later(0.0, step)


def unexpected(error: Exception) -> Problem:
    """An error that is ours: its type and no data."""
    name = type(error).__name__
    return Problem(
        _("Something unexpected went wrong") + f" ({name})", _("Please report what you did"), "InternalError"
    )
