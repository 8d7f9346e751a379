"""How fast this machine is just now, so that a test may set a limit in milliseconds on any machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

STALL_MS = 250.0  # how long the panel may stand still, on a machine of usual speed
USUAL_MS = 3.5  # what `_work` takes on the machine where the limits of the tests were set


def cpu_ms(step: Callable[[], Any]) -> float:
    """CPU time of this thread for one call, in milliseconds: other processes do not count."""
    begin = time.thread_time()
    step()
    return 1e3 * (time.thread_time() - begin)


def _work() -> None:
    total = 0
    for i in range(50_000):
        total += i * i % 7


def slowness() -> float:
    """How many times slower than usual this machine is now, at least 1: a shared or an older processor. Takes about
    0.1 s."""
    return max(1.0, statistics.median(cpu_ms(_work) for _ in range(25)) / USUAL_MS)
