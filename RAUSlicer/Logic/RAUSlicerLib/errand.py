"""One request to the worker other than a run: inputs written, asked, answered. Knows neither Qt nor MRML."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Protocol

from RAUSlicerLib.environment import Launch
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.protocol import Message
from RAUSlicerLib.stepping import step_through, unexpected
from RAUSlicerLib.worker_client import Later, WorkerClient


class ErrandInputs(Protocol):
    def write(self, folder: Path, job: int) -> Iterator[None]:
        """A generator whose steps are short. Raises Problem."""

    def message(self) -> Message:
        """The request, without op and job."""


@dataclass(frozen=True)
class Words:
    """A request without arrays."""

    content: Message = field(default_factory=dict)

    def write(self, folder: Path, job: int) -> Iterator[None]:
        return iter(())

    def message(self) -> Message:
        return self.content


@dataclass(frozen=True)
class Answer:
    """report: of the worker; empty when there is a problem. warnings: told on the way."""

    report: dict[str, Any] = field(default_factory=dict)
    problem: Problem | None = None
    warnings: tuple[str, ...] = ()


class Errand:
    """`on_end` is called once, with the Answer; after `abandon` never."""

    def __init__(
        self,
        op: str,
        inputs: ErrandInputs,
        client: WorkerClient,
        launch: Launch,
        later: Later,
        on_end: Callable[[Answer], None],
    ) -> None:
        self.op, self.inputs, self.client, self.launch = op, inputs, client, launch
        self.later, self.on_end = later, on_end
        self.over = False
        self.job = 0
        self.warnings: list[str] = []
        self._prepared = self._sent = False

    def start(self) -> None:
        self.client.listener = self._on_event
        self.client.ensure(self.launch)
        if self.over:  # the worker could not be started
            return
        assert self.client.folder is not None
        self.job = self.client.next_job()
        steps = self.inputs.write(self.client.folder, self.job)
        step_through(steps, self.later, lambda: not self.over, self._on_prepared, self._fail)

    def cancel(self) -> None:
        """Ends in an Answer with a problem of kind "Cancelled"."""
        if self._sent and self.client.state == "busy":
            self.client.cancel()
        else:
            self._fail(cancelled())

    def abandon(self) -> None:
        """The scene goes away: stop, without a word."""
        self.on_end = lambda answer: None
        self._end(Answer())

    def _on_prepared(self) -> None:
        self._prepared = True
        if self.client.state == "ready":
            self._submit()

    def _submit(self) -> None:
        self._sent = True
        self.client.submit(self.job, {"op": self.op, **self.inputs.message()})

    def _on_event(self, message: Message) -> None:
        if self.over:
            return
        event, job = message["event"], message.get("job")
        if event == "error" and job in (None, self.job):
            text = str(message.get("message") or _("The model process failed"))
            self._fail(Problem(text, str(message.get("hint") or ""), str(message.get("kind") or "Error")))
        elif job not in (None, self.job) and self.client.state == "stopped":
            self._fail(Problem(_("The model process had to be stopped"), _("Try again"), "WorkerEnded"))
        elif event == "warning" and job == self.job:
            self.warnings.append(str(message["message"]))
        elif event == "done" and job == self.job:
            self._end(Answer(dict(message["report"]), None, tuple(self.warnings)))
        elif event == "cancelled" and job == self.job:
            self._fail(cancelled())
        elif self.client.state == "ready" and self._prepared and not self._sent:
            self._submit()

    def _fail(self, problem: Problem) -> None:
        self._end(Answer({}, problem, tuple(self.warnings)))

    def _end(self, answer: Answer) -> None:
        if self.over:
            return
        self.over = True
        folder = self.client.folder
        for path in folder.glob(f"job{self.job}-*.npy") if folder is not None and self.job else ():
            with contextlib.suppress(OSError):
                path.unlink()
        try:
            self.on_end(answer)
        except Problem as problem:
            self.on_end(Answer({}, problem))
        except (KeyError, TypeError, ValueError) as error:  # an answer that is none
            self.on_end(Answer({}, unexpected(error)))


def cancelled() -> Problem:
    return Problem(_("Cancelled"), kind="Cancelled")
