"""One run, from the button to the written segments, as a state machine that knows neither Qt nor MRML."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Protocol

import numpy as np

from RAUSlicerLib.environment import Launch
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.protocol import Message
from RAUSlicerLib.stepping import step_through, unexpected
from RAUSlicerLib.worker_client import Later, WorkerClient

OVER = ("done", "cancelled", "failed")


@dataclass(frozen=True)
class RunState:
    """What the panel shows.

    phase: preparing, starting, loading, running, writing, cancelling, done, cancelled, failed. done of total: slices.
    seconds_left: None while unknown. report: `rau.results.SegmentResult.report()` once done.
    """

    phase: str
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    problem: Problem | None = None
    warnings: tuple[str, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def over(self) -> bool:
        return self.phase in OVER


class Inputs(Protocol):
    """Writes target and references into a folder, and says what was written."""

    def write(self, folder: Path, job: int) -> Iterator[None]:
        """A generator whose steps are short. Raises Problem."""

    def message(self) -> Message:
        """target, references and settings of a segment message."""

    def notes(self) -> Sequence[str]:
        """What the user should know of the inputs."""


class Output(Protocol):
    """Where the result goes. Touches the scene with the first slice, not before."""

    def show_slice(self, axis: int, index: int, labels: np.ndarray) -> None: ...

    def finish(self, labels: np.ndarray, report: dict[str, Any]) -> Iterator[None]:
        """A generator whose steps are short. Raises Problem."""

    def discard(self) -> None:
        """The scene as it was before the run."""


class Run:
    """Drives inputs, worker and output. `on_state` is called with every change; after `over` nothing more comes."""

    def __init__(
        self,
        inputs: Inputs,
        output: Output,
        client: WorkerClient,
        launch: Launch,
        later: Later,
        on_state: Callable[[RunState], None],
    ) -> None:
        self.inputs, self.output, self.client, self.launch = inputs, output, client, launch
        self.later, self.on_state = later, on_state
        self.state = RunState("preparing")
        self.job = 0
        self._steps: Iterator[None] | None = None
        self._prepared = False
        self._result: np.ndarray | None = None
        self._result_path = Path()
        self._began = self._first_slice = 0.0

    # -- what the user does
    def start(self) -> None:
        self._began = time.monotonic()
        self._enter("preparing")
        self.client.listener = self._on_event
        self.client.ensure(self.launch)
        if self.state.over:  # the worker could not be started
            return
        assert self.client.folder is not None
        self.job = self.client.next_job()
        self._result_path = self.client.folder / f"job{self.job}-result.npy"
        self._step_through(self.inputs.write(self.client.folder, self.job), self._on_prepared)

    def cancel(self) -> None:
        """The scene becomes what it was before the run."""
        if self.state.over or self.state.phase == "cancelling":
            return
        if self.client.state == "busy":
            self._steps = None
            self._enter("cancelling")
            self.client.cancel()
        else:
            self._end("cancelled")

    def abandon(self) -> None:
        """The scene goes away: stop, without a word to it."""
        if not self.state.over:
            self.client.cancel()
            self._end("cancelled")

    # -- short steps in the event loop
    def _step_through(self, steps: Iterator[None], then: Callable[[], None]) -> None:
        self._steps = steps

        def end() -> None:
            self._steps = None
            then()

        def wanted() -> bool:
            return self._steps is steps and not self.state.over

        step_through(steps, self.later, wanted, end, lambda problem: self._end("failed", problem))

    def _on_prepared(self) -> None:
        self._prepared = True
        self._note(self.inputs.notes())
        if self.client.state == "ready":
            self._submit()
        else:
            self._enter("starting")

    def _submit(self) -> None:
        self._enter("loading")
        self.client.submit(self.job, {**self.inputs.message(), "result": self._result_path.name})

    # -- what the worker says
    def _on_event(self, message: Message) -> None:
        if self.state.over or self._is_of_another_run(message):
            return
        try:
            getattr(self, "_on_" + message["event"], lambda message: None)(message)
        except Problem as problem:
            self._fail_job(problem)
        except Exception as error:
            self._fail_job(unexpected(error))

    def _is_of_another_run(self, message: Message) -> bool:
        """The last words of a run before this one: then the worker is free for this one, or had to be killed."""
        if message.get("job") in (None, self.job):
            return False
        if self.client.state == "stopped":
            text = _("The model process had to be stopped")
            self._end("failed", Problem(text, _("Run again"), "WorkerEnded"))
        elif self.client.state == "ready" and self._prepared:
            self._submit()
        return True

    def _fail_job(self, problem: Problem) -> None:
        self.client.cancel()
        self._end("failed", problem)

    def _on_ready(self, message: Message) -> None:
        if self._prepared:
            self._submit()

    def _on_stage(self, message: Message) -> None:
        if self.state.phase == "loading" and message["stage"] == "segment":
            self._first_slice = time.monotonic()
            self._enter("running")

    def _on_warning(self, message: Message) -> None:
        self._note([str(message["message"])])
        self.on_state(self.state)

    def _on_slice(self, message: Message) -> None:
        if self.state.phase == "cancelling":
            return
        done, total = int(message["done"]), int(message["total"])
        if message["has_labels"]:
            axis, index = int(message["axis"]), int(message["index"])
            self.output.show_slice(axis, index, np.array(np.moveaxis(self._open_result(), axis, 0)[index]))
        spent = time.monotonic() - (self._first_slice or self._began)
        left = spent / done * (total - done) if done >= 2 else None
        self._enter("running", done=done, total=total, seconds_left=left)

    def _on_done(self, message: Message) -> None:
        report = dict(message["report"])
        self._note(report.get("warnings", ()))
        if not any(one["present"] for one in report["structures"]):
            hint = _("Check that target and reference show the same region, or take a reference that is more alike")
            self._end("failed", Problem(_("None of the structures was found in the target"), hint, "NothingFoundError"))
            return
        self._enter("writing", seconds_left=None, report=report)
        self._step_through(self.output.finish(self._open_result(), report), lambda: self._end("done"))

    def _on_cancelled(self, message: Message) -> None:
        self._end("cancelled")

    def _on_error(self, message: Message) -> None:
        text, hint = str(message.get("message") or ""), str(message.get("hint") or "")
        problem = Problem(text or _("The model failed"), hint, str(message.get("kind") or "Error"))
        self._end("cancelled" if self.state.phase == "cancelling" else "failed", problem)

    # -- bookkeeping
    def _open_result(self) -> np.ndarray:
        if self._result is None:
            self._result = np.load(self._result_path, mmap_mode="r", allow_pickle=False)
        return self._result

    def _note(self, notes: Sequence[str]) -> None:
        new = tuple(note for note in notes if note not in self.state.warnings)
        self.state = replace(self.state, warnings=self.state.warnings + tuple(dict.fromkeys(new)))

    def _enter(self, phase: str, **changes: Any) -> None:
        self.state = replace(self.state, phase=phase, **changes)
        self.on_state(self.state)

    def _end(self, phase: str, problem: Problem | None = None) -> None:
        self._steps = None
        self._result = None
        if phase != "done":
            self.output.discard()
        folder = self.client.folder
        if folder is not None and self.job:
            for path in folder.glob(f"job{self.job}-*.npy"):
                with contextlib.suppress(OSError):
                    path.unlink()
        shown = problem if phase == "failed" else None
        self._enter(phase, problem=shown, seconds_left=None, seconds=time.monotonic() - self._began)
