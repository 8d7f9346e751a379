"""How far a run is, by steps or by the clock: learning rate, end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LOWEST = 0.03  # of the learning rate, at the end


@dataclass(frozen=True)
class Schedule:
    """rate: the highest learning rate. steps: in all. warmup: steps. cooldown: fraction of the run, at its end.

    seconds: training time of the run in all, which the fall of the rate then follows; 0: it follows the steps.
    """

    rate: float
    steps: int
    warmup: int
    cooldown: float
    seconds: float = 0.0

    def done(self, step: int, seconds: float) -> float:
        """Fraction of the run that is over, 0 to 1 and beyond."""
        by_steps = step / max(1, self.steps)
        return max(by_steps if step >= self.steps else 0.0, seconds / self.seconds) if self.seconds else by_steps

    def over(self, step: int, seconds: float) -> bool:
        return self.done(step, seconds) >= 1

    def at(self, step: int, seconds: float) -> float:
        """Learning rate after `step` steps and `seconds` seconds of training."""
        left = (1 - self.done(step, seconds)) / max(1e-9, self.cooldown)
        return self.rate * min(1.0, (step + 1) / max(1, self.warmup), LOWEST + (1 - LOWEST) * max(0.0, left))


class Clock:
    """Training time of a run, over several calls; validation is left out. now: seconds since whenever."""

    def __init__(self, path: Path, now: Callable[[], float] = time.perf_counter) -> None:
        self.path, self.now = path, now
        self.before = float(path.read_text()) if path.exists() else 0.0
        self.since: float | None = None

    @property
    def seconds(self) -> float:
        return self.before + (0.0 if self.since is None else self.now() - self.since)

    def stop(self) -> None:
        self.before, self.since = self.seconds, None
        self.path.write_text(f"{self.before:.1f}\n")

    def go(self) -> None:
        self.since = self.now()
