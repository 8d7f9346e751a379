"""One worker process and one run at a time, for the panel and for scripts."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Callable

import qt

from RAUSlicerLib import environment, preflight
from RAUSlicerLib.bank_entries import BankChoice
from RAUSlicerLib.case_inputs import CorrectedSlices
from RAUSlicerLib.environment import Launch
from RAUSlicerLib.errand import Answer, Errand, ErrandInputs
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.inputs import ReferenceNodes, SceneInputs, key_of, structures_of
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.qt_process import QtProcess, later
from RAUSlicerLib.run import Run, RunState
from RAUSlicerLib.settings import Choices
from RAUSlicerLib.surroundings import surroundings
from RAUSlicerLib.worker_client import WorkerClient
from RAUSlicerLib.writer import ResultWriter

KEEP_SECONDS = 600.0


class Session:
    """run, run_id: the last one. errand: the last request other than a run. keep_loaded: let the model stay in memory
    for ten minutes after a run. remote: how to start what hands runs to a server; None while none is chosen."""

    def __init__(self) -> None:
        self.client = WorkerClient(QtProcess, later)
        self.run: Run | None = None
        self.errand: Errand | None = None
        self._last: Run | Errand | None = None
        self.run_id = ""
        self.keep_loaded = True
        self.remote: Callable[[], Launch] | None = None

    def running(self) -> bool:
        return self.run is not None and not self.run.state.over

    def busy(self) -> bool:
        """Whether a run or an errand is under way."""
        return self.running() or (self.errand is not None and not self.errand.over)

    def cancel(self) -> None:
        """Stop what is under way."""
        if self.running() and self.run is not None:
            self.run.cancel()
        elif self.errand is not None and not self.errand.over:
            self.errand.cancel()

    @staticmethod
    def launch(python: str = "") -> Launch:
        """How the worker is started. Raises Problem when there is no Python for it."""
        return environment.launch(python, surroundings())

    def launch_of_run(self, python: str = "", bank: BankChoice | None = None) -> Launch:
        """How what computes a run is started: here, or for a server. Raises Problem."""
        if self.remote is not None and bank is not None:
            hint = _("Take the references from the scene, or compute on this computer")
            raise Problem(_("A server does not see the reference bank of this computer"), hint)
        return self.remote() if self.remote is not None else self.launch(python)

    def segment(
        self,
        references: Sequence[ReferenceNodes],
        target: Any,
        output: Any,
        choices: Choices,
        python: str = "",
        on_state: Callable[[RunState], None] = lambda state: None,
        on_made: Callable[[Any], None] = lambda node: None,
        bank: BankChoice | None = None,
        corrections: CorrectedSlices | None = None,
        clear: bool = False,
    ) -> Run:
        """Start a run. output: a segmentation node, or None for a new one, told to on_made. Raises Problem.

        bank: references that come from there, beside those of the scene. corrections: slices to start from. clear: the
        result leaves out what the user's own segments in output cover.
        """
        self._check_free()
        structures = structures_of(references, bank.offered if bank else ())
        names = {key_of(name) for name in choices.structures}
        wanted = [one for one in structures if choices.all or key_of(one.name) in names]
        preflight.check(references, target, wanted, output, bank=bank)
        launch = self.launch_of_run(python, bank)
        self.run_id = uuid.uuid4().hex
        inputs = SceneInputs(target, references, structures, choices.settings(), bank, corrections)
        writer = ResultWriter(target, output, wanted, self.run_id, on_made, clear)

        def follow(state: RunState) -> None:
            on_state(state)
            if state.over:
                later(KEEP_SECONDS if self.keep_loaded else 0.0, lambda: self._release(run))

        run = self._last = self.run = Run(inputs, writer, self.client, launch, later, follow)
        run.start()
        return run

    def ask(self, op: str, inputs: ErrandInputs, python: str, on_end: Callable[[Answer], None]) -> Errand:
        """Have the worker do something else than a run. Raises Problem: it is at work, there is no Python for it."""
        self._check_free()

        def end(answer: Answer) -> None:
            on_end(answer)
            later(KEEP_SECONDS if self.keep_loaded else 0.0, lambda: self._release(errand))

        errand = self._last = self.errand = Errand(op, inputs, self.client, self.launch(python), later, end)
        errand.start()
        return errand

    def _check_free(self) -> None:
        if self.busy():
            raise Problem(_("The model process is at work"), _("Wait for it, or cancel it"))

    def process(
        self,
        references: Sequence[ReferenceNodes],
        target: Any,
        output: Any = None,
        choices: Choices | None = None,
        python: str = "",
    ) -> Any:
        """Segment and wait for it with the event loop running; returns the segmentation node. Raises Problem."""
        loop, made = qt.QEventLoop(), [output]
        choices = choices or Choices(structures=(), all=True)

        def follow(state: RunState) -> None:
            if state.over:
                loop.quit()

        run = self.segment(references, target, output, choices, python, follow, made.append)
        while not run.state.over:
            (getattr(loop, "exec_", None) or loop.exec)()
        if run.state.phase != "done":
            raise run.state.problem or Problem(_("Cancelled"), kind="Cancelled")
        return made[-1]

    def abandon(self) -> None:
        """The scene goes away."""
        if self.run is not None:
            self.run.abandon()
        if self.errand is not None:
            self.errand.abandon()

    def close(self) -> None:
        """End run and worker; waits a moment for the process to go."""
        self.abandon()
        self.client.stop(wait=1.0)

    def _release(self, last: Run | Errand) -> None:
        """Let the worker go when nothing has happened since then."""
        if last is self._last and not self.busy():
            self.client.stop()
