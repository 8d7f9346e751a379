"""Events to a person: a bar on a terminal, plain lines elsewhere; both on stderr."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from rau.events import Event, SliceEvent, StageEvent, WarningEvent

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

STAGES = {
    "read": "preparing",
    "retrieve": "looking for like slices",
    "register": "laying the references onto the target",
    "adapt": "learning from the references",
    "reason": "asking where each structure lies",
    "segment": "segmenting",
    "look": "looking closer at small structures",
    "assemble": "assembling",
    "judge": "judging the result",
    "export": "writing",
}


class Reporter:
    """`with Reporter() as tell: segment(..., on_event=tell)`."""

    def __init__(self, terminal: bool | None = None) -> None:
        self.terminal = sys.stderr.isatty() if terminal is None else terminal
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self._told = 0

    def __enter__(self) -> Reporter:
        if self.terminal:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task(STAGES["read"], total=None)
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, event: Event) -> None:
        if isinstance(event, WarningEvent):
            self._line(f"warning: {event.message}")
        elif isinstance(event, StageEvent):
            self._stage(event.message or STAGES.get(event.stage, event.stage))
        else:
            self._slice(event)

    def _stage(self, words: str) -> None:
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, description=words)
        else:
            self._line(words)

    def _slice(self, event: SliceEvent) -> None:
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=event.done, total=event.total)
            return
        tenth = 10 * event.done // max(1, event.total)
        if tenth > self._told:
            self._told = tenth
            self._line(f"slice {event.done} of {event.total}")

    def _line(self, text: str) -> None:
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)
