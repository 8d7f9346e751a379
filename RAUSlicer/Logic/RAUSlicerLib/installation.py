"""Set-up of the worker's own environment, as a state machine that knows neither Qt nor MRML.

`look` finds out what would be done, without a download; the user reads it, and `start` does it, one child process
after the other; `cancel` and `remove` leave nothing behind. What a failure leaves is gone on with by the next `start`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from RAUSlicerLib import installation_system as system
from RAUSlicerLib.environment import MARK, Launch, made_environment, root_folder
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.installation_files import deletion, digest, last_json, write_mark
from RAUSlicerLib.installation_output import Output, problem_of
from RAUSlicerLib.installation_pins import REQUIREMENTS
from RAUSlicerLib.installation_plan import WEIGHTS, Options, Plan, Step, make_plan
from RAUSlicerLib.installation_system import Gpu, Python
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.stepping import step_through
from RAUSlicerLib.worker_client import Later, Process

QUIET = ("none", "half", "made", "asking", "failed")  # phases in which nothing is under way
PROBE_SECONDS = 30.0


@dataclass(frozen=True)
class SetupState:
    """phase: none, half (an earlier one was broken off), made; looking, asking (the plan is to be read); making,
    tools, torch, packages, checking; removing; failed. text: what is done just now. done: 0 to 1."""

    phase: str
    text: str = ""
    done: float = 0.0
    plan: Plan | None = None
    problem: Problem | None = None
    made: Mapping[str, Any] | None = None

    @property
    def busy(self) -> bool:
        return self.phase not in QUIET


class Installation:
    """base: the variables to start from. slicer_home: Slicer's own folder; empty without one."""

    def __init__(
        self,
        make_process: Callable[[], Process],
        later: Later,
        base: Callable[[], Mapping[str, str]],
        slicer_home: str = "",
        on_state: Callable[[SetupState], None] = lambda state: None,
    ) -> None:
        self.make_process, self.later, self.base, self.slicer_home = make_process, later, base, slicer_home
        self.on_state = on_state
        self.root = root_folder(base())
        self.gpu: Gpu | None = None
        self._process: Process | None = None
        self._waiting: list[str] = []  # programs that may be a Python, not asked yet
        self._steps: Iterator[Step] = iter(())
        self._own: dict[str, str] = {}
        self._lines: list[str] = []
        self.state = self._settled()

    # -- what the user does
    def look(self, options: Options) -> None:
        """Find out what there is; ends in "asking" or "failed". Starts some small processes, downloads nothing."""
        if self.state.busy:
            return
        self.gpu = None
        self._enter("looking", _("Looking for Python and graphics card"))
        variables = system.clean(self.base())
        self._waiting = system.candidates(self.slicer_home, variables)

        def graphics(status: int | None, output: bytes) -> None:
            self.gpu = system.gpu_from(output.decode("utf-8", "replace")) if status == 0 else None
            self._next_python(lambda python: self._ask(python, options))

        ask = system.gpu_launch(variables)
        if ask is not None:
            self._run(ask, graphics)
        else:
            graphics(None, b"")

    def start(self) -> None:
        """Do what the plan says. Only after `look`, when the user has read it."""
        plan = self.state.plan
        if self.state.phase != "asking" or plan is None:
            return
        try:
            plan.check_room()
            system.check_writable(self.root)
            system.claim(self.root)
            for name in ("temporary", "cache"):
                (self.root / name).mkdir(exist_ok=True)
            fresh = (self.root / MARK).is_file()
            (self.root / MARK).unlink(missing_ok=True)
        except Problem as problem:
            self._fail(problem)
            return
        except OSError as error:
            self._fail(problem_of([str(error)], True, "making"))
            return
        self._enter("making", _("Making the environment"), plan=plan, done=0.0)
        if fresh:  # a repair begins anew
            self._delete([plan.folder], lambda: self._make(plan))
        else:
            self._make(plan)

    def cancel(self) -> None:
        """Stop what is under way; what a set-up has made so far goes."""
        if self.state.phase == "asking":
            self._enter_settled()
        elif self.state.busy and self.state.phase != "removing":
            looking = self.state.phase == "looking"
            self._stop()
            if looking:
                self._enter_settled()
            else:
                self.remove()

    def remove(self) -> None:
        """Delete the environment, whole or half, in short steps."""
        self._stop()
        self._enter("removing", _("Removing the environment"))
        self._delete([self.root], self._enter_settled)

    def close(self) -> None:
        """The application quits: what is half made stays, to be gone on with."""
        if self._process is not None:
            self._stop()
            system.release(self.root)

    # -- steps
    def _next_python(self, then: Callable[[Python], None]) -> None:
        """Ask the programs one after the other; go on with the first that will do."""
        if not self._waiting:
            self._fail(system.no_python())
            return
        program = self._waiting.pop(0)

        def found(status: int | None, output: bytes) -> None:
            python = system.python_from(program, last_json(output)) if status == 0 else None
            then(python) if python is not None else self._next_python(then)

        self._run(system.helper(program, ("probe",), system.clean(self.base())), found)

    def _ask(self, python: Python, options: Options) -> None:
        try:
            plan = make_plan(self.root, python, self.gpu, options, self.base(), sys.platform)
            plan.check_room()
        except Problem as problem:
            self._fail(problem)
            return
        self._enter("asking", plan=plan)

    def _make(self, plan: Plan) -> None:
        def made(status: int | None, output: bytes) -> None:
            told = last_json(output)
            if status == 0 and told:
                self._own = {str(k): str(v) for k, v in told["variables"].items()}
                self._steps = plan.steps(str(told["pip"]), self._own)
                self._next(plan)
                return
            problem = problem_of(self._lines, plan.wheels is not None, "making")
            if self._waiting and problem.kind == "InputError":  # this Python cannot, another one may

                def again() -> None:
                    self._next_python(lambda python: self._make(replace(plan, python=python)))

                self._delete([plan.folder], again)
            else:
                self._fail(problem)

        self._run(plan.make_step().launch, made)

    def _next(self, plan: Plan) -> None:
        try:
            step = next(self._steps)
        except OSError as error:
            self._fail(problem_of([str(error)], True, "making"))
            return
        texts = {
            "tools": _("Getting the tools for the installation"),
            "torch": _("Getting PyTorch"),
            "packages": _("Getting the packages"),
            "checking": _("Checking the environment"),
        }
        output = Output(step.packages)
        self._enter(step.phase, texts[step.phase], done=share_before(step.phase))

        def news() -> None:
            done = share_before(step.phase) + WEIGHTS[step.phase] * output.done
            self._enter(step.phase, output.text or texts[step.phase], done=max(done, self.state.done))

        def ended(status: int | None, told: bytes) -> None:
            if status != 0:
                self._fail(problem_of(self._lines, plan.wheels is not None, step.phase))
            elif step.phase == "checking":
                self._finish(plan, last_json(told))
            else:
                self._next(plan)

        self._run(step.launch, ended, output, news)

    def _finish(self, plan: Plan, told: Mapping[str, Any]) -> None:
        mark = {
            "format": 1,
            "program": str(plan.program),
            "variables": self._own,
            "build": plan.build,
            "device": told.get("device", ""),
            "versions": told.get("versions", {}),
            "bytes": told.get("bytes", 0),
            "pins": digest(REQUIREMENTS) if plan.requirements == REQUIREMENTS else "",
        }

        def write() -> None:
            try:
                write_mark(self.root / MARK, mark)
            except OSError as error:
                self._fail(problem_of([str(error)], True, "making"))
                return
            system.release(self.root)
            self._enter_settled()

        self._delete([self.root / "cache", self.root / "temporary"], write)

    # -- processes
    def _run(
        self,
        launch: Launch,
        ended: Callable[[int | None, bytes], None],
        output: Output | None = None,
        news: Callable[[], None] = lambda: None,
    ) -> None:
        process = self._process = self.make_process()
        follow, collected = output or Output(0), bytearray()

        def take(data: bytes, stream: str) -> None:
            if stream == "out":
                collected.extend(data)
                del collected[: -(1 << 16)]
            if follow.feed(data, stream) and self._process is process:
                news()

        def finished(status: int | None) -> None:
            if self._process is process:
                self._process = None
                follow.feed(b"\n", "out")
                follow.feed(b"\n", "error")
                self._lines = list(follow.lines)
                ended(status, bytes(collected))

        process.on_output = lambda data: take(data, "out")
        process.on_error_text = lambda data: take(data, "error")
        process.on_finished = finished
        process.start(launch)
        process.close_input()
        if self.state.phase == "looking":
            self.later(PROBE_SECONDS, lambda: self._too_long(process))

    def _too_long(self, process: Process) -> None:
        if self._process is process and self.state.phase == "looking":
            process.kill_tree()

    def _stop(self) -> None:
        process, self._process = self._process, None
        self._steps = iter(())
        if process is not None:
            process.on_finished = lambda status: None
            process.kill_tree()
            process.wait(2.0)

    # -- files
    def _delete(self, places: list[Path], then: Callable[[], None]) -> None:
        """Delete folders in short steps; a failure is told."""
        phase = self.state.phase
        wanted = lambda: self.state.phase == phase  # noqa: E731
        step_through(deletion(places), self.later, wanted, then, self._fail)

    # -- states
    def _settled(self) -> SetupState:
        made = made_environment(self.root)
        phase = "made" if made is not None else "half" if (self.root / "python").is_dir() else "none"
        return SetupState(phase, made=made)

    def _enter_settled(self) -> None:
        self.state = self._settled()
        self.on_state(self.state)

    def _enter(self, phase: str, text: str = "", **changes: Any) -> None:
        self.state = replace(self.state, phase=phase, text=text, problem=None, **changes)
        self.on_state(self.state)

    def _fail(self, problem: Problem) -> None:
        self._stop()
        if self.root.is_dir():
            system.release(self.root)
        self.state = replace(self._settled(), phase="failed", problem=problem)
        self.on_state(self.state)


def share_before(phase: str) -> float:
    """Of the whole set-up, what lies before a phase."""
    order = list(WEIGHTS)
    return sum(WEIGHTS[one] for one in order[: order.index(phase)])
